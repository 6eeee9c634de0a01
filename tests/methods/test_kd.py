"""KD against its formula, and against the benchmark code's own numbers."""

from functools import partial
from itertools import product

import torch
from torch import Tensor

from relgraph.methods import KD, Output
from tests.checks import case
from tests.methods.golden import check, logits


def output(logits: Tensor) -> Output:
    return Output(torch.zeros(len(logits), 2), logits)


def formula(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    s, t = ((z / temperature).exp() / (z / temperature).exp().sum(1, keepdim=True) for z in (student, teacher))
    return temperature**2 * (t * (t / s).log()).sum() / len(student)


def test_official_value_and_gradient() -> None:
    for key, loss in {"kd_T1": KD(1.0), "kd_T4": KD()}.items():
        student, teacher = logits()
        check(key, partial(loss, output(student), output(teacher)), {"student_logits": student})


def test_the_formula() -> None:
    for shape, temperature in product(((1, 2), (5, 10)), (0.5, 1.0, 4.0, 20.0)):
        student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
        with case(shape, temperature):
            found, expected = KD(temperature)(output(student), output(teacher)), formula(student, teacher, temperature)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


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
