"""Classification networks of torchvision up to their last layer, as students and teachers."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone, Wrapped, with_outputs
from relgraph.networks.files import load_strictly
from relgraph.networks.sources import (
    Arguments,
    Listed,
    Preparation,
    Pretrained,
    TeacherSource,
    built_for,
    unknown_model,
)
from relgraph.networks.weights import converting, from_url, read_weights, tell_background

SIZE = 224  # what torchvision's models are made for
# Heads that only the training used; a file may hold them.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# Older names of layers: DenseNet's are from before the rule against dots.
OLDER_DENSENET, OLDER_VIT = r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\.mlp\.linear_([12])\."


class BeforeLastLayer(Wrapped):
    """A model of torchvision up to the input of its last layer, `(N, C, H, W) -> (N, width)`.

    That is 2048 values of a ResNet-50, the class token of a ViT, the 4096 values of VGG's second hidden layer; for
    SqueezeNet, which classifies with a convolution, the mean of its features over the image. The stage maps are the
    last one of each resolution before the pooling. ViT and Swin, which compute no maps of `(N, C, H, W)`, have none
    here; those of timm do.

    Attributes:
        classifier: The name of the layer that was removed.
    """

    def __init__(self, model: nn.Module, in_channels: int, image_size: int) -> None:
        super().__init__(model)
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        self.classifier = (linear or convolutions)[-1]  # SqueezeNet classifies by a convolution
        _replace(model, self.classifier, nn.Identity())
        adapt_first(model, in_channels)
        self.input_shape = (in_channels, image_size, image_size)

    @cached_property
    @torch.no_grad()
    def map_names(self) -> tuple[str, ...]:
        """The parts that give the last map of each resolution before the pooling, in order; none of ViT and Swin.

        They are found at the first use, since a network that gives embeddings alone skips that: one image passes
        through the model, which is left in evaluation mode.
        """
        from torchvision.models import SwinTransformer, VisionTransformer

        if isinstance(self.model, SwinTransformer | VisionTransformer):
            return ()
        image = torch.zeros(1, *self.input_shape, device=next(self.model.parameters()).device)
        outputs, _ = with_outputs(self.model.eval(), list(_parts(self.model)), image)
        last: dict[torch.Size, str] = {}
        for name, output in outputs.items():
            # The classifier begins: SqueezeNet's drops values of the maps themselves.
            if output.ndim != 4 or isinstance(self.model.get_submodule(name), nn.AdaptiveAvgPool2d | nn.Dropout):
                break
            last[output.shape[2:]] = name
        return tuple(last.values())

    def own_stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the last map of each resolution before the pooling, and the pooled vector."""
        outputs, pooled = with_outputs(self.model, self.map_names, images)
        return tuple(outputs[name] for name in self.map_names), pooled

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        pooled: Tensor = self.model(images)
        return pooled


@dataclass(frozen=True)
class TorchvisionSource(TeacherSource):
    """A classification model of torchvision by its name and the tag of its weights, which a student may be without."""

    name: str
    tag: str = ""

    @staticmethod
    def names() -> list[str]:
        """Return the names of the models of its kind."""
        return torchvision_names()

    @property
    def published(self) -> bool:
        """Whether the name says published weights."""
        return self.tag != ""

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return an untrained model for square images of a size, 224 if none is given.

        GoogLeNet and Inception come without their auxiliary classifiers; of published weights they scale the images as
        these were trained. For other than three channels, the first convolution is another one, which begins as
        PyTorch's do.

        Raises:
            RelgraphError: for an unknown name, or a size that the model cannot read.
        """
        size = image_size or SIZE
        with built_for("torchvision", self.name, torchvision_names(), in_channels, size):
            network = BeforeLastLayer(_built(self.name, self.arguments(size)), in_channels, size)
            return network.measured(in_channels, size)

    def arguments(self, size: int) -> dict[str, Any]:
        """Return what torchvision's `get_model` takes, besides the name, for images of a size."""
        return _arguments(self.name, size, init_weights=True, transform_input=self.published)

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return a model as `build` makes it, with the weights of its tag or of a file.

        Raises:
            RelgraphError: as `build` and `load`, and for published weights if the images have not three channels.
        """
        published = published_weights(self.name, self.tag, self.names())
        if weights is None and in_channels != 3:
            told = f"{self._spec} starts from weights for images of 3 channels, got {in_channels}"
            raise RelgraphError(f"{told}: timm's adapt their first convolution, or give --student-weights FILE")
        backbone = self.build(in_channels, image_size)
        assert isinstance(backbone, BeforeLastLayer)
        _load(backbone, weights or self._fetch(published))
        return backbone

    def preparation(self) -> Preparation:
        """Return mean and standard deviation of the images on which the weights were trained."""
        found = published_weights(self.name, self.tag, self.names()).transforms()
        return tuple(found.mean), tuple(found.std)

    @property
    def _spec(self) -> str:
        return f"torchvision:{self.name}/{self.tag}".removesuffix("/")

    def _fetch(self, published: Any) -> Path:
        """Return the file of published weights, as torch keeps it."""
        return from_url(self._spec, published.url, partial(_download, published.url))

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return a model with the weights of its tag, without one the best that torchvision has (its `DEFAULT`).

        With a file, the tag only determines how its images were prepared, and nothing is downloaded; a downloaded file
        is read as one that was passed. The classifier in it is skipped, whatever its size.

        Raises:
            RelgraphError: if a name is unknown or the weights cannot be had, read, or do not match.
        """
        published = published_weights(self.name, self.tag, self.names())
        preparation = published.transforms()
        side = int(preparation.crop_size[0])
        size = input_size or side
        weights = weights or self._fetch(published)
        with built_for("torchvision", self.name, torchvision_names(), 3, size):
            # As torchvision builds GoogLeNet and Inception for its weights, less the auxiliary heads.
            model = _built(self.name, _arguments(self.name, size, init_weights=False, transform_input=True)).eval()
            network = BeforeLastLayer(model, 3, size)
        _load(network, weights)
        return Pretrained(network, side, 3, tuple(preparation.mean), tuple(preparation.std))


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def list_torchvision() -> list[Listed]:
    """Return the weights that torchvision publishes for classification."""
    return [
        Listed("torchvision", f"{name}/{w.name}", int(w.transforms().crop_size[0]), w.meta.get("_file_size"), w.url)
        for name in torchvision_names()
        for w in _choices(name)
    ]


