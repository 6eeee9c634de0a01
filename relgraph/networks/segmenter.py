"""Networks that give class scores at each position of an image: a backbone, and a head on its stage maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.backbone import Backbone, map_shapes
from relgraph.networks.heads import Student
from relgraph.outputs import Output

FINER = 4  # how many times as high as the last map the earlier one is


class Decoder(nn.Module):
    """Scores from a high map and a low, finer one: `{"low", "high"} -> (N, classes, h, w)` on the grid of the low one.

    Both maps pass through 1 x 1 convolutions, to 48 and 128 channels, the high one is brought to the grid of the low
    one (bilinear), and a 3 x 3 convolution to 64 channels reads them together; each has batch norm and ReLU. This is
    the decoder of DeepLabv3+ (Chen et al., ECCV 2018, arXiv 1802.02611) without its pyramid, with one convolution of 64
    channels for two of 256.

    Args:
        low: Channels of the finer map.
        high: Channels of the other.
        classes: Number of scores.
    """

    def __init__(self, low: int, high: int, classes: int) -> None:
        super().__init__()
        self.low, self.high = _block(low, 48), _block(high, 128)
        self.layers = nn.Sequential(_block(48 + 128, 64, 3), nn.Conv2d(64, classes, 1))

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Return the scores."""
        low, high = self.low(maps["low"]), self.high(maps["high"])
        high = interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        scores: Tensor = self.layers(torch.cat([low, high], 1))
        return scores


def _block(channels: int, width: int, size: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class LightHead(nn.Module):
    """Scores from the last stage map and a finer one, maps to `(N, classes, h, w)` on the grid of the finer one.

    Args:
        low: Position of the finer map.
        layers: `Decoder`, or torchvision's `LRASPPHead`.
    """

    def __init__(self, low: int, layers: nn.Module) -> None:
        super().__init__()
        self.low, self.layers = low, layers

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int, int]], classes: int) -> "LightHead":
        """Return a new head for maps of the shapes (C, H, W): the finer one is the last of four times the height."""
        finer = [i for i, shape in enumerate(shapes) if shape[1] >= FINER * shapes[-1][1]]
        low = finer[-1] if finer else 0
        return cls(low, Decoder(shapes[low][0], shapes[-1][0], classes))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.layers({"low": maps[self.low], "high": maps[-1]})
        return scores


class OfLastMap(nn.Module):
    """Scores from the last stage map alone, by `layers`."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.layers(maps[-1])
        return scores


class Scored(Backbone):
    """A backbone with a head for class scores at each position: `logits(maps)`.

    Args:
        backbone: The network that gives stage maps and the pooled vector.
        scores: The head, a map from stage maps to `(N, classes, h, w)`.
    """

    def __init__(self, backbone: Backbone, scores: nn.Module) -> None:
        super().__init__()
        self.backbone, self.scores, self.width = backbone, scores, backbone.width

    @property
    def bare(self) -> Backbone:
        """The network without the head."""
        return self.backbone

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the backbone's maps and pooled vector."""
        return self.backbone.stages(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        pooled: Tensor = self.backbone(images)
        return pooled

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the scores `(N, classes, h, w)`."""
        scores: Tensor = self.scores(maps)
        return scores


def check_size(backbone: Backbone, in_channels: int, size: tuple[int, int], options: str) -> None:
    """Check that a backbone reads images of some height and width, which a vision transformer may not.

    `options` are those by which the size is chosen.

    Raises:
        RelgraphError: if it does not.
    """
    try:
        map_shapes(backbone, in_channels, size)
    except Exception as error:  # of a library or a user, of whatever kind
        told = f"the student cannot read images of {size[0]} x {size[1]} pixels"
        raise RelgraphError(f"{told}: {first_line(error)}; see {options}") from error


def scored(backbone: Backbone, classes: int, in_channels: int, image_size: int) -> Scored:
    """Return a backbone with a new head for the scores of some classes: that of its kind, else a light one.

    Raises:
        RelgraphError: for a network that gives no stage maps.
    """
    shapes = map_shapes(backbone, in_channels, image_size)
    if not shapes:
        told = "expected a convolutional network, or a module of your own that returns a map (N, C, H, W)"
        raise RelgraphError(f"classes of pixels need stage maps, of which this student gives none: {told}")
    scores = backbone.own_scores(classes)
    return Scored(backbone, LightHead.of(shapes, classes) if scores is None else scores)


class Segmenter(Student):
    """A student with class scores at each position, `(N, C, H, W) -> Output` with logits `(N, classes, h, w)`.

    Its embedding is the pooled feature or, with `dim`, a projection of that; its backbone is one that is `Scored`.
    """

    def __init__(self, backbone: Backbone, dim: int | None) -> None:
        super().__init__(backbone, dim, 0)

    def forward(self, images: Tensor) -> Output:
        """Return the student's outputs for a batch."""
        maps, feature = self.backbone.stages(images)
        return Output(self.head(feature)[0], self.backbone.logits(maps), feature, maps)
