"""Measures of neighbourhoods and edges between classes against loops, networkx, scikit-learn and scipy."""

import math
from collections import Counter
from itertools import combinations
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.stats import skew  # type: ignore[import-untyped]
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from relgraph.analysis.neighbourhoods import (
    agreement,
    class_counts,
    class_edges,
    class_graph,
    class_means,
    communities,
    components,
    degrees,
    homophily,
    modularity,
    neighbour_graph,
    neighbour_overlap,
    some_pairs,
)
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import edges_of, joined
from tests.checks import refusal

N, K, C = 60, 4, 5
LABELS = torch.randint(-1, C - 1, (N,), generator=torch.Generator().manual_seed(0))  # none of the last class


def tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return neighbours and weights of a student and of its teacher, who agree on some."""
    teacher = torch.randn(N, 6)
    student = teacher + 0.5 * torch.randn(N, 6)
    return *nearest_in_blocks(student, K), *nearest_in_blocks(teacher, K)


def symmetrised(neighbours: Tensor, weights: Tensor) -> "nx.Graph[int]":
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(neighbours)))
    for i, (row, numbers) in enumerate(zip(neighbours.tolist(), weights.tolist(), strict=True)):
        for j, weight in zip(row, numbers, strict=True):
            if weight:
                graph.add_edge(i, j, weight=abs(weight))
    return graph


def parts(partition: Tensor) -> list[set[int]]:
    return [{i for i, part in enumerate(partition.tolist()) if part == number} for number in set(partition.tolist())]


def test_overlap_by_sets() -> None:
    student, _, teacher, _ = tables()
    expected = [len({*s} & {*t}) / K for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert neighbour_overlap(student, teacher).tolist() == expected
    assert 0 < sum(expected) < N
    told = "(N, k) alike, got (3, 2) and (3, 1)"
    assert told in refusal(lambda: neighbour_overlap(torch.zeros(3, 2), torch.zeros(3, 1)))


def test_the_union_names_each_edge_once() -> None:
    student, _, teacher, _ = tables()
    expected = {(j, i) for table in (student, teacher) for i, row in enumerate(table.tolist()) for j in row}
    found = [(j, i) for j, i in joined([edges_of(student), edges_of(teacher)], N, "union").T.tolist()]
    assert set(found) == expected and len(found) == len(expected)
    assert found == sorted(found, key=lambda edge: edge[1])


def test_pairs_are_all_or_some() -> None:
    assert list(map(tuple, some_pairs(6, limit=15).T.tolist())) == list(combinations(range(6), 2))
    one, other = drawn = some_pairs(6, limit=14)
    assert drawn.shape == (2, 14) and (one != other).all()
    assert torch.equal(drawn, some_pairs(6, limit=14))
    assert set(some_pairs(9, limit=35).flatten().tolist()) == set(range(9))


def test_homophily_counts_edges_whose_ends_are_known() -> None:
    neighbours, *_ = tables()
    ends = [(int(LABELS[i]), int(LABELS[j])) for i, row in enumerate(neighbours.tolist()) for j in row]
    known = [a == b for a, b in ends if min(a, b) >= 0]
    assert len(known) < N * K
    assert homophily(neighbours, LABELS) == pytest.approx(sum(known) / len(known))
    assert math.isnan(homophily(neighbours, torch.full((N,), -1)))


def test_degrees_are_those_of_networkx_and_scipy() -> None:
    neighbours, *_ = tables()
    graph: nx.DiGraph[int] = nx.DiGraph((i, j) for i, row in enumerate(neighbours.tolist()) for j in row)
    chosen = [degree for _, degree in graph.in_degree()]
    expected = {"largest": max(chosen), "skewness": skew(np.array(chosen)), "orphans": chosen.count(0)}
    assert degrees(neighbours) == pytest.approx(expected)


def test_the_symmetrised_graph() -> None:
    neighbours, weights, *_ = tables()
    weights[3] = 0  # as of a node without variance
    expected = symmetrised(neighbours, weights)
    found = neighbour_graph(neighbours, weights)
    assert set(found) == set(expected) and set(map(frozenset, found.edges)) == set(map(frozenset, expected.edges))
    for ends in found.edges:
        assert found.edges[ends]["weight"] == pytest.approx(expected.edges[ends]["weight"], abs=1e-6)


def test_communities_are_louvain_s_and_the_same_each_time() -> None:
    neighbours, weights, *_ = tables()
    found = communities(neighbours, weights, seed=3)
    assert torch.equal(found, communities(neighbours, weights, seed=3))
    assert (found.bincount().diff() <= 0).all()
    graph, own = symmetrised(neighbours, weights), neighbour_graph(neighbours, weights)
    louvain = nx.community.louvain_communities(graph, seed=3)
    assert modularity(own, found) == pytest.approx(nx.community.modularity(graph, louvain), abs=0.05)
    assert modularity(own, found) == pytest.approx(nx.community.modularity(graph, parts(found)))


def test_two_cliques_are_two_communities_and_two_components() -> None:
    neighbours = torch.tensor([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4], [3, 4]])
    weights = -torch.ones(7, 2)  # magnitudes count
    weights[6] = 0  # the last node is joined to nothing
    graph, found = neighbour_graph(neighbours, weights), communities(neighbours, weights)
    assert found.tolist() == [0, 0, 0, 1, 1, 1, 2] and components(graph) == [3, 3, 1]
    assert modularity(graph, found) == pytest.approx(0.5)


def test_a_graph_without_edges() -> None:
    neighbours, weights = torch.tensor([[1], [2], [0]]), torch.zeros(3, 1)
    graph, found = neighbour_graph(neighbours, weights), communities(neighbours, weights)
    assert found.tolist() == [0, 1, 2] and components(graph) == [1, 1, 1]
    assert math.isnan(modularity(graph, found))


def test_agreement_is_scikit_learn_s() -> None:
    one, known = torch.randint(0, 3, (N,)), LABELS >= 0
    own = one[known], LABELS[known]
    expected = normalized_mutual_info_score(*own), adjusted_rand_score(*own)
    found = agreement(one, LABELS)
    assert (found["nmi"], found["ari"]) == pytest.approx(expected)
    assert agreement(one, (one + 1) % 3) == pytest.approx({"nmi": 1, "ari": 1})
    assert all(map(math.isnan, agreement(one, torch.full((N,), -1)).values()))


def ends(table: Tensor) -> "Counter[tuple[int, int]]":
    labels = LABELS.tolist()
    found = Counter((labels[i], labels[j]) for i, row in enumerate(table.tolist()) for j in row)
    return Counter({pair: count for pair, count in found.items() if min(pair) >= 0})


def test_counts_by_a_loop() -> None:
    table, *_ = tables()
    counts, expected = class_counts(table, LABELS, C), ends(table)
    assert counts.shape == (C, C)
    assert {(a, b): int(counts[a, b]) for a, b in counts.nonzero().tolist()} == expected
    told = "below the number of classes, 3, got 7"
    assert told in refusal(lambda: class_counts(torch.tensor([[1], [0]]), torch.tensor([2, 7]), 3))


def test_means_by_a_loop() -> None:
    values = torch.randn(N)
    found = class_means(values, LABELS, C).tolist()
    for label in range(C - 1):
        own = [value for value, y in zip(values.tolist(), LABELS.tolist(), strict=True) if y == label]
        assert found[label] == pytest.approx(sum(own) / len(own))
    assert math.isnan(found[C - 1])


def test_edges_between_classes_by_their_difference() -> None:
    student, _, teacher, _ = tables()
    columns = class_edges(class_counts(student, LABELS, C), class_counts(teacher, LABELS, C))
    found = [SimpleNamespace(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    s, t = ends(student), ends(teacher)
    assert {(e.anchor, e.candidate) for e in found} == {(a, b) for a, b in s | t if a != b}
    for edge in found:
        pair = edge.anchor, edge.candidate
        assert (edge.student, edge.teacher) == (s[pair], t[pair])
        for share, counts in ((edge.student_share, s), (edge.teacher_share, t)):
            assert share == pytest.approx(counts[pair] / sum(n for (a, _), n in counts.items() if a == edge.anchor))
    differences = [abs(edge.student_share - edge.teacher_share) for edge in found]
    assert differences == sorted(differences, reverse=True) and differences[0] > 0
    graph = class_graph(columns, [f"class {number}" for number in range(C)])
    assert graph.is_directed() and graph.number_of_edges() == len(found)
    assert [graph.nodes[number]["name"] for number in graph] == [f"class {number}" for number in range(C)]
    for edge in found:
        values = vars(edge)
        assert graph.edges[values.pop("anchor"), values.pop("candidate")] == values
