"""AT against the authors' number and its formula."""

import pytest
import torch
from torch import Tensor

from relgraph.methods import Output
from relgraph.methods.at import AT, attention, attention_loss
from tests.checks import case
from tests.methods.golden import attended, check, halved, maps, output_of_maps

N = 4
SHAPES = ((2, 8, 8), (3, 8, 8), (4, 4, 4))
TEACHER = ((2, 8, 8), (5, 8, 8), (6, 4, 4), (7, 2, 2))


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss of two maps, the larger of which has twice the other's height and width, or of one size."""
    if teacher.shape[-1] > student.shape[-1]:
        return formula(teacher, student)
    if student.shape[-1] > teacher.shape[-1]:
        student = halved(student)
    return (attended(student) - attended(teacher)).square().mean()


def test_official_value_and_gradient() -> None:
    first, last = maps(8, 4, 8, 8, phase=0), maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    student, teacher = (
        Output(torch.zeros(8, 2), maps=(torch.randn(8, 2, 2, 2), *pair)) for pair in zip(first, last, strict=True)
    )
    check("at_sum_fm1_fm2", lambda: AT()(student, teacher), inputs)


def test_the_formula_with_stages_paired_from_the_end() -> None:
    student, teacher = output_of_maps(SHAPES, N), output_of_maps(TEACHER, N)
    expected = formula(student.maps[1], teacher.maps[2]) + formula(student.maps[2], teacher.maps[3])
    assert AT()(student, teacher).item() == pytest.approx(expected.item(), rel=1e-10)
    assert AT()(teacher, student).item() == pytest.approx(expected.item(), rel=1e-10)


def test_maps_of_half_precision_keep_their_digits_at_any_scale() -> None:
    for dtype, scale in ((torch.float16, 1e-6), (torch.float16, 1e4), (torch.bfloat16, 1e30)):
        for autocast in (False, True):
            with case(dtype, scale, autocast):
                student = (torch.randn(N, 3, 4, 4) * scale).to(dtype).requires_grad_()
                teacher = (torch.randn(N, 3, 4, 4) * scale).to(dtype)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                    value = attention_loss(student, teacher)
                expected = attention_loss(student.double(), teacher.double())
                torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
                (gradient,) = torch.autograd.grad(value * scale, student)
                assert gradient.isfinite().all() and gradient.any()


def test_a_dead_image_has_attention_zero_and_no_gradient() -> None:
    student = torch.randn(2, 3, 4, 4)
    student[0] = 0
    teacher = torch.randn(2, 3, 4, 4)
    value = attention_loss(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert not attention(student)[0].any() and value.isfinite()
    assert not gradient[0].any() and gradient[1].any() and gradient.isfinite().all()
    assert attention_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)) == 0
