"""The pair of a whole split against `graph_pair`, the difference of its networks against sets that numpy finds."""

from functools import partial
from itertools import product

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.analysis import split_graph
from relgraph.analysis.export import to_networkx
from relgraph.analysis.split_graph import SplitGraph, difference_pair, lone_pair, split_pair
from relgraph.graph.pair import STUDENT, TEACHER, adjacency, graph_pair
from relgraph.graph.topology import CHOOSERS, Above, Chooser, Nearest
from tests.analysis.conftest import assert_same_pair
from tests.checks import assert_refused_like, case


def embeddings(count: int = 40, dim: int = 6) -> tuple[Tensor, Tensor]:
    teacher = torch.randn(count, dim, dtype=torch.float64)
    teacher[3] = 1.0  # a node without variance
    return teacher + torch.randn(count, dim, dtype=torch.float64), teacher


def test_knn_is_graph_pair() -> None:
    student, teacher = embeddings()
    teacher[3] = torch.randn(6)  # of a node without variance any neighbours are the nearest
    for neighbours in CHOOSERS:
        found = split_pair(student, teacher, graph="knn", k=3, neighbours=neighbours)
        with case(neighbours):
            assert_same_pair(found, graph_pair(student, teacher, topology=Nearest(3, neighbours)))


def test_threshold_is_graph_pair() -> None:
    student, teacher = embeddings()
    sides: tuple[Chooser, ...] = ("teacher", "student")
    for side, threshold in product(sides, (0.1, 0.6, 1.5)):
        found = split_pair(student, teacher, graph="threshold", threshold=threshold, neighbours=side)
        with case(side, threshold):
            assert_same_pair(found, graph_pair(student, teacher, topology=Above(threshold, side)))


def test_dense_is_graph_pair_without_gradient() -> None:
    student, teacher = embeddings()
    found = split_pair(student.requires_grad_(), teacher, graph="dense")
    assert not adjacency(found, STUDENT).requires_grad
    assert_same_pair(found, graph_pair(student, teacher))


def test_nodes_of_two_widths_have_no_cross_graph() -> None:
    student, teacher = embeddings()
    for found in (split_pair(student, teacher[:, :5], k=3), split_pair(student, teacher[:, :5], graph="dense")):
        assert found.edge_types == [STUDENT, TEACHER]
    expected = split_pair(student, teacher, k=3, neighbours="student")
    assert torch.equal(lone_pair(student, "student", k=3)[STUDENT].edge_weight, expected[STUDENT].edge_weight)


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = embeddings()
    broken = teacher.clone()
    broken[[1, 7]] = float("nan")
    monkeypatch.setattr(split_graph, "DENSE_LIMIT", 39)
    of_split, of_difference = (partial(function, student) for function in (split_pair, difference_pair))
    dense = "'dense' holds all pairs and takes at most 39 nodes, got 40"
    for pair, told in ((of_split, dense), (of_difference, "^with the graph 'dense' both networks hold all pairs")):
        assert_refused_like(
            (partial(pair, teacher, graph="dense"), told),
            (partial(pair, teacher, graph="knm"), "^unknown graph 'knm': did you mean 'knn'"),
            (partial(pair, teacher, k=40), r"^k must be between 1 and .* 39, got 40$"),
            (partial(pair, teacher[:5]), "student and teacher of the same N images"),
            (partial(pair, broken), "NaN or infinity in 2 of 40 of the teacher's"),
        )
    assert_refused_like((partial(of_split, teacher, neighbours="both"), "unknown choice of neighbours 'both'"))
    of_split(teacher, graph="knn")


STUDENTS, TEACHERS = torch.randn(14, 6), torch.randn(14, 6)


def expected_edges(x: torch.Tensor, graph: SplitGraph) -> set[tuple[str, str]]:
    """Return the edges of one network, neighbour first, by numpy's correlations."""
    r = np.corrcoef(x.double().numpy())
    np.fill_diagonal(r, -2 if graph == "knn" else 0)
    if graph == "threshold":
        return {(f"n{j}", f"n{i}") for i, j in zip(*np.nonzero(abs(r) >= 0.4), strict=True)}
    return {(f"n{j}", f"n{i}") for i in range(14) for j in np.argsort(-r[i])[:4]}


@pytest.mark.parametrize("graph", ["knn", "threshold"])
def test_edges_are_those_of_exactly_one_network(graph: SplitGraph) -> None:
    found = to_networkx(difference_pair(STUDENTS, TEACHERS, graph=graph, k=4, threshold=0.4), "difference")
    student, teacher = expected_edges(STUDENTS, graph), expected_edges(TEACHERS, graph)
    assert student & teacher and student - teacher and teacher - student
    expected = dict.fromkeys(student - teacher, "student") | dict.fromkeys(teacher - student, "teacher")
    assert nx.get_edge_attributes(found, "only") == expected
    assert isinstance(found, nx.DiGraph) and len(found) == 14
    r_s, r_t = np.corrcoef(STUDENTS.double().numpy()), np.corrcoef(TEACHERS.double().numpy())
    for a, b, edge in found.edges(data=True):
        i, j = int(a[1:]), int(b[1:])
        assert edge["student_correlation"] == pytest.approx(r_s[i, j], abs=1e-5)
        assert edge["teacher_correlation"] == pytest.approx(r_t[i, j], abs=1e-5)
        assert edge["difference"] == pytest.approx(r_s[i, j] - r_t[i, j], abs=1e-5)
        assert edge["weight"] * edge["sign"] == edge["difference"] and edge["weight"] > 0


def test_networks_that_agree_leave_no_edge() -> None:
    graph = to_networkx(difference_pair(TEACHERS, 2 * TEACHERS + 1, k=3), "difference")
    assert graph.number_of_edges() == 0 and len(graph) == 14
    pair = difference_pair(STUDENTS, TEACHERS, k=3)
    for kind in pair.edge_types:
        pair[kind].other_weight = pair[kind].edge_weight
    for *_, edge in to_networkx(pair, "difference").edges(data=True):
        assert (edge["difference"], edge["sign"], edge["weight"]) == (0, 0, torch.finfo(torch.float32).tiny)
