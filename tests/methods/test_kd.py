"""KD against a loop over images and classes, and against the benchmark code's own numbers."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from relgraph.methods import KD, Output
from tests.checks import case
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


def test_official_value_and_gradient() -> None:
    for key, loss in {"kd_T1": KD(1.0), "kd_T4": KD()}.items():
        student, teacher = logits()
        check(key, partial(loss, output(student), output(teacher)), {"student_logits": student})


def test_a_naive_loop() -> None:
    for shape in ((1, 2), (5, 10)):
        student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
        for temperature in (0.5, 1.0, 4.0, 20.0):
            value = KD(temperature)(output(student), output(teacher)).item()
            assert value == pytest.approx(naive(student, teacher, temperature), rel=1e-10), (shape, temperature)


def test_extreme_logits_keep_their_digits() -> None:
    numbers = torch.tensor([[65504.0, -65504.0, 0.0], [1.0, 2.0, 3.0]])
    for dtype, temperature, autocast in product((torch.float16, torch.bfloat16), (0.5, 3.0), (False, True)):
        extreme = numbers.to(dtype)
        with case(dtype, temperature, autocast):
            student, teacher = extreme.clone().requires_grad_(), extreme.roll(1, 1)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                value = KD(temperature)(output(student), output(teacher))
            expected = KD(temperature)(output(student.double()), output(teacher.double()))
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
            assert torch.autograd.grad(value, student)[0].isfinite().all()
