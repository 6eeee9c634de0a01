"""ShuffleNets: what passes a unit, what is mixed, and that channels stay last in memory."""

import torch

from relgraph.networks.shufflenets import GroupedUnit, ShuffleNetV2, SplitUnit


def test_half_of_the_channels_pass_a_unit_of_v2() -> None:
    maps = torch.randn(2, 8, 4, 4)
    assert torch.equal(SplitUnit(8).eval()(maps)[:, ::2], maps[:, :4])


def test_a_unit_with_stride_keeps_its_input_beside_the_new_channels() -> None:
    maps = torch.rand(2, 48, 6, 6)
    out = GroupedUnit(48, 96, 2).eval()(maps)
    assert out.shape == (2, 96, 3, 3)
    torch.testing.assert_close(out[:, 48:, 1, 1], maps[:, :, 1:4, 1:4].mean(dim=(2, 3)))


def test_groups_mix_only_after_the_shuffle() -> None:
    """Without a shuffle the first third of the output would depend on the first third of the input alone."""
    maps = torch.randn(8, 48, 4, 4, requires_grad=True)
    unit = GroupedUnit(48, 48, 1).eval()
    (gradient,) = torch.autograd.grad(unit(maps)[:, :16].sum(), maps)
    assert gradient[:, 16:32].any() and gradient[:, 32:].any()


def test_channels_stay_last_in_memory() -> None:
    """A shuffle that copies into another layout costs a third of the speed."""
    network = ShuffleNetV2().eval().to(memory_format=torch.channels_last)
    maps, _ = network.stages(torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last))
    assert all(stage.is_contiguous(memory_format=torch.channels_last) for stage in maps)
