"""Every student against the published benchmark's counts and shapes, and at the sizes where the originals break."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.names import build_backbone, student
from relgraph.networks.backbone import Backbone
from relgraph.networks.catalogue import student_names
from relgraph.networks.heads import Student
from relgraph.networks.students import ALIASES, STUDENTS
from tests.checks import assert_refused, assert_refused_like

Maps = tuple[tuple[int, int, int], ...]
NARROW = ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8))
WIDE = ((16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8))
FOURFOLD = ((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8))
FIFTY = ((64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4))
VGG = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4))
MOBILE = ((16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2))
SHUFFLE_1 = ((24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4))
SHUFFLE_2 = ((24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4))

# With one linear classifier: parameters at 100 classes, at 10, without it; width; then multiply-accumulates of
# convolutions and classifier at 100 classes, number of convolutions, and stage maps, all for 32 x 32 pixels.
PUBLISHED: dict[str, tuple[int, int, int, int, int, int, Maps]] = {
    "resnet8": (83_892, 78_042, 77_392, 64, 12_507_392, 9, NARROW),
    "resnet14": (181_108, 175_258, 174_608, 64, 26_663_168, 15, NARROW),
    "resnet20": (278_324, 272_474, 271_824, 64, 40_818_944, 21, NARROW),
    "resnet32": (472_756, 466_906, 466_256, 64, 69_130_496, 33, NARROW),
    "resnet44": (667_188, 661_338, 660_688, 64, 97_442_048, 45, NARROW),
    "resnet56": (861_620, 855_770, 855_120, 64, 125_753_600, 57, NARROW),
    "resnet110": (1_736_564, 1_730_714, 1_730_064, 64, 253_155_584, 111, NARROW),
    "resnet8x4": (1_233_540, 1_210_410, 1_207_840, 256, 177_071_104, 10, FOURFOLD),
    "resnet32x4": (7_433_860, 7_410_730, 7_408_160, 256, 1_083_040_768, 34, FOURFOLD),
    "resnet50": (23_705_252, 23_520_842, 23_500_352, 2048, 1_298_014_208, 53, FIFTY),
    "wrn_16_1": (180_916, 175_066, 174_416, 64, 26_663_168, 15, NARROW),
    "wrn_16_2": (703_284, 691_674, 690_384, 128, 101_118_464, 16, WIDE),
    "wrn_40_1": (569_780, 563_930, 563_280, 64, 83_286_272, 39, NARROW),
    "wrn_40_2": (2_255_156, 2_243_546, 2_242_256, 128, 327_610_880, 40, WIDE),
    "vgg8": (3_965_028, 3_918_858, 3_913_728, 512, 96_192_512, 5, VGG),
    "vgg11": (9_277_284, 9_231_114, 9_225_984, 512, 209_438_720, 8, VGG),
    "vgg13": (9_462_180, 9_416_010, 9_410_880, 512, 284_936_192, 10, VGG),
    "vgg16": (14_774_436, 14_728_266, 14_723_136, 512, 398_182_400, 13, VGG),
    "vgg19": (20_086_692, 20_040_522, 20_035_392, 512, 511_428_608, 16, VGG),
    "mobilenetv2": (812_836, 697_546, 684_736, 1280, 6_523_648, 53, MOBILE),
    "shufflenetv1": (949_258, 862_768, 853_158, 960, 38_691_456, 49, SHUFFLE_1),
    "shufflenetv2": (1_355_528, 1_263_278, 1_253_028, 1024, 44_504_448, 56, SHUFFLE_2),
}
LIGHT = [name for name, numbers in PUBLISHED.items() if numbers[4] < 50_000_000]
# One or two of each family, of whose layers the others have more; the counts above are of all.
FAMILIES = (
    "resnet8", "resnet8x4", "resnet50", "wrn_16_1", "wrn_16_2", "vgg11", "mobilenetv2", "shufflenetv1", "shufflenetv2",
)  # fmt: skip


@cache
def without_values(name: str) -> Backbone:
    """Return a backbone that only computes shapes."""
    with torch.device("meta"):
        return build_backbone(name).eval()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """Gather the multiply-accumulates of each convolution and linear layer that runs."""
    counts: list[int] = []

    def count(layer: Any, _inputs: object, output: Tensor) -> None:
        one = layer.weight.shape[1:].numel()  # for one value of the output: kernel times channels of its group
        counts.append(output.numel() * one)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    yield counts
    for handle in handles:
        handle.remove()


def test_the_parameters_of_every_student_are_the_published_ones() -> None:
    assert PUBLISHED.keys() == STUDENTS.keys()
    for name, (with_100, with_10, alone, *_) in PUBLISHED.items():
        backbone = without_values(name)
        with torch.device("meta"):
            counts = [parameters(Student(backbone, None, classes)) for classes in (100, 10)]
        assert [*counts, parameters(backbone)] == [with_100, with_10, alone], name


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_and_maps_are_the_published_ones_and_a_larger_image_makes_larger_maps(name: str) -> None:
    _, _, alone, width, operations, convolutions, shapes = PUBLISHED[name]
    backbone = without_values(name)
    with torch.device("meta"), counted(backbone) as counts:
        maps, pooled = backbone.stages(torch.empty(1, 3, 32, 32))
    assert pooled.shape == (1, width) and backbone.width == width
    assert sum(counts) + 100 * width == operations
    assert len(counts) == convolutions
    assert tuple(tuple(stage.shape[1:]) for stage in maps) == shapes
    assert STUDENTS[name][1:] == (alone, width, sum(counts))
    for size in (96, 224):
        with torch.device("meta"):
            maps, pooled = backbone.stages(torch.empty(3, 3, size, size))
        assert pooled.shape == (3, width)
        for index, (stage, (channels, side, _)) in enumerate(zip(maps, shapes, strict=True)):
            halved = 2 if name.startswith("vgg") and index == 4 else 1  # a large image's last map, see test_vgg
            assert stage.shape == (3, channels, *[side * size // 32 // halved] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns_and_an_image_is_embedded_alone_as_in_a_batch(name: str) -> None:
    """Of grey images, the smallest, and of sizes at which the originals break."""
    backbone = build_backbone(name, 1)
    torch.autograd.backward(backbone(torch.rand(4, 1, 16, 16)).square().sum())
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        # A bias below a batch norm has no effect: VGG's convolutions.
        assert parameter.grad.any() or (name.startswith("vgg") and key.endswith("bias")), key
    with torch.no_grad():
        assert backbone(torch.rand(2, 1, 8, 8)).isfinite().all()
        backbone.eval()
        light, mobile = [(96, 96)] * (name in LIGHT), [(224, 224)] * (name == "mobilenetv2")
        for height, width in [(40, 56), *light, *mobile]:
            images = torch.rand(2, 1, height, width)
            maps, pooled = backbone.stages(images)
            assert pooled.shape == (2, backbone.width) and pooled.isfinite().all()
            assert all(stage.shape[0] == 2 and stage.isfinite().all() for stage in maps)
            torch.testing.assert_close(pooled[1:], backbone(images[1:]), rtol=1e-4, atol=1e-5)
            if name.startswith(("resnet", "shufflenetv1", "vgg")):
                torch.testing.assert_close(pooled, maps[-1].flatten(2).mean(2))


def test_names_and_spellings() -> None:
    for alias, name in ALIASES.items():
        with torch.device("meta"):
            assert list(build_backbone(alias).state_dict()) == list(without_values(name).state_dict())
    assert student_names() == list(STUDENTS)
    assert student_names("VGG1") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert student_names("vgg?") == ["vgg8"]
    assert student_names("MobileNetV2") == ["mobilenetv2"]
    assert "torchvision:resnet18" in student_names("torchvision:*")
    assert_refused_like(
        (lambda: build_backbone("resnet9"), r"^unknown student 'resnet9': did you mean 'resnet8'?"),
        (lambda: build_backbone("keras:resnet50"), r"unknown source or module 'keras': .*timm, torchvision"),
        (lambda: student_names("vgg1?x"), r"no student matches 'vgg1\?x'"),
    )


def test_nobody_publishes_weights_of_the_benchmarks_students() -> None:
    source = student("resnet8")
    assert not source.published
    told = "student_weights belong to students of timm, of torchvision and of your own, got resnet8: --init-from …"
    assert_refused(
        (lambda: source.start(Path("w.pth")), told),
        (source.preparation, "normalise 'student' needs weights that tell how images were prepared, got resnet8"),
    )
