"""VID against the authors' number with weights of a closed form, and its formula."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.methods import Output
from relgraph.methods.base import Shapes
from relgraph.methods.vid import FLOOR, VID, variational_loss
from tests.checks import assert_refused
from tests.methods.golden import check, halved, maps, outer, output_of_maps

STUDENT: Shapes = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER: Shapes = ((2, 8, 8), (7, 8, 8), (5, 2, 2), (6, 4, 4))


def predicted(loss: VID, stage: int, maps: Tensor) -> Tensor:
    weights = [parameter.flatten(1) for parameter in loss.regressors[stage].parameters()]
    assert len(weights) == 3
    for weight in weights[:2]:
        maps = torch.einsum("oi,nihw->nohw", weight, maps).clamp_min(0)
    return torch.einsum("oi,nihw->nohw", weights[2], maps)


def formula(mean: Tensor, teacher: Tensor, variances: Tensor) -> Tensor:
    """Return the negative logarithm of the likelihood of each number, on average, less half of log 2 pi."""
    v = variances[:, None, None]
    return ((mean - teacher) ** 2 / (2 * v) + v.sqrt().log()).mean()


def test_official_value_and_gradient() -> None:
    shapes: Shapes = ((3, 4, 4), (8, 4, 4))
    loss = VID(shapes, shapes).double()
    for n, weight in enumerate(loss.regressors[0].parameters(), start=1):
        filled = 0.3 * torch.sin(0.1 * n * outer(8, 1, 8, 1))
        weight.data.copy_(filled.view(8, 8, 1, 1))
    pair, stem = maps(8, 8, 4, 4, phase=0.5), torch.randn(8, 3, 4, 4)
    student, teacher = (Output(torch.zeros(8, 2), maps=(stem, stage)) for stage in pair)
    with torch.no_grad():  # the constructor's number is rounded to float32
        loss.raw_variances[0].fill_(math.log(math.expm1(5 - FLOOR)))
    check("vid_fm2_formula_weights", lambda: loss(student, teacher), {"fm2": pair[0]})


def test_the_formula_with_stages_paired_from_the_end() -> None:
    student, teacher = output_of_maps(STUDENT), output_of_maps(TEACHER)
    loss = VID(STUDENT, TEACHER).double()
    raw = [torch.randn_like(parameter) for parameter in loss.raw_variances]
    for parameter, values in zip(loss.raw_variances, raw, strict=True):
        parameter.data.copy_(values)
    variances = [values.exp().log1p() + 1e-5 for values in raw]
    expected = formula(predicted(loss, 0, halved(student.maps[1])), teacher.maps[2], variances[0])
    expected += formula(predicted(loss, 1, student.maps[2]), halved(teacher.maps[3]), variances[1])
    assert loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_variance_at_the_start() -> None:
    zeros = torch.zeros(1, 5, 1, 1)
    for variance in (1.1e-5, 0.5, 5.0, 1e4):
        raw = VID(STUDENT, TEACHER, init_variance=variance).double().raw_variances[0]
        assert (variational_loss(zeros, zeros, raw) * 2).exp().item() == pytest.approx(variance, rel=1e-6)


def test_what_it_refuses() -> None:
    loss, maps = VID(STUDENT, TEACHER), (output_of_maps(STUDENT[1:]), output_of_maps(TEACHER))
    built = "VID was built for stage maps with channels [(3, 5), (4, 6)] of student and teacher, got [(4, 6)]"
    assert_refused((partial(loss, *maps), built))
