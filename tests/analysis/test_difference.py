"""The edges of one network alone, against sets of neighbours that numpy finds."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from relgraph.analysis.export import to_networkx
from relgraph.analysis.split_graph import SplitGraph, difference_pair
from tests.checks import assert_refused_like

STUDENT, TEACHER = torch.randn(14, 6), torch.randn(14, 6)


def expected_edges(x: torch.Tensor, graph: SplitGraph) -> set[tuple[str, str]]:
    """Return the edges of one network, neighbour first, by numpy's correlations."""
    r = np.corrcoef(x.double().numpy())
    np.fill_diagonal(r, -2 if graph == "knn" else 0)
    if graph == "threshold":
        return {(f"n{j}", f"n{i}") for i, j in zip(*np.nonzero(abs(r) >= 0.4), strict=True)}
    return {(f"n{j}", f"n{i}") for i in range(14) for j in np.argsort(-r[i])[:4]}


@pytest.mark.parametrize("graph", ["knn", "threshold"])
def test_edges_are_those_of_exactly_one_network(graph: SplitGraph) -> None:
    found = to_networkx(difference_pair(STUDENT, TEACHER, graph=graph, k=4, threshold=0.4), "difference")
    student, teacher = expected_edges(STUDENT, graph), expected_edges(TEACHER, graph)
    assert student & teacher and student - teacher and teacher - student
    assert {(a, b) for a, b, edge in found.edges(data=True) if edge["only"] == "student"} == student - teacher
    assert {(a, b) for a, b, edge in found.edges(data=True) if edge["only"] == "teacher"} == teacher - student
    assert isinstance(found, nx.DiGraph) and len(found) == 14
    r_s, r_t = np.corrcoef(STUDENT.double().numpy()), np.corrcoef(TEACHER.double().numpy())
    for a, b, edge in found.edges(data=True):
        i, j = int(a[1:]), int(b[1:])
        assert edge["student_correlation"] == pytest.approx(r_s[i, j], abs=1e-5)
        assert edge["teacher_correlation"] == pytest.approx(r_t[i, j], abs=1e-5)
        assert edge["difference"] == pytest.approx(r_s[i, j] - r_t[i, j], abs=1e-5)
        assert edge["weight"] * edge["sign"] == edge["difference"] and edge["weight"] > 0


def test_networks_that_agree_leave_no_edge() -> None:
    graph = to_networkx(difference_pair(TEACHER, 2 * TEACHER + 1, k=3), "difference")
    assert graph.number_of_edges() == 0 and len(graph) == 14
    pair = difference_pair(STUDENT, TEACHER, k=3)
    for kind in pair.edge_types:
        pair[kind].other_weight = pair[kind].edge_weight
    for *_, edge in to_networkx(pair, "difference").edges(data=True):
        assert (edge["difference"], edge["sign"], edge["weight"]) == (0, 0, torch.finfo(torch.float32).tiny)


def test_what_makes_no_sense_is_refused() -> None:
    def pair(teacher: torch.Tensor = TEACHER, **options: Any) -> HeteroData:
        return difference_pair(STUDENT, teacher, **options)

    assert_refused_like(
        (lambda: pair(graph="dense"), "^with the graph 'dense' both networks hold all pairs"),
        (lambda: pair(graph="kn"), "^unknown graph 'kn': did you mean 'knn'"),
        (lambda: pair(k=14), "^k must be between 1 and .*, got 14$"),
        (lambda: pair(TEACHER[:, :3]), "one width"),
    )
