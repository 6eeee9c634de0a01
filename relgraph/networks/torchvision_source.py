"""Teachers of torchvision: its networks for classification, up to the classifier."""

import re
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.sources import Listed, Source, no_model
from relgraph.networks.torchvision_students import last_of_each_resolution, maps_and_vector
from relgraph.networks.weights import from_url, read_weights

# Heads that only the training used; a file may hold them.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class LastMaps:
    """The stages of a network: its last map of each resolution before the pooling, and its embedding.

    Where in the network those maps are is found at the first use, with an image of zeros of its own size: a network
    whose embeddings alone are used skips this search.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        self.network, self.size = network, size

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parts of the network that give the maps."""
        device = next(self.network.parameters()).device
        return last_of_each_resolution(self.network, torch.zeros(1, 3, self.size, self.size, device=device))

    def __call__(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps and the embeddings."""
        return maps_and_vector(self.network, self.names, images)


def from_torchvision(name: str, weights: Path | None, input_size: int | None) -> Source:
    """Build a network from `NAME[/WEIGHTS]`, without WEIGHTS the best that torchvision has (its `DEFAULT`).

    The embedding is the input of the classifier's last layer: 2048 values of a ResNet-50, the class token of a ViT, the
    4096 values of VGG's second hidden layer; for SqueezeNet, which classifies with a convolution, the mean of its
    features over the image. With a file, WEIGHTS only determines how its images were prepared, and nothing is
    downloaded; a downloaded file is read as one that was passed. The classifier in it is skipped, whatever its size.

    Raises:
        RelgraphError: if a name is unknown or the weights cannot be had, read, or do not match.
    """
    architecture, _, tag = name.partition("/")
    published = _weights(architecture, tag or "DEFAULT")
    preparation = published.transforms()
    size = input_size or int(preparation.crop_size[0])
    path, tensors = _tensors(f"torchvision:{name}", published, weights)
    model = _model(architecture, size)
    classifier = _take_classifier(model)
    passed_over = (f"{classifier}.", *AUXILIARY)
    kept = {_present_name(key): value for key, value in tensors.items() if not key.startswith(passed_over)}
    _load(model, _fitted(model, kept, size), path)
    side, mean, std = int(preparation.crop_size[0]), tuple(preparation.mean), tuple(preparation.std)
    return Source(model, side, 3, mean, std, LastMaps(model, size))


def list_torchvision() -> list[Listed]:
    """Return the weights that torchvision publishes for classification."""
    return [
        Listed(f"torchvision:{name}/{w.name}", int(w.transforms().crop_size[0]), w.meta.get("_file_size"), w.url)
        for name in _names()
        for w in _choices(name)
    ]


def _names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _choices(architecture: str) -> list[Any]:
    """Return the weights of an architecture, without those of VGG-16 that lack a classifier: no layer reads them."""
    from torchvision.models import get_model_weights

    return [weights for weights in get_model_weights(architecture) if weights.meta["categories"]]


def _weights(architecture: str, tag: str) -> Any:
    from torchvision.models import get_model_weights

    if architecture not in _names():
        raise no_model("torchvision model", architecture, _names())
    choices = {weights.name: weights for weights in _choices(architecture)}
    if tag == "DEFAULT":
        return get_model_weights(architecture)["DEFAULT"]
    if tag not in choices:
        raise no_model(f"weights of torchvision:{architecture}/WEIGHTS", tag, choices)
    return choices[tag]


def _tensors(spec: str, published: Any, weights: Path | None) -> tuple[Path, dict[str, Tensor]]:
    """Return a file with weights and its tensors: the one that was passed, or the one torch downloads and keeps."""
    if weights is not None:
        return weights, read_weights(weights)
    path = from_url(spec, published.url, lambda copy: _download(published.url, copy))
    return path, read_weights(path)


def _download(url: str, path: Path) -> Path:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = re.search(r"-([0-9a-f]{8,})\.", path.name)  # of the SHA-256, which torchvision writes into the name
        torch.hub.download_url_to_file(url, str(path), start and start[1])
    return path


def _model(architecture: str, size: int) -> nn.Module:
    from torchvision.models import get_model

    arguments: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        arguments = {"image_size": size}
    elif architecture.startswith("maxvit_"):
        arguments = {"input_size": (size, size)}
    elif architecture in ("googlenet", "inception_v3"):
        # As torchvision builds them for its weights, less the auxiliary heads.
        arguments = {"aux_logits": False, "transform_input": True, "init_weights": False}
    try:
        model: nn.Module = get_model(architecture, **arguments)
    except (AssertionError, ValueError) as error:
        images = f"{size} x {size}"
        raise RelgraphError(
            f"torchvision:{architecture} does not take images of {images}: {first_line(error)}"
        ) from error
    return model.eval()


def _take_classifier(model: nn.Module) -> str:
    """Let the model return its classifier's input; return the name that the classifier had."""
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:  # SqueezeNet
        model.classifier = nn.AdaptiveAvgPool2d(1)
        return "classifier"
    parent, _, last = linear[-1].rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
    return linear[-1]


def _present_name(key: str) -> str:
    """Return today's name of a weight: DenseNet's files are older than the rule that a name has no dot."""
    name: str = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
    return name


def _fitted(model: nn.Module, tensors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Return the weights with a vision transformer's positions interpolated to images of another size."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if not isinstance(model, VisionTransformer) or "encoder.pos_embedding" not in tensors:
        return tensors
    return dict(interpolate_embeddings(size, model.patch_size, OrderedDict(tensors)))


def _load(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load all weights and no others, by torch's own method, which handles older names and what older files lack."""
    state = OrderedDict(tensors)
    state._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]  # MNASNet reads its version there
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        _, first, *_ = [*str(error).splitlines(), ""]  # of what is missing, unexpected, of another shape
        reason = first.strip().split('", "')[0].replace('"', "").rstrip(". ")
        raise RelgraphError(f"{path} is of another architecture: {reason}") from error
