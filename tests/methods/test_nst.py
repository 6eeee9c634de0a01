"""NST against the authors' number and its formula."""

import pytest
import torch
from torch import Tensor, nn

from relgraph.methods import Output
from relgraph.methods.nst import NST, selectivity_loss
from tests.methods.golden import check, maps, output_of_maps

N = 3
STUDENT = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER = ((2, 4, 4), (2, 4, 4), (5, 4, 4), (6, 2, 2))


def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of the squared cosines of all channels of one image with all of the other."""
    return nn.functional.cosine_similarity(x.flatten(1)[:, None], y.flatten(1), dim=2).square().mean()


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(student, teacher, strict=True)
    return torch.stack([mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t) for s, t in pairs]).mean()


def test_official_value_and_gradient() -> None:
    first, last = maps(8, 4, 8, 8, phase=0), maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    student, teacher = (
        Output(torch.zeros(8, 2), maps=(torch.randn(8, 2, 2, 2), *pair)) for pair in zip(first, last, strict=True)
    )
    check("nst_sum_fm1_fm2", lambda: NST()(student, teacher), inputs)


def test_the_formula_with_stages_paired_from_the_end() -> None:
    student, teacher = output_of_maps(STUDENT, N), output_of_maps(TEACHER, N)
    expected = formula(student.maps[1], teacher.maps[2]) + formula(student.maps[2], teacher.maps[3])
    assert NST()(student, teacher).item() == pytest.approx(expected.item(), rel=1e-10)


def test_dead_channels_and_one_position_are_finite() -> None:
    student, teacher = torch.randn(2, 1, 3, 2, 2)
    student[:, 1] = 0
    value = selectivity_loss(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite() and gradient.isfinite().all() and not gradient[:, 1].any()
    assert selectivity_loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 3, 1, 1)) == 1
