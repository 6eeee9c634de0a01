"""VID against the authors' number with weights of a closed form, a loop over numbers, and the laws that it keeps."""

import math
import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import Output
from relgraph.methods.base import Shapes
from relgraph.methods.vid import FLOOR, VID, variational_loss
from tests.methods import golden

N = 3
STUDENT: Shapes = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER: Shapes = ((2, 8, 8), (7, 8, 8), (5, 2, 2), (6, 4, 4))


def output(shapes: Shapes = STUDENT, n: int = N) -> Output:
    return Output(torch.zeros(n, 2), maps=tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes))


def halved(maps: Tensor) -> Tensor:
    """Return the means over windows of 2 x 2."""
    return torch.stack([maps[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]).mean(0)


def predicted(loss: VID, stage: int, maps: Tensor) -> Tensor:
    weights = [parameter.flatten(1) for parameter in loss.regressors[stage].parameters()]
    assert len(weights) == 3
    for weight in weights[:2]:
        maps = torch.einsum("oi,nihw->nohw", weight, maps).clamp_min(0)
    return torch.einsum("oi,nihw->nohw", weights[2], maps)


def naive(mean: Tensor, teacher: Tensor, variances: list[float]) -> float:
    """Return the negative logarithm of the likelihood of each number, on average, less half of log 2 pi."""
    total = 0.0
    for mu, t in zip(mean.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        for channel_mu, channel_t, v in zip(mu, t, variances, strict=True):
            pairs = zip(channel_mu, channel_t, strict=True)
            total += sum((a - b) ** 2 / (2 * v) + math.log(math.sqrt(v)) for a, b in pairs)
    return total / teacher.numel()


def test_official_value_and_gradient() -> None:
    shapes: Shapes = ((3, 4, 4), (8, 4, 4))
    loss = VID(shapes, shapes).double()
    for n, weight in enumerate(loss.regressors[0].parameters(), start=1):
        filled = 0.3 * torch.sin(0.1 * n * golden.outer(8, 1, 8, 1))
        weight.data.copy_(filled.view(8, 8, 1, 1))
    maps, stem = golden.maps(8, 8, 4, 4, phase=0.5), torch.randn(8, 3, 4, 4)
    student, teacher = (Output(torch.zeros(8, 2), maps=(stem, stage)) for stage in maps)
    with torch.no_grad():  # the constructor's number is rounded to float32
        loss.raw_variances[0].fill_(math.log(math.expm1(5 - FLOOR)))
    golden.check("vid_fm2_formula_weights", lambda: loss(student, teacher), {"fm2": maps[0]})


def test_a_naive_loop_with_stages_paired_from_the_end() -> None:
    student, teacher = output(), output(TEACHER)
    loss = VID(STUDENT, TEACHER).double()
    raw = [torch.randn_like(parameter) for parameter in loss.raw_variances]
    for parameter, values in zip(loss.raw_variances, raw, strict=True):
        parameter.data.copy_(values)
    variances = [[math.log1p(math.exp(value)) + 1e-5 for value in values.tolist()] for values in raw]
    expected = naive(predicted(loss, 0, halved(student.maps[1])), teacher.maps[2], variances[0])
    expected += naive(predicted(loss, 1, student.maps[2]), halved(teacher.maps[3]), variances[1])
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("variance", [1.1e-5, 0.5, 5.0, 1e4])
def test_the_variance_at_the_start(variance: float) -> None:
    raw = VID(STUDENT, TEACHER, init_variance=variance).double().raw_variances[0]
    found = (variational_loss(torch.zeros(1, 5, 1, 1), torch.zeros(1, 5, 1, 1), raw) * 2).exp().item()
    assert found == pytest.approx(variance, rel=1e-6)


def test_a_prediction_that_errs_by_its_deviation_is_the_best_for_its_variance() -> None:
    raw = torch.tensor([math.log(math.expm1(4 - 1e-5))], dtype=torch.float64, requires_grad=True)
    mean, teacher = torch.zeros(1, 1, 1, 2).double(), torch.full((1, 1, 1, 2), 2.0).double()
    value = variational_loss(mean, teacher, raw)
    assert value.item() == pytest.approx(0.5 + math.log(2), rel=1e-10)
    assert torch.autograd.grad(value, raw)[0].abs() < 1e-12


def test_gradient_reaches_stages_and_layers_and_nothing_else() -> None:
    student, teacher = output(), output(TEACHER)
    for stage in (*student.maps, *teacher.maps):
        stage.requires_grad_()
    loss = VID(STUDENT, TEACHER).double()
    torch.autograd.backward(loss(student, teacher))
    assert student.maps[0].grad is None and all(stage.grad is None for stage in teacher.maps)
    learnt = [*student.maps[1:], *loss.parameters()]
    assert len(learnt) == 2 + 6 + 2
    assert all(x.grad is not None and x.grad.any() for x in learnt)
    assert list(loss.teacher_parameters()) == []


def test_gradcheck() -> None:
    mean, raw = torch.randn(2, 3, 2, 2).double().requires_grad_(), torch.randn(3).double().requires_grad_()
    teacher = torch.randn(2, 3, 2, 2).double()
    assert torch.autograd.gradcheck(lambda mu, p: variational_loss(mu, teacher, p), (mean, raw))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (
        given._replace(maps=tuple((30 * stage).to(dtype) for stage in given.maps)) for given in (output(), output())
    )
    leaves = [stage.requires_grad_() for stage in student.maps[1:]]
    loss = VID(STUDENT, STUDENT)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, leaves))
    expected = loss.double()(student, teacher)
    torch.testing.assert_close(value.double(), expected, rtol=0.02 if autocast else 1e-5, atol=0)


def test_maps_of_zeros_and_one_image_are_finite() -> None:
    loss = VID(STUDENT, STUDENT).double()
    dead = output(n=1)._replace(maps=tuple(torch.zeros(1, *shape).double().requires_grad_() for shape in STUDENT))
    value = loss(dead, Output(torch.zeros(1, 2), maps=tuple(stage.detach() for stage in dead.maps)))
    torch.autograd.backward(value)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in [*dead.maps[1:], *loss.parameters()])
    assert value.item() == pytest.approx(math.log(5), rel=1e-6)  # 1/2 log 5 in each of two stages


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    student, teacher = output(), output()
    loss = VID(STUDENT, STUDENT).double()
    assert list(loss.terms(student, teacher)) == ["vid"] and loss.reads == ("maps",) and loss.weight == 1
    assert torch.equal(loss(student, teacher), loss(student, teacher))


def test_its_layers_follow_the_seed() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in VID(STUDENT, TEACHER).parameters()])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_what_it_refuses() -> None:
    message = (
        "VID reads stage maps, the maps=(...) of an Output: "
        "expected at least 2 of student and teacher (stem and one stage), got 3 and 0"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        VID(STUDENT, ())
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        VID(STUDENT, TEACHER)(output(), torch.zeros(N, 2))
    message = "VID was built for stage maps with channels [(3, 5), (4, 6)] of student and teacher, got [(4, 6)]"
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        VID(STUDENT, TEACHER)(output(STUDENT[1:]), output(TEACHER))
    for wrong in (0.0, 1e-5, math.inf, math.nan):
        with pytest.raises(RelgraphError, match=rf"^init_variance must be above 1e-05 and below inf, got {wrong}$"):
            VID(STUDENT, TEACHER, init_variance=wrong)
