"""The students of the CIFAR benchmark by name.

Each is a map from images `(N, C, H, W)` to one pooled vector an image, `(N, width)`. The classifier is not part of
it: see `heads`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from relgraph.errors import unknown
from relgraph.networks.backbone import Backbone
from relgraph.networks.mobilenets import MobileNetV2
from relgraph.networks.resnets import BottleneckResNet, CifarResNet
from relgraph.networks.shufflenets import ShuffleNetV1, ShuffleNetV2
from relgraph.networks.vgg import VGG
from relgraph.networks.wide_resnets import WideResNet

# Name -> number of channels of an image -> backbone: the student networks of the RepDistiller benchmark.
STUDENTS: dict[str, Callable[[int], Backbone]] = {
    **{
        f"resnet{depth}": partial(CifarResNet, (depth - 2) // 6, (16, 16, 32, 64))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{f"resnet{depth}x4": partial(CifarResNet, (depth - 2) // 6, (32, 64, 128, 256)) for depth in (8, 32)},
    "resnet50": partial(BottleneckResNet, (3, 4, 6, 3)),
    **{f"wrn_{depth}_{k}": partial(WideResNet, depth, k) for depth in (16, 40) for k in (1, 2)},
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    "mobilenetv2": partial(MobileNetV2, 0.5),
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
}

# Name -> parameters, width, and multiply-accumulates of convolutions for one image of 3 x 32 x 32, all without
# classifier. Written down because counting takes seconds; a test counts again.
SIZES: dict[str, tuple[int, int, int]] = {
    "resnet8": (77_392, 64, 12_500_992),
    "resnet14": (174_608, 64, 26_656_768),
    "resnet20": (271_824, 64, 40_812_544),
    "resnet32": (466_256, 64, 69_124_096),
    "resnet44": (660_688, 64, 97_435_648),
    "resnet56": (855_120, 64, 125_747_200),
    "resnet110": (1_730_064, 64, 253_149_184),
    "resnet8x4": (1_207_840, 256, 177_045_504),
    "resnet32x4": (7_408_160, 256, 1_083_015_168),
    "resnet50": (23_500_352, 2048, 1_297_809_408),
    "wrn_16_1": (174_416, 64, 26_656_768),
    "wrn_16_2": (690_384, 128, 101_105_664),
    "wrn_40_1": (563_280, 64, 83_279_872),
    "wrn_40_2": (2_242_256, 128, 327_598_080),
    "vgg8": (3_913_728, 512, 96_141_312),
    "vgg11": (9_225_984, 512, 209_387_520),
    "vgg13": (9_410_880, 512, 284_884_992),
    "vgg16": (14_723_136, 512, 398_131_200),
    "vgg19": (20_035_392, 512, 511_377_408),
    "mobilenetv2": (684_736, 1280, 6_395_648),
    "shufflenetv1": (853_158, 960, 38_595_456),
    "shufflenetv2": (1_253_028, 1024, 44_402_048),
}

# The benchmark's spellings.
ALIASES = {"ResNet50": "resnet50", "MobileNetV2": "mobilenetv2"} | {f"ShuffleV{n}": f"shufflenetv{n}" for n in (1, 2)}


@dataclass(frozen=True)
class BenchmarkSource:
    """A student of the benchmark by its name, one of `STUDENTS` or `ALIASES`."""

    name: str

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return an untrained backbone, which reads images of any size.

        Raises:
            RelgraphError: for an unknown name.
        """
        name = ALIASES.get(self.name, self.name)
        if name not in STUDENTS:
            raise unknown("student", self.name, [*STUDENTS, "timm:MODEL", "torchvision:MODEL"])
        return STUDENTS[name](in_channels)
