"""IRG's scale and criteria against loops in Python's floats, and on edge lists against all pairs."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import Criterion, half_square, sum_square
from relgraph.graph.scales import by_constant_max, by_max
from relgraph.graph.topology import ALL_PAIRS, Edges

ANCHORS, CANDIDATES = 4, 6
EVERY_PAIR = Edges(torch.ones(ANCHORS, CANDIDATES).nonzero().T.flip(0), ANCHORS)
NO_EDGE = Edges(torch.zeros(2, 0, dtype=torch.long), ANCHORS)
CRITERIA: dict[str, Criterion] = {"sum_square": sum_square, "half_square": half_square}


def weights() -> tuple[Tensor, Tensor]:
    student, teacher = torch.rand(2, ANCHORS, CANDIDATES).double()
    return student.requires_grad_(), teacher


def loop(name: str, student: Tensor, teacher: Tensor) -> float:
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    total = math.fsum((s - t) ** 2 for row_s, row_t in rows for s, t in zip(row_s, row_t, strict=True))
    return total if name == "sum_square" else total / (2 * len(student))


@pytest.mark.parametrize("name", CRITERIA)
def test_criterion_equals_a_double_loop(name: str) -> None:
    student, teacher = weights()
    assert CRITERIA[name](student, teacher).item() == pytest.approx(loop(name, student, teacher), rel=1e-12)


@pytest.mark.parametrize("name", CRITERIA)
def test_an_edge_list_of_all_pairs_equals_all_pairs(name: str) -> None:
    student, teacher = weights()
    values, gradients = [], []
    for topology in (ALL_PAIRS, EVERY_PAIR):
        s, t = (by_constant_max(topology.pick(x), topology) for x in (student, teacher))
        values.append(CRITERIA[name](s, t, topology))
        gradients.append(torch.autograd.grad(values[-1], student)[0])
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_half_the_square_of_a_row_is_that_of_one_anchor() -> None:
    assert half_square(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)).item() == 7


@pytest.mark.parametrize("name", CRITERIA)
def test_gradients(name: str) -> None:
    student, teacher = weights()
    assert torch.autograd.gradcheck(lambda s: CRITERIA[name](s, teacher), (student,))


def test_a_constant_maximum_has_the_value_and_passes_no_gradient() -> None:
    student, _ = weights()
    assert torch.equal(by_constant_max(student), by_max(student))
    factors = torch.rand(ANCHORS, CANDIDATES).double()
    (gradient,) = torch.autograd.grad((by_constant_max(student) * factors).sum(), student)
    torch.testing.assert_close(gradient, factors / student.max().item())


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("topology", [ALL_PAIRS, EVERY_PAIR, NO_EDGE], ids=["all pairs", "edges", "no edge"])
def test_weights_of_zero_and_graphs_without_edges_differ_by_nothing(name: str, topology: Edges) -> None:
    student = torch.zeros(ANCHORS, CANDIDATES, requires_grad=True)
    s, t = (by_constant_max(topology.pick(x), topology) for x in (student, torch.zeros(ANCHORS, CANDIDATES)))
    value = CRITERIA[name](s, t, topology)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == 0
    assert not gradient.any()
