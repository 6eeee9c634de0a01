"""Student backbones by name: the families of the CIFAR benchmark, and any model of timm or torchvision.

Each is a map from images `(N, C, H, W)` to one pooled vector an image, `(N, width)`. The classifier is not part of
it: see `heads`.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Backbone
from relgraph.networks.mobilenets import MobileNetV2
from relgraph.networks.resnets import BottleneckResNet, CifarResNet
from relgraph.networks.shufflenets import ShuffleNetV1, ShuffleNetV2
from relgraph.networks.timm_students import timm_backbone, timm_names
from relgraph.networks.torchvision_students import torchvision_backbone, torchvision_names
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
ALIASES = {
    "ResNet50": "resnet50",
    "MobileNetV2": "mobilenetv2",
    "ShuffleV1": "shufflenetv1",
    "ShuffleV2": "shufflenetv2",
}


def build_backbone(name: str, in_channels: int = 3, *, image_size: int | None = None) -> Backbone:
    """Return an untrained backbone with an attribute `width`, `(N, in_channels, H, W) -> (N, width)`.

    Args:
        name: One of `STUDENTS` or `ALIASES`, `timm:MODEL` or `torchvision:MODEL`.
        in_channels: Of the images.
        image_size: Of the images in pixels, for models of timm and torchvision that are made for one size, such as
            transformers; the others read any size, and the benchmark's own ignore it.

    Raises:
        RelgraphError: for an unknown name, the message holds the nearest known one; and for a model of timm or
            torchvision that cannot read such images.

    >>> import torch
    >>> build_backbone("resnet8x4")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 256])
    """
    library, _, model = name.partition(":")
    if model and library == "timm":
        return timm_backbone(model, in_channels, image_size)
    if model and library == "torchvision":
        return torchvision_backbone(model, in_channels, image_size)
    if ALIASES.get(name, name) not in STUDENTS:
        raise unknown("student", name, [*STUDENTS, "timm:MODEL", "torchvision:MODEL"])
    return STUDENTS[ALIASES.get(name, name)](in_channels)


def student_names(pattern: str = "*") -> list[str]:
    """Return the names that match a pattern, whatever the case.

    Args:
        pattern: A part of the name, or with wildcards (`*`, `?`, `[ ]`) all of it. One that begins with `timm:` or
            `torchvision:` is of the library's models.

    Raises:
        RelgraphError: if there is none.

    >>> student_names("wrn*2")
    ['wrn_16_2', 'wrn_40_2']
    """
    pattern = ALIASES.get(pattern, pattern)
    library = pattern.partition(":")[0].lower()
    lists = {"timm": timm_names, "torchvision": torchvision_names}
    names = [f"{library}:{name}" for name in lists[library]()] if library in lists else list(STUDENTS)
    complete = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = [name for name in names if fnmatchcase(name.lower(), complete.lower())]
    if not found:
        raise RelgraphError(f"no student matches {pattern!r}: `relgraph students` lists them all")
    return found
