"""FitNet against the benchmark code's number, and its regressor written out: a convolution, batch norm and ReLU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from relgraph.methods import Output, RunFacts
from relgraph.methods.base import Part, Shapes
from relgraph.methods.fitnet import FitNet, regressor
from tests.checks import assert_refused
from tests.methods.golden import random_output, standardised

N = 3
# Sides of the student's and the teacher's map, the regressor's kernel and stride, and the side of its output.
SIDES = {
    (8, 4): ("Conv2d", 3, 2, 4),
    (4, 8): ("ConvTranspose2d", 4, 2, 8),
    (4, 4): ("Conv2d", 1, 1, 4),
    (5, 3): ("Conv2d", 3, 1, 3),
    (3, 5): ("Conv2d", 1, 1, 3),
    (2, 8): ("Conv2d", 1, 1, 2),
}


def shapes(student: int, teacher: int) -> tuple[Shapes, Shapes]:
    return ((2, 9, 9), (2, 9, 9), (3, student, student)), ((2, 9, 9), (2, 9, 9), (4, teacher, teacher), (5, 1, 1))


def output(maps: Shapes, n: int = N) -> Output:
    return random_output(n, 6, 2, 5, maps)


def expected(loss: FitNet, student: Tensor, teacher: Tensor) -> Tensor:
    layer: Any = loss.regressor[0]
    convolve = functional.conv_transpose2d if isinstance(layer, nn.ConvTranspose2d) else functional.conv2d
    made = standardised(convolve(student, layer.weight, stride=layer.stride, padding=layer.padding)).clamp_min(0)
    if teacher.shape[-1] > made.shape[-1]:
        teacher = functional.adaptive_avg_pool2d(teacher, made.shape[-1])
    return (made - teacher).square().sum() / teacher.numel()


@pytest.mark.parametrize(("student", "teacher"), SIDES)
def test_the_regressor_brings_a_map_to_the_teachers_size(student: int, teacher: int) -> None:
    layers = regressor((3, student, student), (4, teacher, teacher))
    kind, kernel, stride, side = SIDES[student, teacher]
    layer = layers[0]
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and type(layer).__name__ == kind
    assert layer.kernel_size == (kernel, kernel) and layer.stride == (stride, stride)
    assert layers(torch.randn(N, 3, student, student)).shape == (N, 4, side, side)
    s, t = (output(maps) for maps in shapes(student, teacher))
    loss = FitNet(*shapes(student, teacher)).double()
    assert loss.nodes == "map" and loss.reads == ("maps",)
    torch.testing.assert_close(loss(s, t), expected(loss, s.maps[2], t.maps[2]), rtol=1e-10, atol=0)


def test_height_and_width_may_call_for_different_kernels() -> None:
    loss = FitNet(((3, 6, 4),), ((4, 4, 5),), stage=0).double()
    assert loss.regressor(torch.randn(N, 3, 6, 4).double()).shape == (N, 4, 4, 4)
    assert loss(output(((3, 6, 4),)), output(((4, 4, 5),))).isfinite()


def test_another_stage() -> None:
    maps = shapes(4, 4)
    s, t = (output(side) for side in maps)
    loss = FitNet(*maps, stage=1).double()
    torch.testing.assert_close(loss(s, t), expected(loss, s.maps[1], t.maps[1]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("nodes", ["embedding", "feature"])
def test_vectors_are_compared_as_they_are(nodes: Part) -> None:
    maps = shapes(4, 4)
    s, t = (output(side) for side in maps)
    a, b = getattr(s, nodes).tolist(), getattr(t, nodes).tolist()
    total = sum((x - y) ** 2 for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))
    for loss in (FitNet(*maps, nodes=nodes), FitNet(nodes=nodes)):
        assert loss.reads == (nodes,) and loss.weight == 1 and not list(loss.parameters())
        assert loss(s, t).item() == pytest.approx(total / (N * len(a[0])), rel=1e-12)
    assert FitNet().reads == ("embedding",)


def test_what_it_refuses() -> None:
    student, teacher = shapes(8, 4)
    loss, s, t = FitNet(student, teacher).double(), output(student), output(teacher)
    reads = "FitNet reads stage maps, the maps=(...) of an Output: expected at least"
    both = "FitNet needs the shapes of both networks' maps or of neither, got the"
    none = "FitNet compares maps by a regressor: expected the shapes of both networks' maps, got none"
    built = "FitNet was built for stage maps (3, 8, 8) and (4, 4, 4), got (4, 4, 4) and (3, 8, 8)"
    width = "matching nodes needs embeddings of one width: project student and teacher to it, got 4 and 5"
    stage = f"{reads} 4 of student and teacher (stem and 3 stages), got 3 and 4"
    assert_refused(
        (lambda: FitNet(nodes="map"), none),
        (lambda: FitNet(student_maps=student), f"{both} student's alone"),
        (lambda: FitNet(teacher_maps=student), f"{both} teacher's alone"),
        (lambda: FitNet(student, ()), f"{reads} 3 of student and teacher (stem and 2 stages), got 3 and 0"),
        (lambda: FitNet(student, teacher, stage=3), stage),
        (lambda: FitNet(5, 7), "FitNet is built for shapes (C, H, W) of stage maps, without the batch, got 5"),  # type: ignore[arg-type]
        (lambda: loss(t, s), built),
        (lambda: FitNet()(torch.zeros(2, 4), torch.zeros(2, 5)), width),
    )


def test_a_run_without_maps_has_vectors_if_they_are_asked_for() -> None:
    assert FitNet.for_run(RunFacts(4, 3, 3, (), ()), nodes="feature").weight == 1
