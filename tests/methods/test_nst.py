"""NST against the authors' number and a loop over pairs of channels, and the laws that it keeps."""

import math
import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import Output
from relgraph.methods.nst import NST, selectivity_loss
from relgraph.methods.options import options_of
from tests.methods import golden

N = 3
STUDENT = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER = ((2, 4, 4), (2, 4, 4), (5, 4, 4), (6, 2, 2))


def output(shapes: tuple[tuple[int, int, int], ...] = STUDENT, n: int = N) -> Output:
    return Output(torch.zeros(n, 2), maps=tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes))


def mean_kernel(x: Tensor, y: Tensor) -> float:
    """Return the mean of the squared cosines of all channels of one image with all of the other."""
    found: list[float] = []
    for a in x.flatten(1).tolist():
        for b in y.flatten(1).tolist():
            found.append((sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)) ** 2)
    return sum(found) / len(found)


def naive(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total += mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)
    return total / len(student)


def test_official_value_and_gradient() -> None:
    first, last = golden.maps(8, 4, 8, 8, phase=0), golden.maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    golden.check("nst_sum_fm1_fm2", lambda: selectivity_loss(*first) + selectivity_loss(*last), inputs)
    stem = torch.randn(8, 2, 2, 2)
    student, teacher = (Output(torch.zeros(8, 2), maps=(stem, first[side], last[side])) for side in range(2))
    golden.check("nst_sum_fm1_fm2", lambda: NST()(student, teacher), inputs)


def test_a_naive_loop_with_stages_paired_from_the_end() -> None:
    student, teacher = output(), output(TEACHER)
    expected = sum(naive(student.maps[i], teacher.maps[i + 1]) for i in (1, 2))
    assert NST()(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_larger_map_is_averaged(swapped: bool) -> None:
    large, small = torch.randn(N, 3, 4, 4).double(), torch.randn(N, 5, 2, 2).double()
    averaged = sum(large[..., a::2, b::2] for a in (0, 1) for b in (0, 1)) / torch.tensor(4.0)
    maps, expected = (large, small), (averaged, small)
    found = selectivity_loss(*(maps[::-1] if swapped else maps))
    assert found.item() == pytest.approx(naive(*(expected[::-1] if swapped else expected)), rel=1e-10)


def test_order_sign_and_scale_of_the_channels_change_nothing_and_agreement_costs_nothing() -> None:
    student, teacher = (torch.randn(N, 4, 3, 3, dtype=torch.float64) for _ in range(2))
    moved = student[:, [2, 0, 3, 1]] * torch.randn(N, 4, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(selectivity_loss(moved, teacher), selectivity_loss(student, teacher))
    assert selectivity_loss(moved, student).abs() < 1e-14
    torch.testing.assert_close(
        selectivity_loss(student, teacher), selectivity_loss(student, teacher.repeat(1, 2, 1, 1))
    )


def test_gradient_reaches_the_students_stages_and_nothing_else() -> None:
    student, teacher = output(), output(TEACHER)
    for stage in (*student.maps, *teacher.maps):
        stage.requires_grad_()
    torch.autograd.backward(NST()(student, teacher))
    assert student.maps[0].grad is None and all(stage.grad is None for stage in teacher.maps)
    assert all(stage.grad is not None and stage.grad.any() for stage in student.maps[1:])
    small = [torch.randn(2, 2, 2, 2, dtype=torch.float64) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda x: selectivity_loss(x, small[1]), small[0].requires_grad_())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = torch.randn(2, N, 4, 4, 4).to(dtype)
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = selectivity_loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), selectivity_loss(student.double(), teacher.double()), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.dtype == dtype and gradient.isfinite().all()


def test_dead_channels_and_one_position_are_finite() -> None:
    student, teacher = torch.randn(2, 1, 3, 2, 2)
    student[:, 1] = 0
    value = selectivity_loss(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite() and gradient.isfinite().all() and not gradient[:, 1].any()
    assert selectivity_loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 3, 1, 1)) == 1


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    student, teacher = output(), output()
    loss = NST()
    assert list(loss.terms(student, teacher)) == ["nst"] and loss.reads == ("maps",) and loss.weight == 50
    assert torch.equal(loss(student, teacher), loss(student, teacher))


def test_it_has_no_options() -> None:
    assert options_of(NST) == {}


def test_what_it_refuses() -> None:
    message = (
        "NST reads stage maps, the maps=(...) of an Output: "
        "expected at least 2 of student and teacher (stem and one stage), got 0 and 3"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        NST()(torch.zeros(N, 2), output())
    with pytest.raises(
        RelgraphError, match=r"^stage maps must be \(N, C, H, W\).* got \(3, 2, 4, 4\) and \(2, 2, 4, 4\)$"
    ):
        NST()(output(), output(n=2))
