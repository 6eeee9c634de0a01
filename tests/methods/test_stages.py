"""What methods over stage maps share: pairs from the end, one size by averages over space, layers, and sentences."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from relgraph.methods import AB, AT, FSP, FT, NST, VID, FitNet, Method, RunFacts
from relgraph.methods.base import Shapes
from relgraph.methods.stages import check_maps, check_stages, map_pairs, norm, same_size
from tests.checks import assert_refused
from tests.methods.golden import output_of_maps

SHAPE = (4, 8, 8)


def test_one_size_is_the_mean_over_windows() -> None:
    for one, other in (((6, 6), (3, 3)), ((4, 4), (7, 5)), ((8, 2), (3, 6))):
        x, y = torch.randn(2, 3, *one).double(), torch.randn(2, 4, *other).double()
        size = min(one[0], other[0]), min(one[1], other[1])
        for maps, found in zip((x, y), same_size(x, y), strict=True):
            torch.testing.assert_close(found, adaptive_avg_pool2d(maps, size), rtol=1e-12, atol=1e-14)


def test_a_map_of_that_size_is_not_copied() -> None:
    x, y = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 8, 8)
    assert same_size(x, y)[0] is x and same_size(y, x)[1] is x


def test_a_norm_writes_nothing_and_is_the_same_in_evaluation() -> None:
    x = torch.randn(4, 3, 2, 2) * 5 + 1
    layer = norm(3)
    first = layer(x)
    assert torch.equal(layer(x), first) and torch.equal(layer.eval()(x), first)
    assert not list(layer.buffers())
    flat = x.transpose(0, 1).flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(first.transpose(0, 1).flatten(1), expected, rtol=1e-4, atol=1e-5)


# The methods over stage maps, with the stages of a student that receive gradient.
READ: dict[type[Method], tuple[int, ...]] = {
    AB: (1, 2), AT: (1, 2), FitNet: (2,), FSP: (0, 1, 2), FT: (2,), NST: (1, 2), VID: (1, 2),
}  # fmt: skip
STUDENT = ((2, 8, 8), (3, 4, 4), (4, 2, 2))
TEACHER = ((5, 8, 8), *STUDENT)  # one stage more, in front


def built(cls: Any, student: Shapes = STUDENT, teacher: Shapes = TEACHER) -> Any:
    return (cls() if cls in (AT, NST) else cls(student, teacher)).double()


@pytest.mark.parametrize("cls", READ)
def test_gradient_reaches_the_stages_that_are_read_and_nothing_else(cls: type[Method]) -> None:
    student, teacher = output_of_maps(STUDENT), output_of_maps(TEACHER)
    for stage in (*student.maps, *teacher.maps):
        stage.requires_grad_()
    torch.autograd.backward(built(cls)(student, teacher))
    assert tuple(i for i, s in enumerate(student.maps) if s.grad is not None and s.grad.any()) == READ[cls]
    assert all(stage.grad is None for stage in teacher.maps)


@pytest.mark.parametrize("cls", READ)
def test_outputs_and_runs_without_maps_are_refused(cls: type[Method]) -> None:
    student, teacher, run = output_of_maps(STUDENT), output_of_maps(TEACHER), RunFacts(4, 3, 3, STUDENT, ())
    least, which = {FT: (1, ""), FitNet: (3, " (stem and 2 stages)")}.get(cls, (2, " (stem and one stage)"))
    reads = f"{cls.__name__} reads stage maps, the maps=(...) of an Output: expected at least {least} of student and "
    sizes = "stage maps must be (N, C, H, W), student and teacher of the same N images, got (3, "
    assert_refused(
        (lambda: built(cls)(student, torch.zeros(3, 2)), f"{reads}teacher{which}, got 3 and 0"),
        (lambda: built(cls)(torch.zeros(3, 2), teacher), f"{reads}teacher{which}, got 0 and 4"),
        (lambda: built(cls)(student, output_of_maps(TEACHER, 2)), f"{sizes}…"),
    )
    if cls not in (AT, NST):
        assert_refused(
            (lambda: built(cls, teacher=()), f"{reads}teacher{which}, got 3 and 0"),
            (lambda: cls.for_run(run), f"{reads}teacher{which}, got 3 and 0"),
            (lambda: cls.for_run(replace(run, student_maps=())), f"{reads}teacher{which}, got 0 and 0"),
        )


def test_what_is_refused() -> None:
    shapes = "is built for shapes (C, H, W) of stage maps, without the batch, got"
    sizes = "stage maps must be (N, C, H, W), student and teacher of the same N images, got"
    least = "FT reads stage maps, the maps=(...) of an Output: expected at least 1 of student and teacher, got 0 and 1"
    built = "AB was built for stage maps with channels [(4, 6)] of student and teacher, got [(6, 4)]"
    flat = output_of_maps([(1, 2, 2)] * 2), output_of_maps([(1, 2, 2), (4,)])
    none, two, three = (torch.zeros(n, 1, 1, 1) for n in (0, 2, 3))
    four, six, stem = torch.zeros(1, 4, 2, 2), torch.zeros(1, 6, 5, 5), (3, 8, 8)
    pairs = AB((stem, (4, 8, 8)), (stem, (6, 8, 8))).pairs
    narrow, wide = (output_of_maps([stem, (channels, 8, 8)]) for channels in (4, 6))
    assert_refused(
        (lambda: check_stages("VID", [SHAPE], [(2, 4, 8, 8), SHAPE]), f"VID {shapes} (2, 4, 8, 8)"),
        (lambda: check_stages("VID", SHAPE, [SHAPE, SHAPE]), f"VID {shapes} 4"),  # of one map for those of all
        (lambda: check_stages("FT", [], [SHAPE], least=1), least),
        (lambda: map_pairs(*flat, "AT"), f"{sizes} (3, 1, 2, 2) and (3, 4)"),
        (lambda: check_maps(two, three), f"{sizes} (2, 1, 1, 1) and (3, 1, 1, 1)"),
        (lambda: check_maps(none, none), f"{sizes} (0, 1, 1, 1) and (0, 1, 1, 1)"),
        (lambda: pairs(wide, narrow), built),
    )
    check_maps(four, six)
    assert [(s.shape[1], t.shape[1]) for s, t in pairs(narrow, wide)] == [(4, 6)]
    check_stages("VID", [SHAPE, list(SHAPE)], [torch.Size(SHAPE), SHAPE, four])
