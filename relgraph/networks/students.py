"""The students of the CIFAR benchmark by name.

Each is a map from images `(N, C, H, W)` to one pooled vector an image, `(N, width)`. The classifier is not part of
it: see `heads`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Backbone
from relgraph.networks.mobilenets import MobileNetV2
from relgraph.networks.resnets import BottleneckResNet, CifarResNet, WideResNet
from relgraph.networks.shufflenets import ShuffleNetV1, ShuffleNetV2
from relgraph.networks.sources import Preparation
from relgraph.networks.vgg import VGG

NARROW, FOURFOLD = (16, 16, 32, 64), (32, 64, 128, 256)  # channels of the stem and the three stages of a ResNet


class Entry(NamedTuple):
    """How a student of the benchmark is built, and its size without classifier.

    The size is written down because counting takes seconds; a test counts again.

    Attributes:
        build: From the number of channels of an image to the backbone.
        parameters: Their number.
        width: Length of the pooled vector.
        operations: Multiply-accumulates of convolutions for one image of 3 x 32 x 32.
    """

    build: Callable[[int], Backbone]
    parameters: int
    width: int
    operations: int


# The student networks of the RepDistiller benchmark by name.
STUDENTS = {
    "resnet8": Entry(partial(CifarResNet, 8, NARROW), 77_392, 64, 12_500_992),
    "resnet14": Entry(partial(CifarResNet, 14, NARROW), 174_608, 64, 26_656_768),
    "resnet20": Entry(partial(CifarResNet, 20, NARROW), 271_824, 64, 40_812_544),
    "resnet32": Entry(partial(CifarResNet, 32, NARROW), 466_256, 64, 69_124_096),
    "resnet44": Entry(partial(CifarResNet, 44, NARROW), 660_688, 64, 97_435_648),
    "resnet56": Entry(partial(CifarResNet, 56, NARROW), 855_120, 64, 125_747_200),
    "resnet110": Entry(partial(CifarResNet, 110, NARROW), 1_730_064, 64, 253_149_184),
    "resnet8x4": Entry(partial(CifarResNet, 8, FOURFOLD), 1_207_840, 256, 177_045_504),
    "resnet32x4": Entry(partial(CifarResNet, 32, FOURFOLD), 7_408_160, 256, 1_083_015_168),
    "resnet50": Entry(partial(BottleneckResNet, (3, 4, 6, 3)), 23_500_352, 2048, 1_297_809_408),
    "wrn_16_1": Entry(partial(WideResNet, 16, 1), 174_416, 64, 26_656_768),
    "wrn_16_2": Entry(partial(WideResNet, 16, 2), 690_384, 128, 101_105_664),
    "wrn_40_1": Entry(partial(WideResNet, 40, 1), 563_280, 64, 83_279_872),
    "wrn_40_2": Entry(partial(WideResNet, 40, 2), 2_242_256, 128, 327_598_080),
    "vgg8": Entry(partial(VGG, (1, 1, 1, 1, 1)), 3_913_728, 512, 96_141_312),
    "vgg11": Entry(partial(VGG, (1, 1, 2, 2, 2)), 9_225_984, 512, 209_387_520),
    "vgg13": Entry(partial(VGG, (2, 2, 2, 2, 2)), 9_410_880, 512, 284_884_992),
    "vgg16": Entry(partial(VGG, (2, 2, 3, 3, 3)), 14_723_136, 512, 398_131_200),
    "vgg19": Entry(partial(VGG, (2, 2, 4, 4, 4)), 20_035_392, 512, 511_377_408),
    "mobilenetv2": Entry(partial(MobileNetV2, 0.5), 684_736, 1280, 6_395_648),
    "shufflenetv1": Entry(ShuffleNetV1, 853_158, 960, 38_595_456),
    "shufflenetv2": Entry(ShuffleNetV2, 1_253_028, 1024, 44_402_048),
}

# The benchmark's spellings.
ALIASES = {"ResNet50": "resnet50", "MobileNetV2": "mobilenetv2"} | {f"ShuffleV{n}": f"shufflenetv{n}" for n in (1, 2)}


@dataclass(frozen=True)
class BenchmarkSource:
    """A student of the benchmark by its name, one of `STUDENTS` or `ALIASES`."""

    name: str
    published: ClassVar[bool] = False

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return an untrained backbone, which reads images of any size.

        Raises:
            RelgraphError: for an unknown name.
        """
        name = ALIASES.get(self.name, self.name)
        if name not in STUDENTS:
            raise unknown("student", self.name, [*STUDENTS, "timm:MODEL", "torchvision:MODEL"])
        return STUDENTS[name].build(in_channels)

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Raise RelgraphError: nobody publishes weights under these names.

        Raises:
            RelgraphError: always.
        """
        told = f"students of timm, of torchvision and of your own, got {self.name}"
        raise RelgraphError(f"student_weights belong to {told}: --init-from starts from a run")

    def preparation(self) -> Preparation:
        """Raise RelgraphError: there are no weights.

        Raises:
            RelgraphError: always.
        """
        raise RelgraphError(f"normalise 'student' needs weights that tell how images were prepared, got {self.name}")
