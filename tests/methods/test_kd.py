"""KD against its formula, and against the benchmark code's own numbers."""

from itertools import product

import torch
from torch import Tensor

from relgraph.methods import KD
from tests.checks import case
from tests.methods.golden import of_logits, value_and_gradient


def formula(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    s, t = ((z / temperature).exp() / (z / temperature).exp().sum(1, keepdim=True) for z in (student, teacher))
    return temperature**2 * (t * (t / s).log()).sum() / len(student)


def test_the_formula() -> None:
    for shape, temperature in product(((1, 2), (5, 10)), (0.5, 1.0, 4.0, 20.0)):
        student, teacher = torch.randn(2, *shape, dtype=torch.float64) * 3
        with case(shape, temperature):
            found, expected = (
                KD(temperature)(of_logits(student), of_logits(teacher)),
                formula(student, teacher, temperature),
            )
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_extreme_logits_keep_their_digits() -> None:
    numbers = torch.tensor([[65504.0, -65504.0, 0.0], [1.0, 2.0, 3.0]])
    for dtype, temperature, autocast in product((torch.float16, torch.bfloat16), (0.5, 3.0), (False, True)):
        extreme = numbers.to(dtype)
        with case(dtype, temperature, autocast):
            student, teacher = extreme.clone().requires_grad_(), extreme.roll(1, 1)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                value = KD(temperature)(of_logits(student), of_logits(teacher))
            expected = KD(temperature)(of_logits(student.double()), of_logits(teacher.double()))
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
            assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_standardised_logits_have_no_scale_and_those_without_variance_no_gradient() -> None:
    loss, (student, teacher) = KD(standardise=True), torch.randn(2, 6, 5).double()
    expected = loss(of_logits(student), of_logits(teacher))
    for scale, shift in ((10.0, 0.0), (1.0, 7.0), (1e-3, -1.0)):
        moved = loss(of_logits(scale * student + shift), of_logits(teacher))
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)
    equal = torch.full((6, 5), 0.1).requires_grad_()
    value, gradient = value_and_gradient(lambda x: loss(of_logits(x), of_logits(teacher)), equal)
    assert value > 0 and not gradient.any()
    one = torch.randn(3, 1)
    assert loss(of_logits(one), of_logits(one)) == 0, "of one class"
