"""Edges between classes against loops over all edges."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from relgraph.analysis.neighbourhoods import class_counts, class_edges, class_graph, class_means
from tests.checks import refusal

N, K, C = 40, 3, 5
LABELS = torch.randint(-1, C - 1, (N,), generator=torch.Generator().manual_seed(0))  # none of the last class


def neighbours() -> torch.Tensor:
    return torch.stack([torch.randperm(N - 1)[:K] for _ in range(N)])


def ends(table: torch.Tensor) -> "Counter[tuple[int, int]]":
    labels = LABELS.tolist()
    found = Counter((labels[i], labels[j]) for i, row in enumerate(table.tolist()) for j in row)
    return Counter({pair: count for pair, count in found.items() if min(pair) >= 0})


def test_counts_by_a_loop() -> None:
    table = neighbours()
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
    student, teacher = neighbours(), neighbours()
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
