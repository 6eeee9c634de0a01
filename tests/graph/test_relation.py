"""Relations put together: sparse against dense, and their messages; the laws of the methods say the rest."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import cross_entropy, huber, kl, mean_square
from relgraph.graph.kernels import Kernel, cosine, dot, euclidean, linear, pearson, squared_euclidean, unit
from relgraph.graph.pair import check_nodes
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm, by_anchor_sum, by_max, by_mean, softmax
from relgraph.graph.topology import ALL_PAIRS, Edges, Graph, Nearest
from tests.checks import assert_refused
from tests.methods.golden import value_and_gradient, vectors

shifted_cosine = Kernel("shifted cosine", unit, dot, lambda c: (c + 1) / 2)


def compositions(topology: Graph = ALL_PAIRS) -> dict[str, Relation]:
    return {
        "ega edges": Relation(topology=topology),
        "rkd distance": Relation(euclidean, topology, by_mean, huber),
        "sp": Relation(linear, topology, by_anchor_norm, mean_square),
        "pkt": Relation(shifted_cosine, topology, by_anchor_sum, kl),
        "softmax": Relation(cosine, topology, softmax(0.5), cross_entropy),
        "irg": Relation(squared_euclidean, topology, by_max, mean_square),
    }


NAMES = list(compositions())
named = pytest.mark.parametrize("name", NAMES)


def embeddings(n: int = 8) -> tuple[Tensor, Tensor]:
    return vectors(n, 6, 10)


def every_pair(student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
    """Be the rule of all pairs, each node with itself included, as an edge list in a random order."""
    n = len(teacher)
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))[torch.randperm(n * n)]
    return Edges(pairs.T, n)


@named
def test_an_edge_list_of_all_pairs_equals_all_pairs(name: str) -> None:
    student, teacher = embeddings()
    dense = value_and_gradient(compositions()[name], student, teacher)
    sparse = value_and_gradient(compositions(every_pair)[name], student, teacher)
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-14)


@named
def test_all_neighbours_equal_all_pairs_without_the_diagonal(name: str) -> None:
    student, teacher = embeddings()
    relation = compositions()[name]
    off = ~torch.eye(8, dtype=torch.bool)
    # Without the diagonal each row is a matrix of its own, (N, N - 1).
    s, t = (relation.kernel(x)[off].view(8, 7) for x in (student, teacher))
    dense = relation.compare(s, t, ALL_PAIRS)
    expected = dense, torch.autograd.grad(dense, student)[0]
    for rule in (Nearest(7), Nearest(7, "student")):
        found = value_and_gradient(compositions(rule)[name], student, teacher)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


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
