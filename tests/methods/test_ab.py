"""AB against the authors' number and a loop over neurons, with and without its connectors, and the laws it keeps."""

import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from relgraph.errors import RelgraphError
from relgraph.methods import Output
from relgraph.methods.ab import AB, boundary_loss
from relgraph.methods.base import Shapes
from tests.methods import golden

N = 3
STUDENT: Shapes = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER: Shapes = ((2, 8, 8), (7, 8, 8), (5, 4, 4), (6, 1, 1))


def output(shapes: Shapes = STUDENT, n: int = N) -> Output:
    """Return maps as they come after a ReLU."""
    maps = (torch.randn(n, *shape, dtype=torch.float64).relu() for shape in shapes)
    return Output(torch.zeros(n, 2), maps=tuple(maps))


def naive(student: Tensor, teacher: Tensor, margin: float = 1.0) -> float:
    """Return the loss of one stage without the factors: neurons of the wrong side of the margin, for each image."""
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(student)


def connected(loss: AB, stage: int, maps: Tensor) -> Tensor:
    """Return a connector's output: mixed channels, then standardised over images and positions."""
    conv, _ = loss.connectors[stage].children()
    mixed = torch.einsum("oi,nihw->nohw", conv.get_parameter("weight").flatten(1), maps)
    mean, variance = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), correction=0, keepdim=True)
    return (mixed - mean) / (variance + 1e-5).sqrt()


def test_official_value_and_gradient() -> None:
    first, last = golden.maps(8, 4, 8, 8, phase=0), golden.maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    golden.check("ab_sum_fm1_fm2", lambda: boundary_loss([first[0], last[0]], [first[1], last[1]]), inputs)


@pytest.mark.parametrize("margin", [0.3, 1.0, 2.0])
def test_a_naive_loop(margin: float) -> None:
    student = [torch.randn(N, 3, 4, 4).double(), torch.randn(N, 4, 2, 2).double(), torch.randn(N, 2, 2, 2).double()]
    teacher = [torch.randn_like(stage).relu() for stage in student]
    parts = [naive(s, t, margin) for s, t in zip(student, teacher, strict=True)]
    expected = 0.003 * (parts[0] / 4 + parts[1] / 2 + parts[2])
    assert boundary_loss(student, teacher, margin).item() == pytest.approx(expected, rel=1e-10)


def test_with_connectors_and_stages_paired_from_the_end() -> None:
    student, teacher = output(), output(TEACHER)
    loss = AB(STUDENT, TEACHER, margin=0.5).double()
    first, last = (connected(loss, stage, student.maps[stage + 1]) for stage in range(2))
    expected = naive(first, teacher.maps[2], 0.5) / 2 + naive(adaptive_avg_pool2d(last, 1), teacher.maps[3], 0.5)
    assert loss(student, teacher).item() == pytest.approx(0.003 * expected, rel=1e-10)


def test_only_the_sign_of_the_teacher_matters_so_a_relu_changes_nothing() -> None:
    student, before = torch.randn(2, N, 3, 4, 4).double()
    found = boundary_loss([student], [before])
    assert torch.equal(found, boundary_loss([student], [before.relu()]))
    assert torch.equal(found, boundary_loss([student], [before * 7]))
    assert not torch.equal(found, boundary_loss([student], [-before]))


def test_gradient_reaches_stages_and_connectors_and_nothing_else() -> None:
    student, teacher = output(), output(TEACHER)
    for stage in (*student.maps, *teacher.maps):
        stage.requires_grad_()
    loss = AB(STUDENT, TEACHER).double()
    torch.autograd.backward(loss(student, teacher))
    assert student.maps[0].grad is None and all(stage.grad is None for stage in teacher.maps)
    learnt = [*student.maps[1:], *loss.parameters()]
    assert len(learnt) == 2 + 6
    assert all(x.grad is not None and x.grad.any() for x in learnt)
    assert list(loss.teacher_parameters()) == []


def test_gradcheck() -> None:
    shapes: Shapes = ((1, 1, 1), (2, 2, 2))
    loss, teacher = AB(shapes, shapes).double(), output(shapes)
    stem = torch.zeros(N, 1, 1, 1).double()

    def value(stage: Tensor) -> Tensor:
        found: Tensor = loss(Output(stem, maps=(stem, stage)), teacher)
        return found

    assert torch.autograd.gradcheck(value, torch.randn(N, 2, 2, 2).double().requires_grad_())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (
        given._replace(maps=tuple(stage.to(dtype) for stage in given.maps)) for given in (output(), output())
    )
    leaves = [stage.requires_grad_() for stage in student.maps[1:]]
    loss = AB(STUDENT, STUDENT)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, leaves))
    expected = loss.double()(student, teacher)
    torch.testing.assert_close(value.double(), expected, rtol=0.02 if autocast else 1e-5, atol=0)


def test_maps_of_zeros_and_one_image_are_finite() -> None:
    loss = AB(STUDENT, STUDENT).double()
    dead = output(n=1)._replace(maps=tuple(torch.zeros(1, *shape).double().requires_grad_() for shape in STUDENT))
    value = loss(dead, output(n=1))
    torch.autograd.backward(value)
    found = [*dead.maps[1:], *loss.parameters()]
    assert value.isfinite() and all(x.grad is not None and x.grad.isfinite().all() for x in found)
    # All of the 48 + 16 neurons have the pre-activation 0, at distance 1 of any side.
    assert value.item() == pytest.approx(0.003 * (48 / 2 + 16), rel=1e-10)


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    student, teacher = output(), output()
    loss = AB(STUDENT, STUDENT).double()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    assert list(loss.terms(student, teacher)) == ["ab"] and loss.reads == ("maps",) and loss.weight == 1
    assert round(270 * loss.init_share) == 30
    assert torch.equal(loss(student, teacher), loss(student, teacher))
    assert all(torch.equal(value, state[name]) for name, value in loss.state_dict().items())


def test_its_layers_follow_the_seed() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in AB(STUDENT, TEACHER).parameters()])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_what_it_refuses() -> None:
    message = (
        "AB reads stage maps, the maps=(...) of an Output: "
        "expected at least 2 of student and teacher (stem and one stage), got 3 and 0"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        AB(STUDENT, ())
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        AB(STUDENT, TEACHER)(output(), torch.zeros(N, 2))
    message = "AB was built for stage maps with channels [(3, 5), (4, 6)] of student and teacher, got [(3, 3), (4, 4)]"
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        AB(STUDENT, TEACHER)(output(), output())
    with pytest.raises(RelgraphError, match=r"^margin must be above 0, got 0\.0$"):
        AB(STUDENT, TEACHER, margin=0.0)
