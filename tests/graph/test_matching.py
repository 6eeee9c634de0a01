"""Node matching in every form against loops over the cross graph: its value and its gradient."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import frobenius
from relgraph.graph.kernels import cosine, pearson
from relgraph.graph.pair import Form, graph_pair
from relgraph.graph.relation import matching
from relgraph.graph.topology import ALL_PAIRS, Given, Rule
from tests.graph.test_factored import with_gradient

N = 9
EDGES = Given(torch.tensor([[1, 2, 7], [0, 0, 3]]))


def nodes() -> tuple[Tensor, Tensor]:
    student = torch.randn(N, 5).double()
    student[2] = 1.5  # without variance
    student[5] = student[6]
    return student, student + 0.1


@pytest.mark.parametrize("block", [1, 4, N, N + 1])
def test_the_cross_graph_is_compared_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relgraph.graph.blocks.LARGEST", block * N)
    student, teacher = nodes()

    def matrix(s: Tensor, t: Tensor) -> Tensor:
        return frobenius(pearson(s, t), torch.eye(N).double())

    def blocked(s: Tensor, t: Tensor) -> Tensor:
        return matching(graph_pair(s, t, form="blocked"), pearson)

    expected = with_gradient(matrix, student, teacher)
    torch.testing.assert_close(with_gradient(blocked, student, teacher), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("rule", "form"),
    [*((ALL_PAIRS, form) for form in ("matrix", "factored", "blocked")), (EDGES, "matrix"), (EDGES, "blocked")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_matching_is_a_loop_over_the_cross_graph(rule: Rule, form: Form) -> None:
    student, teacher = torch.randn(2, N, 5).double()
    own = [(i, i) for i in range(N)]
    pairs = [(i, j) for i in range(N) for j in range(N)] if rule.dense else [*own, (0, 1), (0, 2), (3, 7)]

    def plain(s: Tensor, t: Tensor) -> Tensor:
        cosines = (s[i] @ t[j] / (s[i].norm() * t[j].norm()) for i, j in pairs)
        missed = torch.stack([c - int(i == j) for c, (i, j) in zip(cosines, pairs, strict=True)])
        return missed.square().sum().sqrt()

    def found(s: Tensor, t: Tensor) -> Tensor:
        return matching(graph_pair(s, t, topology=rule, kernel=cosine, form=form), cosine)

    expected = with_gradient(plain, student, teacher)
    torch.testing.assert_close(with_gradient(found, student, teacher), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["matrix", "factored", "blocked"])
def test_nodes_that_are_their_own_and_no_other_match_exactly(form: Form) -> None:
    x = torch.eye(4, requires_grad=True)
    value = matching(graph_pair(x, torch.eye(4), kernel=cosine, form=form), cosine)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == 0 and value.dtype == torch.float32 and not gradient.any()
    turned = matching(graph_pair(x.roll(1, 0), torch.eye(4), kernel=cosine, form=form), cosine)
    assert turned.item() == pytest.approx(math.sqrt(8))
