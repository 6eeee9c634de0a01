"""Segmentation networks of torchvision, with the head that each comes with, as students and teachers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone, Wrapped
from relgraph.networks.files import load_strictly
from relgraph.networks.segmenter import LightHead, OfLastMap, Scored
from relgraph.networks.sources import Arguments, Listed, Pretrained, built_for
from relgraph.networks.torchvision_source import SIZE, TorchvisionSource, adapt_first, published_weights
from relgraph.networks.weights import read_weights

FAMILIES = ("fcn_", "deeplabv3_", "lraspp_")  # how their names begin
AUXILIARY = "aux_classifier."  # a head that only the training used; published files hold it


class BeforeScores(Wrapped):
    """A segmentation network of torchvision up to its head, `(N, C, H, W) -> (N, width)`: the mean of its last map.

    The stage maps are those that its head reads: one, of LR-ASPP two. `own_scores` is that head, with the published
    weights that fit the number of classes.
    """

    def __init__(self, whole: Any, name: str, in_channels: int) -> None:
        super().__init__(whole.backbone)
        self.name, self.published = name, dict[str, Tensor]()
        adapt_first(self.model, in_channels)

    def start_from(self, path: Path) -> None:
        """Load a published file: the network now, its head where `own_scores` makes one."""
        parts = _parts(path)
        load_strictly(self.model, parts["backbone"], path)
        self.published = parts["classifier"]

    def own_stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the maps that the head reads, and the mean of the last."""
        maps = tuple(self.model(images).values())
        return maps, maps[-1].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        return self.own_stages(images)[1]

    def own_scores(self, classes: int) -> nn.Module:
        """Return torchvision's head for these classes.

        Raises:
            RelgraphError: where other stages were chosen than those that it reads.
        """
        if self.parts:
            told = f"torchvision:{self.name} has a head on its own stages"
            raise RelgraphError(f"{told}: expected no others for classes of pixels, got {', '.join(self.parts)}")
        layers = _whole(self.name, classes).classifier
        own = layers.state_dict()
        fitting = {key: x for key, x in self.published.items() if key in own and own[key].shape == x.shape}
        layers.load_state_dict(fitting, strict=False)
        return LightHead(0, layers) if self.name.startswith("lraspp_") else OfLastMap(layers)


@dataclass(frozen=True)
class SegmentationSource(TorchvisionSource):
    """A segmentation network of torchvision by its name and the tag of its weights, which a student may be without."""

    @staticmethod
    def names() -> list[str]:
        """Return the names of torchvision's segmentation networks."""
        return segmentation_names()

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return an untrained network up to its head; for other than three channels its first convolution is another.

        Raises:
            RelgraphError: for an unknown name, or images that it cannot read.
        """
        with built_for("torchvision", self.name, self.names(), in_channels, image_size or SIZE):
            found = BeforeScores(_whole(self.name, 1), self.name, in_channels)
            return found.measured(in_channels, image_size or SIZE)

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return a network as `build` makes it, with the weights of its tag or of a file, and of its head's what fits.

        Raises:
            RelgraphError: as `build`, if weights cannot be had, read, or do not match, or for other than 3 channels.
        """
        if in_channels != 3:
            raise RelgraphError(f"{self._spec} starts from weights for images of 3 channels, got {in_channels}")
        backbone = self.build(in_channels, image_size)
        assert isinstance(backbone, BeforeScores)
        backbone.start_from(weights or self._fetch(published_weights(self.name, self.tag, self.names())))
        return backbone

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the network with its head and the weights of its tag, without one the best that torchvision has.

        It reads images of any size. Its classes are those of the published weights; those of a file are not known.

        Raises:
            RelgraphError: if a name is unknown or the weights cannot be had, read, or do not match.
        """
        backbone = self.start(weights, 3, input_size)
        assert isinstance(backbone, BeforeScores)
        last = [len(x) for key, x in backbone.published.items() if key.endswith("bias")]
        network = Scored(backbone, backbone.own_scores(last[-1] if last else 1))
        load_strictly(network.scores.get_submodule("layers"), backbone.published, f"the head of {self._spec}")
        found = published_weights(self.name, self.tag, self.names())
        known = ("background" if name == "__background__" else name for name in found.meta["categories"])
        names, (mean, std) = tuple(known) if weights is None else (), self.preparation()
        return Pretrained(network, input_size, 3, mean, std, classes=names)


def segmentation_names() -> list[str]:
    """Return the names of torchvision's segmentation networks."""
    from torchvision import models

    names: list[str] = models.list_models(module=models.segmentation)
    return names


def list_segmentation() -> list[Listed]:
    """Return the weights that torchvision publishes for segmentation."""
    from torchvision.models import get_model_weights

    return [
        Listed("torchvision", f"{name}/{w.name}", None, w.meta.get("_file_size"), w.url)
        for name in segmentation_names()
        for w in get_model_weights(name)
    ]


def _whole(name: str, classes: int) -> Any:
    from torchvision import models

    return models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)


def _parts(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a file of weights by the part of the network that they are of, backbone and classifier."""
    found: dict[str, dict[str, Tensor]] = {"backbone": {}, "classifier": {}}
    for key, tensor in read_weights(path).items():
        part, _, name = key.partition(".")
        if not key.startswith(AUXILIARY):
            found.setdefault(part, {})[name] = tensor
    return found
