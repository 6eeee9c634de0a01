"""KD against a loop over images and classes, and against the benchmark code's own numbers."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from relgraph.methods import KD, Output
from tests.checks import assert_refused, case
from tests.methods.golden import check, logits, vectors


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


def test_a_naive_loop() -> None:
    for shape in ((1, 2), (5, 10)):
        student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
        for temperature in (0.5, 1.0, 4.0, 20.0):
            value = KD(temperature)(output(student), output(teacher)).item()
            assert value == pytest.approx(naive(student, teacher, temperature), rel=1e-10), (shape, temperature)


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


def test_the_gradient_does_not_shrink_with_the_temperature() -> None:
    student, teacher = vectors(4, 5, 5)
    (gradient,) = torch.autograd.grad(KD(2.0)(output(student), output(teacher)), student)
    torch.testing.assert_close(gradient, 2.0 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_keep_their_digits(dtype: torch.dtype) -> None:
    extreme = torch.tensor([[65504.0, -65504.0, 0.0], [1.0, 2.0, 3.0]]).to(dtype)
    for temperature, autocast in product((0.5, 3.0), (False, True)):
        with case(temperature, autocast):
            student, teacher = extreme.clone().requires_grad_(), extreme.roll(1, 1)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                value = KD(temperature)(output(student), output(teacher))
            expected = KD(temperature)(output(student.double()), output(teacher.double()))
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
            assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_what_it_refuses() -> None:
    two = torch.zeros(2, 3)
    shapes = "KD needs logits of one shape (N, classes) from student and teacher, got (2, 3) and (2, 4)"
    assert_refused(
        (lambda: KD()(two, two), "KD reads logits: expected Output(embedding, logits)…"),
        (lambda: KD()(output(two), output(torch.zeros(2, 4))), shapes),
        *((partial(KD, wrong), f"temperature must be above 0, got {wrong}") for wrong in (0.0, -1.0, math.nan)),
    )
