"""Networks of segmentation_models_pytorch, where it is installed (0.5 or later), as students and teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone, Wrapped
from relgraph.networks.files import load_strictly
from relgraph.networks.segmenter import Scored
from relgraph.networks.sources import Arguments, Preparation, Pretrained, TeacherSource, reading_images
from relgraph.networks.weights import read_weights

SIZE = 224  # of the images with which a network is measured


class SmpScores(nn.Module):
    """Decoder and head of a network, from the encoder's maps to `(N, classes, h, w)`."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.decoder, self.segmentation_head = whole.decoder, whole.segmentation_head

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.segmentation_head(self.decoder(list(maps)))
        return scores


class SmpEncoder(Wrapped):
    """The encoder of a network, `(N, C, H, W) -> (N, width)`: the mean of its last map.

    The stage maps are the encoder's, of which the first is the image. `own_scores` is a new decoder with its head.
    """

    def __init__(self, encoder: nn.Module, source: "SmpSource", in_channels: int) -> None:
        super().__init__(encoder)
        self.source, self.in_channels = source, in_channels

    def own_stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the encoder's maps, and the mean of the last."""
        maps = tuple(self.model(images))
        return maps, maps[-1].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        return self.own_stages(images)[1]

    def own_scores(self, classes: int) -> nn.Module | None:
        """Return a new decoder with its head for these classes; `None` where other stages were chosen."""
        return None if self.parts else SmpScores(self.source.whole(self.in_channels, classes))


@dataclass(frozen=True)
class SmpSource(TeacherSource):
    """A network by its spelling `ARCHITECTURE/ENCODER`, such as `Unet/resnet18`: `smp.create_model` builds it."""

    name: str
    published = False

    def whole(self, in_channels: int, classes: int) -> Any:
        """Return the network, untrained.

        Raises:
            RelgraphError: if the library is not installed.
        """
        try:
            from segmentation_models_pytorch import create_model
        except ImportError as error:
            told = "needs the package segmentation-models-pytorch: pip install segmentation-models-pytorch"
            raise RelgraphError(f"smp:{self.name} {told}") from error
        architecture, _, encoder = self.name.partition("/")
        settings = {"encoder_weights": None, "in_channels": in_channels, "classes": classes}
        return create_model(architecture, encoder or "resnet34", **settings)

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return the untrained encoder.

        Raises:
            RelgraphError: if the library is not installed, for an unknown name, or images that it cannot read.
        """
        with reading_images(f"smp:{self.name}", in_channels, image_size or SIZE):
            encoder = self.whole(in_channels, 1).encoder
            return SmpEncoder(encoder, self, in_channels).measured(in_channels, image_size or SIZE)

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Raise RelgraphError: students of this library start from random weights, or from a run.

        Raises:
            RelgraphError: always.
        """
        raise RelgraphError(f"smp:{self.name} starts from random weights: --init-from starts from a run")

    def preparation(self) -> Preparation:
        """Raise RelgraphError: there are no weights.

        Raises:
            RelgraphError: always.
        """
        told = "normalise 'student' needs weights that tell how images were prepared"
        raise RelgraphError(f"{told}, got smp:{self.name}")

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the network with the weights of a file, the state of the whole network; it reads images of any size.

        Raises:
            RelgraphError: without a file, or if it cannot be read or does not match.
        """
        if weights is None:
            raise RelgraphError(f"the teacher smp:{self.name} has no weights of its own: give --teacher-weights FILE")
        tensors = read_weights(weights)
        last = tensors.get("segmentation_head.0.weight")
        with reading_images(f"smp:{self.name}", 3, input_size or SIZE):
            whole = self.whole(3, 1 if last is None else len(last))
            encoder = SmpEncoder(whole.encoder, self, 3).measured(3, input_size or SIZE)
        load_strictly(whole, tensors, weights)
        return Pretrained(Scored(encoder, SmpScores(whole)), input_size, 3, (), ())
