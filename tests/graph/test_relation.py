"""Relations and node matching: matching in every form against loops over the cross graph; what is refused.

Relations in every form are in test_forms.py and test_own_parts.py; sparse against dense they are laws of the methods.
"""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import frobenius, mean_square
from relgraph.graph.forms import Form
from relgraph.graph.kernels import cosine, pearson
from relgraph.graph.pair import check_nodes, graph_pair
from relgraph.graph.relation import Relation, across_in_blocks, matching, target
from relgraph.graph.topology import ALL_PAIRS, Given, Nearest, Rule
from tests.checks import assert_refused
from tests.graph.test_factored import with_gradient

N = 9
EDGES = Given(torch.tensor([[1, 2, 7], [0, 0, 3]]))


def nodes() -> tuple[Tensor, Tensor]:
    student = torch.randn(N, 5).double()
    student[2] = 1.5  # without variance
    student[5] = student[6]
    return student, student + 0.1


def test_the_target_is_each_nodes_own() -> None:
    student, teacher = nodes()
    assert torch.equal(target(graph_pair(student, teacher)), torch.eye(N).double())
    assert target(graph_pair(student, teacher, topology=Nearest(2))).tolist() == [1.0] * N + [0.0] * (2 * N)


@pytest.mark.parametrize("block", [1, 4, N, N + 1])
def test_the_cross_graph_is_compared_in_blocks(block: int) -> None:
    student, teacher = nodes()

    def matrix(s: Tensor, t: Tensor) -> Tensor:
        return frobenius(pearson(s, t), torch.eye(N).double())

    def blocked(s: Tensor, t: Tensor) -> Tensor:
        return across_in_blocks(pearson, pearson.nodes(s), pearson.nodes(t), block)

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


def test_what_is_no_part_or_no_batch_is_refused() -> None:
    x, sizes = torch.zeros(4, 3), "embeddings must be (N, D), student and teacher of the same N images, got"
    width = "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5"
    check_nodes(x, torch.zeros(4, 5))
    assert_refused(
        (lambda: Relation()(x, torch.zeros(5, 3)), f"{sizes} (4, 3) and (5, 3)"),
        (lambda: Relation()(x[:, 0], x[:, 0]), f"{sizes} (4,) and (4,)"),
        (lambda: Relation()(x[:0], x[:0]), "embeddings must not be empty, got (0, 3) and (0, 3)"),
        (lambda: Relation()(x[:, :0], x), "embeddings must not be empty, got (4, 0) and (4, 3)"),
        (lambda: Relation()(x.long(), x), "embeddings must be of floating point, got torch.int64 and torch.float32"),
        (lambda: Relation()(x, x.to("meta")), "student and teacher must lie on one device, got cpu and meta"),
        (lambda: check_nodes(x, torch.zeros(4, 5), one_width=True), width),
    )
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"kernel": lambda x, y: x}, "kernel of a relation is a Kernel"),
        ({"topology": mean_square}, "topology of a relation is a Rule"),
        ({"topology": Nearest}, "topology of a relation is a Rule"),
        ({"scale": "softmax"}, "scale of a relation is a Scale"),
        ({"criterion": pearson}, "criterion of a relation is a Criterion"),
    )
    assert_refused(*((partial(Relation, **part), f"the {message}, such as…") for part, message in wrong))


@pytest.mark.parametrize("n", [6, 1500])
def test_a_part_that_returns_another_shape_is_refused_in_every_form(n: int) -> None:
    x, row = torch.randn(n, 2), "the row of a criterion returns one number for each anchor: expected ("
    wrong: list[Relation] = [Relation(criterion=torch.nn.functional.mse_loss, form=f) for f in ("matrix", "blocked")]
    rule = Relation(topology=lambda student, teacher, kernel: student)  # type: ignore[arg-type, return-value]
    assert_refused(
        *((partial(relation, x, x), f"{row}…") for relation in wrong),
        (lambda: Relation(scale=lambda weights: weights.sum(-1))(x, x), "a scale keeps the shape of the weights: …"),
        (lambda: rule(x[:6], x[:6]), "a rule returns Edges(edge_index, anchors), got Tensor"),
    )
