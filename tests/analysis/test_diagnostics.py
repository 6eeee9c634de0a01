"""Diagnostics against loops over nodes, and scipy's rank correlation."""

from typing import TYPE_CHECKING

import pytest
import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from torch import Tensor

from relgraph.analysis.diagnostics import diagnose
from relgraph.graph.kernels import Kernel, cosine, euclidean, pearson
from relgraph.graph.pair import adjacency, graph_pair
from relgraph.graph.refine import Refinement
from relgraph.graph.topology import ALL_PAIRS, Nearest, Rule, WithOwn
from tests.checks import MEASURES, assert_refused_like

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

N, K = 14, 4
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1, 2, 0, -1, 1, 2])
RULES: dict[str, Rule] = {"dense": ALL_PAIRS, "knn": Nearest(5), "with own": WithOwn(Nearest(5, "student"))}


def nodes(width: int = 6) -> tuple[Tensor, Tensor]:
    teacher = torch.randn(N, width).double()
    return teacher + 0.7 * torch.randn(N, width).double(), teacher


def figures(found: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(total / count) for name, (total, count) in found.items()}


def near(matrix: Tensor, i: int, kernel: Kernel) -> set[int]:
    others = [j for j in range(len(matrix)) if j != i]
    return set(sorted(others, key=lambda j: float(matrix[i, j]), reverse=kernel.nearest_is_largest)[:K])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("kernel", [pearson, euclidean], ids=["pearson", "euclidean"])
def test_neighbours_labels_and_matches_by_a_loop(kernel: Kernel, rule: Rule) -> None:
    student, teacher = nodes()
    found = figures(diagnose(graph_pair(student, teacher, kernel=kernel, topology=rule), kernel, K, LABELS))
    s, t, across = kernel(student), kernel(teacher), kernel(student, teacher)
    shared = [len(near(s, i, kernel) & near(t, i, kernel)) / K for i in range(N)]
    assert found["overlap"] == pytest.approx(sum(shared) / N)
    for name, matrix in (("homophily_student", s), ("homophily_teacher", t)):
        ends = [(int(LABELS[i]), int(LABELS[j])) for i in range(N) for j in near(matrix, i, kernel)]
        known = [a == b for a, b in ends if a >= 0 and b >= 0]
        assert found[name] == pytest.approx(sum(known) / len(known))
    sign = 1 if kernel.nearest_is_largest else -1
    matched = [max(range(N), key=lambda j: sign * float(across[i, j])) == i for i in range(N)]
    assert found["match"] == pytest.approx(sum(matched) / N) and 0 < found["match"] < 1


def edges_of(pair: "HeteroData", side: str) -> list[float]:
    store = pair[side, "relates", side]
    if pair.graph == "dense":
        row, column = torch.triu_indices(N, N, offset=1)
        return list(adjacency(pair, (side, "relates", side))[row, column].tolist())
    first, second = store.edge_index
    return list(store.edge_weight[first != second].tolist())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("kernel", [pearson, euclidean], ids=["pearson", "euclidean"])
def test_edge_ranks_are_scipy_s(kernel: Kernel, rule: Rule) -> None:
    distinct = nodes(2)
    for student, teacher in (distinct, [x.round(decimals=1) for x in distinct]):  # the second with ties
        pair = graph_pair(student, teacher, kernel=kernel, topology=rule)
        expected = spearmanr(edges_of(pair, "student"), edges_of(pair, "teacher")).statistic
        assert figures(diagnose(pair, kernel))["edge_rank"] == pytest.approx(expected)


def test_equal_networks_agree_wholly() -> None:
    x = torch.randn(N, 5)
    found = figures(diagnose(graph_pair(x, 3 * x + 1), k=3))
    known = {"overlap": 1.0, "edge_rank": pytest.approx(1.0), "match": 1.0}
    assert found == {**known, "degenerate_student": 0.0, "degenerate_teacher": 0.0}


def test_other_widths_have_no_match() -> None:
    pair = graph_pair(torch.randn(N, 3), torch.randn(N, 5), kernel=cosine, match=False)
    assert set(diagnose(pair, cosine, labels=LABELS)) == set(MEASURES) - {"match"}


def test_a_matching_reads_the_nodes_themselves_where_refined_ones_are_compared() -> None:
    student, teacher = (x.float() for x in nodes())
    pair = graph_pair(student, teacher, refinement=Refinement("smooth", 6))
    assert torch.equal(diagnose(pair)["match"], diagnose(graph_pair(student, teacher))["match"])


def test_more_neighbours_than_there_are() -> None:
    pair = graph_pair(*nodes())
    assert torch.equal(diagnose(pair, k=1000)["overlap"], torch.tensor([N * (N - 1)] * 2).double())


def test_degenerate_nodes_match_nothing_and_rank_nothing() -> None:
    for rows in (torch.zeros(N, 4), torch.ones(N, 4)):
        found = diagnose(graph_pair(rows, torch.randn(N, 4)), labels=torch.full((N,), -1))
        assert found["match"].tolist() == [0, N] and found["edge_rank"].tolist() == [0, 1]
        assert found["degenerate_student"].tolist() == [N, N] and found["degenerate_teacher"].tolist() == [0, N]
        assert found["homophily_student"].tolist() == [0, 0], "nothing is said of labels that are not there"


def test_no_gradient_and_nothing_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # which "meta" has not
    student, teacher = (x.to("meta").requires_grad_() for x in nodes())
    found = diagnose(graph_pair(student, teacher), labels=LABELS.to("meta"))
    assert set(found) == set(MEASURES)
    assert all(x.device.type == "meta" and x.shape == (2,) and not x.requires_grad for x in found.values())


def test_errors() -> None:
    one, four = (graph_pair(torch.randn(rows, 3), torch.randn(rows, 3)) for rows in (1, 4))
    assert_refused_like(
        (lambda: diagnose(one), "at least two nodes, got 1"),
        (lambda: diagnose(four, k=0), "k must be between 1 and .*, got 0"),
        (lambda: diagnose(four, labels=torch.zeros(3)), r"labels must be one for each of 4 nodes, got \(3,\)"),
    )
