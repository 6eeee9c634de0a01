"""Wide residual networks: where norm and ReLU stand."""

import torch
from torch.nn.functional import relu

from relgraph.networks.wide_resnets import PreActivationBlock, WideResNet


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
