"""AB against the authors' number and its formula, with and without its connectors."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from relgraph.methods import Output
from relgraph.methods.ab import AB, boundary_loss
from relgraph.methods.base import Shapes
from tests.checks import assert_refused
from tests.methods.golden import check, maps, output_of_maps, standardised

N = 3
STUDENT: Shapes = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER: Shapes = ((2, 8, 8), (7, 8, 8), (5, 4, 4), (6, 1, 1))


def after_relu(shapes: Shapes, n: int = N) -> Output:
    given = output_of_maps(shapes, n)
    return given._replace(maps=tuple(stage.relu() for stage in given.maps))


def formula(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """Return the loss of one stage without the factors: neurons of the wrong side of the margin, for each image."""
    off, on = (teacher > 0) & (student <= margin), (teacher <= 0) & (student > -margin)
    return (off * (student - margin) ** 2 + on * (student + margin) ** 2).sum() / len(student)


def connected(loss: AB, stage: int, given: Tensor) -> Tensor:
    """Return a connector's output: mixed channels, then standardised over images and positions."""
    conv, _ = loss.connectors[stage].children()
    return standardised(torch.einsum("oi,nihw->nohw", conv.get_parameter("weight").flatten(1), given))


def test_official_value_and_gradient() -> None:
    first, last = maps(8, 4, 8, 8, phase=0), maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    check("ab_sum_fm1_fm2", lambda: boundary_loss([first[0], last[0]], [first[1], last[1]]), inputs)


def test_the_formula() -> None:
    student = [torch.randn(N, 3, 4, 4).double(), torch.randn(N, 4, 2, 2).double(), torch.randn(N, 2, 2, 2).double()]
    teacher = [torch.randn_like(stage).relu() for stage in student]
    for margin in (0.3, 1.0, 2.0):
        parts = [formula(s, t, margin) for s, t in zip(student, teacher, strict=True)]
        expected = 0.003 * (parts[0] / 4 + parts[1] / 2 + parts[2])
        assert boundary_loss(student, teacher, margin).item() == pytest.approx(expected.item(), rel=1e-10), margin


def test_with_connectors_and_stages_paired_from_the_end() -> None:
    student, teacher = after_relu(STUDENT), after_relu(TEACHER)
    loss = AB(STUDENT, TEACHER, margin=0.5).double()
    first, last = (connected(loss, stage, student.maps[stage + 1]) for stage in range(2))
    expected = formula(first, teacher.maps[2], 0.5) / 2 + formula(adaptive_avg_pool2d(last, 1), teacher.maps[3], 0.5)
    assert loss(student, teacher).item() == pytest.approx(0.003 * expected.item(), rel=1e-10)


def test_what_it_refuses() -> None:
    built = "AB was built for stage maps with channels [(3, 5), (4, 6)] of student and teacher"
    assert_refused(
        (lambda: AB(STUDENT, TEACHER)(after_relu(STUDENT), after_relu(STUDENT)), f"{built}, got [(3, 3), (4, 4)]")
    )
