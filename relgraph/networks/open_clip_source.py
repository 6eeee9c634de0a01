"""Teachers of open_clip: the image side of a CLIP."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import load_strictly
from relgraph.networks.sources import Arguments, Listed, Pretrained, TeacherSource, unknown_model
from relgraph.networks.weights import converting, from_hub, read_weights, silent, tell_activation

# The smallest text side that open_clip builds: it is discarded, and the published ones would cost time and memory,
# those of other libraries a download as well.
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


class ImageTower(Backbone):
    """The image side of a CLIP: it computes the CLIP's `encode_image`.

    The stage maps are those of open_clip's `forward_intermediates`: of a ResNet its stem (behind the pooling) and its
    four layers; of a vision transformer the tokens of each block, laid out as an image and without class token; of a
    network that open_clip takes from timm the maps that timm returns, none where an older timm has no
    `forward_intermediates` for it.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps and the embeddings."""
        trunk = getattr(self.visual, "trunk", self.visual)  # the network of timm that open_clip calls in its turn
        if not hasattr(trunk, "forward_intermediates"):
            return (), self(images)
        outputs = self.visual.forward_intermediates(images)
        return tuple(outputs["image_intermediates"]), outputs["image_features"]

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings `(N, width)` of `(N, 3, H, W)`, not normalised."""
        embedding: Tensor | tuple[Tensor, ...] = self.visual(images)
        return embedding[0] if isinstance(embedding, tuple) else embedding  # CoCa returns its tokens as well


@dataclass(frozen=True)
class OpenClipSource(TeacherSource):
    """The image side of a CLIP by its architecture and the tag of its weights; a teacher has no text side."""

    name: str
    tag: str = ""

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the image side with the weights of its tag, or of a file.

        With a file, the tag only determines how they were trained (`openai`: with QuickGELU), and nothing is
        downloaded; a downloaded file is read as one that was passed.

        Raises:
            RelgraphError: if a name is unknown or the weights cannot be had, read, or do not match.
        """
        import open_clip

        config = _config(self.name, self.tag, needed=weights is None)
        weights = self._file(config) if weights is None else weights
        model = self._model(config, force_image_size=input_size, text_cfg=dict(NO_TEXT))
        if not self.tag and any(isinstance(module, nn.GELU) for module in model.visual.modules()):
            _tell_of_quick_gelu(self.name, weights)
        tensors = read_weights(weights)
        with converting(weights):
            tensors = open_clip.convert.convert_state_dict(model, tensors)  # of other names, as MobileCLIP's
            open_clip.model.resize_pos_embed(tensors, model)  # for images of another size
        tower = {key.removeprefix("visual."): value for key, value in tensors.items() if key.startswith("visual.")}
        if not tower:
            raise RelgraphError(f"{weights} is not of an open_clip model: expected keys visual.*, found none")
        load_strictly(model.visual, tower, weights)
        preparation = {**model.visual.preprocess_cfg, **config}
        size = preparation["size"]
        side = size if isinstance(size, int) else size[-1]
        return Pretrained(ImageTower(model.visual), side, 3, preparation["mean"], preparation["std"])

    def class_vectors(self, weights: Path | None, classes: Sequence[str]) -> Tensor:
        """Return a vector of unit length of each class by the text side, `(C, width)`, as open_clip's zero-shot has it.

        The mean over open_clip's 80 prompts for ImageNet ("a photo of a {}." and others) of the unit vectors of the
        class in each. Weights are those of `load`.

        Raises:
            RelgraphError: if the weights cannot be had or read, or have no text side, or the tokenizer cannot be had.
        """
        import open_clip

        config = _config(self.name, self.tag, needed=weights is None)
        weights = self._file(config) if weights is None else weights
        model, tensors = self._model(config), read_weights(weights)
        with converting(weights):
            tensors = open_clip.convert.convert_state_dict(model, tensors)
        state = model.state_dict()
        text = [name for name in state if not name.startswith(("visual.", "logit_"))]
        for name in text:
            if name not in tensors or tensors[name].shape != state[name].shape:
                told = "expected the weights of both sides of the CLIP"
                raise RelgraphError(f"{weights} has no text side of open_clip:{self.name}: {told}, {name} is not there")
        model.load_state_dict({name: tensors[name] for name in text}, strict=False)
        try:
            tokenizer = open_clip.get_tokenizer(self.name)
        except Exception as error:  # those of other libraries are downloads
            raise RelgraphError(f"the tokenizer of open_clip:{self.name} cannot be had: {first_line(error)}") from error
        prompts = open_clip.OPENAI_IMAGENET_TEMPLATES
        found: Tensor = open_clip.build_zero_shot_classifier(model.eval(), tokenizer, list(classes), prompts)
        return found.T.float()

    def _file(self, config: dict[str, Any]) -> Path:
        """Return the file with the weights of the tag, downloaded if it is not in the cache."""
        import open_clip

        repository, file = os.path.split(config["hf_hub"])  # without a file where it has the usual name
        file = file or "open_clip_model.safetensors (or open_clip_pytorch_model.bin)"
        download = partial(open_clip.download_pretrained, config)
        return Path(from_hub(f"open_clip:{self.name}/{self.tag}", repository, file, download))

    def _model(self, config: dict[str, Any], **settings: Any) -> Any:
        """Return the network with random weights."""
        import open_clip

        settings["force_quick_gelu"] = bool(config.get("quick_gelu"))
        try:
            with silent():  # it warns that the weights are random
                return open_clip.create_model(self.name, **settings)
        except Exception as error:  # it differs between networks
            told = f"cannot be built for images of {settings.get('force_image_size') or 'its own'} pixels"
            raise RelgraphError(f"open_clip:{self.name} {told}: {first_line(error)}") from error


def list_open_clip() -> list[Listed]:
    """Return the weights that open_clip publishes."""
    import open_clip

    listed = []
    for architecture, tag in open_clip.list_pretrained():
        size = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
        repository, _ = os.path.split(open_clip.get_pretrained_cfg(architecture, tag)["hf_hub"])
        page = f"https://huggingface.co/{repository}"
        listed.append(Listed("open_clip", f"{architecture}/{tag}", size, None, page))
    return listed


def _tell_of_quick_gelu(name: str, path: Path) -> None:
    """Say that a file may be of a network with another activation, where open_clip lists weights for both."""
    import open_clip

    tags = [tag for model, tag in open_clip.list_pretrained() if model == name]
    if any(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu") for tag in tags):
        tell_activation(path, f"open_clip:{name}", f"open_clip:{name}/WEIGHTS or open_clip:{name}-quickgelu")


def _config(name: str, tag: str, needed: bool) -> dict[str, Any]:
    """Return open_clip's configuration of weights: where they are, their activation, mean and std."""
    import open_clip

    if name not in open_clip.list_models():
        raise unknown_model("open_clip model", name, open_clip.list_models())
    if not tag and not needed:
        return {}
    tags = [known for model, known in open_clip.list_pretrained() if model == name]
    if tag not in tags:
        raise unknown_model(f"weights of open_clip:{name}/WEIGHTS", tag, tags)
    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    return config
