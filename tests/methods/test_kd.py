"""KD against a loop over images and classes, and against the benchmark code's own numbers."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import KD, Output
from tests.methods.golden import check, logits


def output(logits: Tensor) -> Output:
    return Output(torch.zeros(len(logits), 2), logits)


def naive(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = ([math.exp(z / temperature) for z in row] for row in (z_s, z_t))
        for a, b in zip(s, t, strict=True):
            total += b / sum(t) * math.log((b / sum(t)) / (a / sum(s)))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("key", "loss"), [("kd_T1", KD(1.0)), ("kd_T4", KD())])
def test_official_value_and_gradient(key: str, loss: KD) -> None:
    student, teacher = logits()
    check(key, lambda: loss(output(student), output(teacher)), {"student_logits": student})


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(1, 2), (5, 10)])
def test_a_naive_loop(shape: tuple[int, int], temperature: float) -> None:
    student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
    value = KD(temperature)(output(student), output(teacher)).item()
    assert value == pytest.approx(naive(student, teacher, temperature), rel=1e-10)


def test_by_hand() -> None:
    """Teacher (1/2, 1/2), student (1/4, 3/4): log 2 - log 3 / 2."""
    student, teacher = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    value = KD(1.0)(output(student), output(teacher)).item()
    assert value == pytest.approx(math.log(2) - math.log(3) / 2, rel=1e-6)


def test_a_shift_of_a_row_changes_nothing_and_agreement_costs_nothing() -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    moved = student + torch.randn(6, 1)
    torch.testing.assert_close(KD()(output(moved), output(teacher)), KD()(output(student), output(teacher)))
    assert KD()(output(teacher + 7), output(teacher)).abs() < 1e-14


def test_gradient_and_its_scale() -> None:
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: KD(2.0)(output(x), output(teacher)), student)
    (gradient,) = torch.autograd.grad(KD(2.0)(output(student), output(teacher)), student)
    torch.testing.assert_close(gradient, 2.0 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / 4)


@pytest.mark.parametrize("scale", [1e4, 1e-30])
def test_extreme_logits_are_finite(scale: float) -> None:
    student = (torch.randn(3, 4) * scale).requires_grad_()
    value = KD()(output(student), output(torch.randn(3, 4) * scale))
    torch.autograd.backward(value)
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, temperature: float, autocast: bool) -> None:
    extreme = torch.tensor([[65504.0, -65504.0, 0.0], [1.0, 2.0, 3.0]]).to(dtype)
    student, teacher = extreme.clone().requires_grad_(), extreme.roll(1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = KD(temperature)(output(student), output(teacher))
    assert value.dtype == torch.float32
    expected = KD(temperature)(output(student.double()), output(teacher.double()))
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.dtype == dtype and gradient.isfinite().all()


def test_its_term_has_a_name() -> None:
    assert list(KD().terms(output(torch.zeros(2, 3)), output(torch.zeros(2, 3)))) == ["kd"]


def test_what_it_refuses() -> None:
    with pytest.raises(RelgraphError, match=r"^KD reads logits: expected Output\(embedding, logits\)"):
        KD()(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(RelgraphError, match=r"from student and teacher, got \(2, 3\) and \(2, 4\)$"):
        KD()(output(torch.zeros(2, 3)), output(torch.zeros(2, 4)))
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(RelgraphError, match=rf"^temperature must be above 0, got {wrong}$"):
            KD(wrong)
