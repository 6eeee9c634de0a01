"""What is measured of nodes, against sets and networkx; colours that can be told apart."""

import networkx as nx
import pytest
import torch
from torch_geometric.data import HeteroData

from relgraph.analysis.neighbourhoods import neighbour_graph
from relgraph.analysis.nodes import measure
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import graph_pair
from relgraph.graph.search import nearest_in_blocks
from tests.checks import refusal


def make_pair() -> HeteroData:
    teacher = torch.randn(20, 6)
    return graph_pair(teacher + torch.randn(20, 6), teacher)


def test_overlap_is_the_share_of_common_neighbours() -> None:
    pair = make_pair()
    measure(pair, ["overlap"], k=5)
    student, teacher = (
        [{*row} for row in pearson(pair[side].x).fill_diagonal_(-2).topk(5).indices.tolist()]
        for side in ("student", "teacher")
    )
    expected = [len(a & b) / 5 for a, b in zip(student, teacher, strict=True)]
    assert pair["student"].overlap.tolist() == pair["teacher"].overlap.tolist() == pytest.approx(expected)
    assert 0 < sum(expected) < 20 and "community" not in pair["student"]


def test_communities_are_those_of_each_networks_own_graph() -> None:
    pair = make_pair()
    measure(pair, ["community", "label"], k=3)
    for side in ("student", "teacher"):
        graph = neighbour_graph(*nearest_in_blocks(pair[side].x, 3))
        found = {frozenset((pair[side].community == n).nonzero().flatten().tolist()) for n in pair[side].community}
        assert found == {frozenset(part) for part in nx.community.louvain_communities(graph, seed=0)}
    assert "overlap" not in pair["student"]


def test_nothing_is_measured_unasked() -> None:
    pair = make_pair()
    measure(pair, ["label"], k=100)  # no graph of so many neighbours is looked for
    assert {*pair["student"].keys()} == {"x", "degenerate"}
    assert "k must be" in refusal(lambda: measure(pair, ["overlap"], k=20))
