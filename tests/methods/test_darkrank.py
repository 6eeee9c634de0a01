"""DarkRank against the authors' numbers, and against drawing without replacement in a loop."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.topology import Chooser, Nearest
from relgraph.methods.darkrank import DarkRank
from tests.checks import assert_refused, case
from tests.methods.golden import nearest, value_and_gradient, vectors

N = 8
# Two or three neighbours each, in no order.
EDGE_INDEX = torch.tensor([(i + step, i) for i in range(N) for step in (3, 1, 5)[: 2 + i % 2]]).T % N


def probability(scores: list[float]) -> float:
    """Return how probable an order is: each is drawn among those that are left, by the exponential of its score."""
    left = [math.exp(s) for s in scores]
    return math.prod(each / sum(left[place:]) for place, each in enumerate(left))


def loop(
    student: Tensor, teacher: Tensor, around: list[list[int]], length: int, alpha: float = 2, beta: float = 3
) -> float:
    s, t = student.tolist(), teacher.tolist()
    terms = []
    for i, others in enumerate(around):
        best = sorted(others, key=lambda j: math.dist(t[i], t[j]))[:length]
        assert len(best) == length
        terms.append(-math.log(probability([-alpha * math.dist(s[i], s[j]) ** beta for j in best])))
    return sum(terms) / len(terms)


def test_the_dense_form_is_a_loop_over_the_nearest() -> None:
    student, teacher = vectors(N, 4, 6)
    everyone = [[j for j in range(N) if j != i] for i in range(N)]
    for length in (2, 4, 7):
        for alpha, beta in ((2, 3), (0.5, 1), (0.1, 0.5)):
            with case(length, alpha, beta):
                expected = loop(0.3 * student, teacher, everyone, length, alpha, beta)
                found = DarkRank(alpha, beta, length)(0.3 * student, teacher)
                assert found.item() == pytest.approx(expected, rel=1e-11)


def test_a_sparse_graph_is_a_loop_over_the_nearest_of_its_edges() -> None:
    student, teacher = vectors(N, 4, 6)
    with torch.no_grad():
        student[:, 0] = teacher[:, 0]  # so that some neighbours are mutual
        student *= 0.3
    s, t = (set(nearest(x.tolist(), 6, math.dist)) for x in (student, teacher))
    chosen: dict[Chooser, set[tuple[int, int]]] = {"teacher": t, "student": s, "union": s | t, "mutual": s & t}
    graphs: list[tuple[Any, set[tuple[int, int]], int]] = [(Nearest(6, by), edges, 3) for by, edges in chosen.items()]
    graphs.append((EDGE_INDEX, set(map(tuple, EDGE_INDEX.T.tolist())), 2))
    for graph, edges, length in graphs:
        with case(graph):
            around = [sorted(j for j, anchor in edges if anchor == i) for i in range(N)]
            expected = loop(student, teacher, around, length)
            found = DarkRank(length=length, graph=graph)(student, teacher)
            assert found.item() == pytest.approx(expected, rel=1e-11)


def test_of_equally_near_ones_the_first_of_the_batch_comes_first_on_edges_as_well() -> None:
    student, teacher = vectors(N, 4, 2)
    teacher = teacher.round().clamp(-1, 1)
    expected = value_and_gradient(DarkRank(), student, teacher)
    for by in ("teacher", "student", "union", "mutual"):
        with case(by):
            sparse = DarkRank(graph="knn", k=N - 1, neighbours=by)
            torch.testing.assert_close(value_and_gradient(sparse, student, teacher), expected, rtol=1e-12, atol=1e-12)


def test_what_it_refuses() -> None:
    ranks = "DarkRank ranks 4 others of each image: expected at least 4 in its graph, got"
    around_one = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    assert_refused(
        (lambda: DarkRank()(*vectors(4, 4, 6)), f"{ranks} 3"),
        (lambda: DarkRank()(*vectors(1, 4, 6)), f"{ranks} 0"),
        (lambda: DarkRank(graph=Nearest(3))(*vectors(N, 4, 6)), f"{ranks} 3"),
        (lambda: DarkRank(graph=EDGE_INDEX)(*vectors(N, 4, 6)), f"{ranks} 2"),
        (lambda: DarkRank(graph=torch.tensor([[1], [0]]))(*vectors(N, 4, 6)), f"{ranks} 0"),
        (lambda: DarkRank(graph=around_one)(*vectors(N, 4, 6)), f"{ranks} 0"),
    )
    DarkRank(length=2, graph=EDGE_INDEX)(*vectors(N, 4, 6))
