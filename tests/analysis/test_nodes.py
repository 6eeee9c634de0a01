"""What is measured of nodes, against sets and networkx, and where layouts place them: near, where embeddings are."""

from typing import Any, cast

import networkx as nx
import pytest
import torch
from torch_geometric.data import HeteroData

from relgraph.analysis.layout import ROOM, Layout, place, tsne
from relgraph.analysis.neighbourhoods import neighbour_graph
from relgraph.analysis.nodes import measure
from relgraph.analysis.split_graph import difference_pair
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import graph_pair
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import Nearest
from tests.checks import assert_refused_like, refusal

LAYOUTS: tuple[Layout, ...] = ("tsne", "spring")


def groups() -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings in three groups that correlate, and the group of each."""
    labels = torch.arange(30) % 3
    return 5 * torch.randn(3, 16)[labels] + torch.randn(30, 16), labels


def make_pair() -> HeteroData:
    teacher, _ = groups()
    return graph_pair(teacher + torch.randn(30, 16), teacher, topology=Nearest(4))


def test_near_embeddings_stand_near() -> None:
    x, labels = groups()
    plane = tsne(100 * x + 7)  # correlations know neither scale nor offset
    nearest = torch.cdist(plane, plane).fill_diagonal_(torch.inf).argmin(1)
    assert (labels[nearest] == labels).float().mean() > 0.9
    assert plane.mean(0).abs().max() < 1e-3 * plane.abs().max()
    assert torch.equal(tsne(x), tsne(x)) and not torch.equal(tsne(x), tsne(x, seed=1))


def test_what_has_no_structure_is_placed_too() -> None:
    for x in (torch.ones(6, 4), torch.randn(2, 4), torch.randn(3, 1)):
        plane = tsne(x)
        assert plane.shape == (len(x), 2) and bool(plane.isfinite().all()), x


def test_a_side_has_room_for_its_nodes() -> None:
    for layout in LAYOUTS:
        pair = make_pair()
        place(pair, layout, "student")
        found = pair["student"].position
        assert found.shape == (30, 2) and "position" not in pair["teacher"]
        assert (found.amax(0) - found.amin(0)).max() == pytest.approx(ROOM * 30**0.5), layout
        place(pair, layout)
        student, teacher = pair["student"].position, pair["teacher"].position
        assert student.shape == teacher.shape == (30, 2) and not torch.equal(student, teacher)
        assert layout == "spring" or teacher[:, 0].max() < student[:, 0].min(), "the teacher stands left"


def test_networks_share_the_positions_of_a_difference() -> None:
    x, _ = groups()
    pair = difference_pair(x + torch.randn(30, 16), x, k=4)
    for layout in LAYOUTS:
        place(pair, layout, "difference")
        assert torch.equal(pair["student"].position, pair["teacher"].position)


def test_none_places_nothing_and_others_are_unknown() -> None:
    pair, wrong = make_pair(), cast(Any, "teachers")
    place(pair, "none")
    assert "position" not in pair["student"]
    assert_refused_like(
        (lambda: place(pair, cast(Any, "springs")), "unknown layout 'springs': did you mean 'spring'"),
        (lambda: place(pair, "tsne", wrong), "unknown side 'teachers'"),
        (lambda: tsne(torch.randn(1, 4)), "^t-SNE needs two nodes, got 1$"),
    )


def test_overlap_is_the_share_of_common_neighbours() -> None:
    pair = make_pair()
    measure(pair, ["overlap"], k=5)
    student, teacher = (
        [{*row} for row in pearson(pair[side].x).fill_diagonal_(-2).topk(5).indices.tolist()]
        for side in ("student", "teacher")
    )
    expected = [len(a & b) / 5 for a, b in zip(student, teacher, strict=True)]
    assert pair["student"].overlap.tolist() == pair["teacher"].overlap.tolist() == pytest.approx(expected)
    assert 0 < sum(expected) < 30 and "community" not in pair["student"]


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
    assert "k must be" in refusal(lambda: measure(pair, ["overlap"], k=30))
