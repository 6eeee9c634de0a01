"""MobileNetV2: where the input is added, and that no ReLU cuts a stage's map."""

import torch

from relgraph.networks.mobilenets import InvertedResidual, MobileNetV2


def test_the_input_is_added_where_it_fits() -> None:
    maps = torch.randn(2, 8, 4, 4)
    for outputs, stride, adds in ((8, 1, True), (8, 2, False), (12, 1, False)):
        block = InvertedResidual(8, outputs, stride, 6).eval()
        torch.nn.init.zeros_(block.get_parameter("project.0.weight"))
        assert torch.equal(block(maps), maps if adds else torch.zeros(2, outputs, 4 // stride, 4 // stride))


def test_maps_are_linear_and_the_vector_is_not() -> None:
    with torch.no_grad():
        (stem, *stages), pooled = MobileNetV2(0.5).stages(torch.rand(4, 3, 32, 32))
    assert (stem >= 0).all() and (pooled >= 0).all()
    assert all((stage < 0).any() for stage in stages)
