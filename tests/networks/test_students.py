"""Students against the parameter counts and shapes of the published benchmark, and against its fixed pooling."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from relgraph.errors import RelgraphError
from relgraph.networks.students import RESNETS, build_backbone

# Width, convolutions, parameters of the backbone, and with one linear classifier of 100 and of 10 classes.
PUBLISHED = {
    "resnet8": (64, 9, 77_392, 83_892, 78_042),
    "resnet14": (64, 15, 174_608, 181_108, 175_258),
    "resnet20": (64, 21, 271_824, 278_324, 272_474),
    "resnet32": (64, 33, 466_256, 472_756, 466_906),
    "resnet44": (64, 45, 660_688, 667_188, 661_338),
    "resnet56": (64, 57, 855_120, 861_620, 855_770),
    "resnet110": (64, 111, 1_730_064, 1_736_564, 1_730_714),
    "resnet8x4": (256, 10, 1_207_840, 1_233_540, 1_210_410),
    "resnet32x4": (256, 34, 7_408_160, 7_433_860, 7_410_730),
}
published = pytest.mark.parametrize("name", PUBLISHED)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_student_is_compared() -> None:
    assert set(PUBLISHED) == set(RESNETS)


@published
def test_parameter_counts(name: str) -> None:
    width, convolutions, alone, with_100, with_10 = PUBLISHED[name]
    backbone = build_backbone(name)
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and "shortcut" not in m.__dict__]
    shortcuts = sum(isinstance(block.shortcut, nn.Sequential) for block in backbone.blocks)
    assert backbone.width == width
    assert parameters(backbone) == alone
    assert parameters(backbone) + parameters(nn.Linear(width, 100)) == with_100
    assert parameters(backbone) + parameters(nn.Linear(width, 10)) == with_10
    assert len(convs) == convolutions
    assert shortcuts == (3 if name.endswith("x4") else 2)


@pytest.mark.parametrize("size", [8, 32, 64, 96, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gives_one_vector_an_image(size: int, channels: int) -> None:
    for name in ("resnet8", "resnet8x4"):
        backbone = build_backbone(name, channels).eval()
        assert backbone(torch.rand(2, channels, size, size)).shape == (2, backbone.width)


@published
def test_maps_have_the_published_shapes(name: str) -> None:
    backbone = build_backbone(name).eval()
    width = PUBLISHED[name][0]
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        maps = backbone.blocks(backbone.stem(images))
        assert maps.shape == (1, width, 8, 8)
        assert (maps >= 0).all()
        torch.testing.assert_close(backbone(images), avg_pool2d(maps, 8).flatten(1))  # the benchmark's pool


def test_convolutions_start_from_kaimings_fan_out() -> None:
    for module in build_backbone("resnet8x4").modules():
        if isinstance(module, nn.Conv2d):
            out, _, height, wide = module.weight.shape
            expected = (2 / (out * height * wide)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.15)
            assert module.bias is None


def test_an_image_is_embedded_alone_as_in_a_batch() -> None:
    backbone, images = build_backbone("resnet8").eval(), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[2:3], backbone(images[2:3]))


def test_every_parameter_learns() -> None:
    backbone = build_backbone("resnet14")
    torch.autograd.backward(backbone(torch.rand(4, 3, 16, 16)).square().sum())
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in backbone.parameters())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RelgraphError, match=r"^unknown student 'resnet9': did you mean 'resnet8'?"):
        build_backbone("resnet9")
