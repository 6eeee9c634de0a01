"""Topologies against double loops, set operations and scikit-learn's neighbours."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import cosine, euclidean, pearson, squared_euclidean
from relgraph.graph.search import check_k
from relgraph.graph.topology import ALL_PAIRS, Above, Chooser, Edges, Given, Nearest, Rule, WithOwn, make_rule, nearest
from tests.checks import assert_refused, case

Pairs = set[tuple[int, int]]
each_chooser = pytest.mark.parametrize(
    ("by", "combine"),
    [
        ("student", lambda s, t: s),
        ("teacher", lambda s, t: t),
        ("union", lambda s, t: s | t),
        ("mutual", lambda s, t: s & t),
    ],
)


def matrices(n: int = 12) -> tuple[Tensor, Tensor]:
    return pearson(torch.randn(n, 8).double()), pearson(torch.randn(n, 8).double())


def as_set(edges: object) -> Pairs:
    """Return the edges (neighbour, anchor); each may stand there once only."""
    assert isinstance(edges, Edges)
    pairs = set(map(tuple, edges.edge_index.T.tolist()))
    assert len(pairs) == edges.edge_index.shape[1]
    return pairs


def neighbours(matrix: Tensor, k: int) -> Pairs:
    """Return the edges (neighbour, anchor) of each row's k largest others, by Python's sort."""
    pairs = set()
    for anchor, row in enumerate(matrix.tolist()):
        others = sorted((j for j in range(len(row)) if j != anchor), key=lambda j: -row[j])
        pairs |= {(j, anchor) for j in others[:k]}
    return pairs


def every_pair(n: int) -> Edges:
    anchor, candidate = torch.ones(n, n).nonzero(as_tuple=True)
    return Edges(torch.stack([candidate, anchor]), n)


EDGES = Edges(torch.tensor([[3, 1, 0, 2, 4, 1], [0, 0, 2, 4, 2, 2]]), anchors=5)


def test_reductions_are_those_of_each_anchor() -> None:
    weights = torch.randn(6).double()
    groups = {0: [0, 1], 2: [2, 4, 5], 4: [3]}
    total, softmax = EDGES.sum(weights), EDGES.log_softmax(weights)
    for members in groups.values():
        torch.testing.assert_close(total[members], weights[members].sum().expand(len(members)))
        torch.testing.assert_close(softmax[members], weights[members].log_softmax(0))
    counts = Criterion(lambda s, t: 0 * s.sum(-1), finish=lambda total, anchors, edges: total + anchors)
    assert counts(weights, weights, EDGES) == 5
    assert counts(weights.expand(3, 2, 6), weights.expand(3, 2, 6), EDGES) == 5  # the mean over six graphs


def test_all_pairs_reduce_rows() -> None:
    weights = torch.randn(2, 3, 4).double()
    assert ALL_PAIRS.pick(weights) is weights
    assert ALL_PAIRS(weights, weights, pearson) is ALL_PAIRS
    total, softmax = ALL_PAIRS.sum(weights), ALL_PAIRS.log_softmax(weights)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(total[i, j], weights[i, j].sum().expand(4))
            torch.testing.assert_close(softmax[i, j].exp(), weights[i, j].exp() / weights[i, j].exp().sum())


def test_nearest_are_those_of_scikit_learn() -> None:
    metrics = {pearson: "correlation", cosine: "cosine", euclidean: "euclidean", squared_euclidean: "sqeuclidean"}
    x = torch.randn(20, 6).double() + 1
    for (kernel, metric), k in product(metrics.items(), (1, 4, 19)):
        oracle = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(x.numpy())
        with case(metric, k):
            assert nearest(kernel(x), k, kernel).tolist() == oracle.kneighbors(return_distance=False).tolist()


def test_equal_nodes_are_neighbours_and_never_their_own() -> None:
    x = torch.randn(1, 6).repeat(5, 1)
    for kernel in (pearson, euclidean):
        for row, chosen in enumerate(nearest(kernel(x), 4, kernel).tolist()):
            assert sorted(chosen) == [j for j in range(5) if j != row]


@each_chooser
def test_who_chooses(by: Chooser, combine: Callable[[Pairs, Pairs], Pairs]) -> None:
    student, teacher = matrices()
    for k in (1, 3, 11):
        edges = Nearest(k, by)(student, teacher, pearson)
        assert isinstance(edges, Edges) and edges.anchors == 12
        assert as_set(edges) == combine(neighbours(student, k), neighbours(teacher, k)), k


@pytest.mark.parametrize("rule", [Nearest(3), Nearest(2, "mutual"), Above(0.4), Given(torch.tensor([[1, 2], [0, 5]]))])
def test_the_rule_with_own_adds_each_nodes_edge_to_itself(rule: Rule) -> None:
    student, teacher = matrices()
    with_own = WithOwn(rule)(student, teacher, pearson)
    assert as_set(with_own) == as_set(rule(student, teacher, pearson)) | {(i, i) for i in range(12)}
    assert isinstance(with_own, Edges) and with_own.anchors == 12


def test_all_pairs_have_their_own_already() -> None:
    assert WithOwn(ALL_PAIRS)(*matrices(), pearson) is ALL_PAIRS
    assert as_set(WithOwn(Nearest(11))(*matrices(), pearson)) == as_set(every_pair(12))


@each_chooser
def test_above_is_a_double_loop(by: Chooser, combine: Callable[[Pairs, Pairs], Pairs]) -> None:
    student, teacher = matrices()
    for threshold in (0.0, 0.4, 2.0):
        of_each = (
            {(j, i) for i in range(12) for j in range(12) if i != j and abs(matrix[i][j]) >= threshold}
            for matrix in (student.tolist(), teacher.tolist())
        )
        assert as_set(Above(threshold, by)(student, teacher, pearson)) == combine(*of_each), threshold


def test_above_counts_magnitudes_and_the_threshold_itself() -> None:
    matrix = torch.tensor([[1.0, -0.5, 0.25], [-0.5, 1.0, 0.0], [0.25, 0.0, 1.0]])
    assert as_set(Above(0.5)(matrix, matrix, pearson)) == {(0, 1), (1, 0)}


def test_given_edges_are_taken_as_they_are() -> None:
    edge_index = torch.tensor([[0, 1, 5], [1, 0, 3]], dtype=torch.int32)
    found = Given(edge_index)(*matrices(6), pearson)
    assert found.edge_index.dtype == torch.long
    assert found.edge_index.tolist() == edge_index.tolist()
    assert found.anchors == 6


def test_rules_by_name() -> None:
    edges, own = torch.tensor([[1], [0]]), Above(0.5)
    assert make_rule("dense") is ALL_PAIRS
    assert make_rule("knn") == Nearest(8, "teacher")
    assert make_rule("knn", 3, "union") == Nearest(3, "union")
    assert isinstance(make_rule(edges), Given)
    assert make_rule(own) is own


def test_what_is_refused() -> None:
    integers, belong = "edge_index must be (2, E) of integers, got", "k and neighbours belong to the graph 'knn', got"
    between = "k must be between 1 and the number of nodes less one, 11, got 12"
    join = "edge_index must not join a node with itself: the cross graph adds each node's own counterpart"
    one, outside = torch.tensor([[1], [0]]), Given(torch.tensor([[0, 6], [1, 2]]))
    check_k(11, 12)
    assert_refused(
        (lambda: Given(torch.zeros(3, 64).long()), f"{integers} (3, 64) of torch.int64"),
        (lambda: Given(torch.zeros(2, 4)), f"{integers} (2, 4) of torch.float32"),
        (lambda: Given(torch.zeros(4).long()), f"{integers} (4,) of torch.int64"),
        (lambda: Given(torch.zeros(2, 0).long()), "edge_index must hold at least one edge, got (2, 0)"),
        (lambda: Given(torch.tensor([[0], [-1]])), "edge_index must name nodes from 0 on, got -1"),
        (lambda: Given(torch.tensor([[0, 1], [1, 1]])), join),
        (lambda: make_rule(torch.tensor([[1, 1], [0, 0]])), "edge_index must name each edge once…"),
        (lambda: outside(*matrices(6), pearson), "edge_index must name nodes 0 to 5, got 6"),
        (lambda: Nearest(0), "k must be at least 1, got 0"),
        (lambda: Nearest(2.5), "k must be a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: Nearest("3"), "k must be a whole number, got '3'"),  # type: ignore[arg-type]
        (lambda: Given([[0], [1]]), "edge_index must be a tensor (2, E) of integers, got list"),  # type: ignore[arg-type]
        (lambda: Nearest(12)(*matrices(), pearson), between),
        (lambda: Nearest(12, "mutual")(*matrices(), pearson), between),
        (lambda: check_k(12, 12), between),
        (lambda: Nearest(2, "teachr"), "unknown choice of neighbours 'teachr': did you mean 'teacher'?…"),  # type: ignore[arg-type]
        (lambda: make_rule("dnse"), "unknown graph 'dnse': did you mean 'dense'?…"),
        (lambda: make_rule("dense", 3), f"{belong} k = 3 and neighbours = 'teacher'"),
        (lambda: make_rule(Above(0.5), 2), f"{belong} k = 2 and neighbours = 'teacher'"),
        (lambda: make_rule(one, neighbours="union"), f"{belong} k = None and neighbours = 'union'"),
    )
