"""The residual networks: pool, Kaiming's start, the numbers they have always drawn, norm and ReLU of wide ones."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu

from relgraph.names import build_backbone
from relgraph.networks.resnets import PreActivationBlock, WideResNet


def test_at_32_pixels_the_pool_is_the_benchmarks() -> None:
    with torch.no_grad():
        maps, pooled = build_backbone("resnet8x4").eval().stages(torch.rand(2, 3, 32, 32))
    assert all((stage >= 0).all() for stage in maps)
    torch.testing.assert_close(pooled, avg_pool2d(maps[-1], 8).flatten(1))


def test_convolutions_start_from_kaimings_fan_out() -> None:
    for name in ("resnet8x4", "wrn_16_2", "vgg8", "mobilenetv2"):
        for module in build_backbone(name).modules():
            if isinstance(module, nn.Conv2d):
                out, _, height, wide = module.weight.shape
                expected = (2 / (out * height * wide)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.3)
                assert module.bias is None or not module.bias.any()


def test_a_seed_gives_the_network_of_the_first_release() -> None:
    """Recorded results depend on these draws, and stored networks on the names."""
    images = torch.linspace(0, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    for name, total, absolute, embedded in (
        ("resnet8", 656.344141, 5058.47866, 11.9614932),
        ("resnet8x4", 2735.20169, 36961.0306, 43.0116157),
        ("resnet20", 1536.17077, 16223.1017, 62.2488879),
    ):
        torch.manual_seed(0)
        backbone = build_backbone(name).eval()
        state = backbone.state_dict()
        assert [key for key in state if key.startswith("stem")][:2] == ["stem.0.weight", "stem.1.weight"]
        parts = {key.split(".")[2] for key in state if key.startswith("blocks")}
        assert parts == {"conv1", "norm1", "conv2", "norm2", "shortcut"}
        assert sum(float(value.double().sum()) for value in state.values()) == pytest.approx(total, rel=1e-6)
        assert sum(float(value.double().abs().sum()) for value in state.values()) == pytest.approx(absolute, rel=1e-6)
        with torch.no_grad():
            assert float(backbone(images).double().sum()) == pytest.approx(embedded, rel=1e-4)


def test_a_block_that_keeps_the_channels_adds_its_input_as_it_came() -> None:
    block = PreActivationBlock(4, 4, 1).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_a_block_that_widens_adds_a_convolution_of_the_active_input() -> None:
    block = PreActivationBlock(4, 6, 2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    assert block.shortcut is not None
    x = torch.randn(2, 4, 5, 5)
    active = relu(x / (1 + 1e-5) ** 0.5)[:, :, ::2, ::2]  # a new batch norm divides by the root of 1 + eps
    expected = torch.einsum("nchw,oc->nohw", active, block.shortcut.weight[:, :, 0, 0])
    torch.testing.assert_close(block(x), expected)


def test_maps_come_before_norm_and_relu_and_the_vector_after() -> None:
    network = WideResNet(16, 2).eval()
    with torch.no_grad():
        maps, pooled = network.stages(torch.rand(2, 3, 64, 64))
        assert all((stage < 0).any() for stage in maps)
        torch.testing.assert_close(pooled, relu(network.norm(maps[-1])).flatten(2).mean(2))