def _choices(name: str) -> list[Any]:
    """Return the weights of an architecture, without those of VGG-16 that lack a classifier: no layer reads them."""
    from torchvision.models import get_model_weights

    return [weights for weights in get_model_weights(name) if weights.meta["categories"]]


def published_weights(name: str, tag: str, known: Sequence[str]) -> Any:
    """Return the weights of a tag, the best ones without a tag, of one of the `known` models.

    Raises:
        RelgraphError: for an unknown name or tag.
    """
    from torchvision.models import get_model_weights

    if name not in known:
        raise unknown_model("torchvision model", name, known)
    if tag in ("", "DEFAULT"):
        return get_model_weights(name).DEFAULT
    choices = {weights.name: weights for weights in _choices(name)}
    if tag not in choices:
        raise unknown_model(f"weights of torchvision:{name}/WEIGHTS", tag, choices)
    return choices[tag]


def _download(url: str, path: Path) -> Path:
    """Return the file that torch downloads and keeps."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = re.search(r"-([0-9a-f]{8,})\.", path.name)  # of the SHA-256, which torchvision writes into the name
        torch.hub.download_url_to_file(url, str(path), start and start[1])
    return path


def _built(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def _arguments(name: str, size: int, **inception: bool) -> dict[str, Any]:
    """Return what torchvision takes for images of a size; `inception` is for GoogLeNet and Inception."""
    if name in {"googlenet", "inception_v3"}:
        return {"aux_logits": False, **inception}  # without `init_weights` torchvision warns of its default
    if name.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if name.startswith("maxvit") else {}


def adapt_first(model: nn.Module, in_channels: int) -> None:
    """Put a new first convolution into a model that reads images of other channels."""
    name, conv = next((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    if conv.in_channels != in_channels:
        new: Any = nn.Conv2d
        sizes = (conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
        _replace(model, name, new(in_channels, *sizes, bias=conv.bias is not None))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _parts(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the names of the parts between which a network passes maps: residual blocks, single layers."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _load(network: BeforeLastLayer, path: Path) -> None:
    """Load the weights of a file but for its classifier, with what older files name otherwise or lack."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    model, tensors = network.model, read_weights(path)
    state = {name: count for name, count in model.state_dict().items() if name.endswith("num_batches_tracked")}
    tell_background(path, [tensors.get(f"{network.classifier}.weight")], "timm:tf_NAME --teacher-args num_classes=1001")
    for name, value in tensors.items():
        if not name.startswith((f"{network.classifier}.", *AUXILIARY)):
            name = re.sub(OLDER_DENSENET, r"\1\2", name)
            state[re.sub(OLDER_VIT, lambda number: f".mlp.{3 * int(number[1]) - 3}.", name)] = value
    if isinstance(model, VisionTransformer) and "encoder.pos_embedding" in state:  # for images of another size
        with converting(path):
            state = interpolate_embeddings(network.input_shape[1], model.patch_size, OrderedDict(state))
    load_strictly(model, state, path)
