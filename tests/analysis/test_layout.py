"""Layouts: near embeddings stand near, the same seed gives the same picture, and nothing overlaps by scale."""

import pytest
import torch
from torch_geometric.data import HeteroData

from relgraph.analysis.difference import difference_pair
from relgraph.analysis.export import Side
from relgraph.analysis.layout import ROOM, Layout, place, tsne
from relgraph.errors import RelgraphError
from relgraph.graph.pair import graph_pair
from relgraph.graph.topology import Nearest


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


def test_the_same_seed_gives_the_same_picture() -> None:
    x, _ = groups()
    assert torch.equal(tsne(x), tsne(x))
    assert not torch.equal(tsne(x), tsne(x, seed=1))


@pytest.mark.parametrize("x", [torch.ones(6, 4), torch.randn(2, 4), torch.randn(3, 1)], ids=["equal", "two", "narrow"])
def test_what_has_no_structure_is_placed_too(x: torch.Tensor) -> None:
    plane = tsne(x)
    assert plane.shape == (len(x), 2) and bool(plane.isfinite().all())


def test_one_node_is_refused() -> None:
    with pytest.raises(RelgraphError, match=r"^t-SNE needs two nodes, got 1$"):
        tsne(torch.randn(1, 4))


@pytest.mark.parametrize("layout", ["tsne", "spring"])
def test_a_side_has_room_for_its_nodes(layout: Layout) -> None:
    pair = make_pair()
    place(pair, layout, "student")
    found = pair["student"].position
    assert found.shape == (30, 2) and "position" not in pair["teacher"]
    assert (found.amax(0) - found.amin(0)).max() == pytest.approx(ROOM * 30**0.5)


def test_the_teacher_stands_left_of_the_student() -> None:
    pair = make_pair()
    place(pair, "tsne")
    assert pair["teacher"].position[:, 0].max() < pair["student"].position[:, 0].min()


@pytest.mark.parametrize("layout", ["tsne", "spring"])
def test_networks_share_the_positions_of_a_difference(layout: Layout) -> None:
    x, _ = groups()
    pair = difference_pair(x + torch.randn(30, 16), x, k=4)
    place(pair, layout, "difference")
    assert torch.equal(pair["student"].position, pair["teacher"].position)


def test_springs_place_both_sides_of_a_pair() -> None:
    pair = make_pair()
    place(pair, "spring")
    assert pair["student"].position.shape == pair["teacher"].position.shape == (30, 2)
    assert not torch.equal(pair["student"].position, pair["teacher"].position)


def test_none_places_nothing_and_others_are_unknown() -> None:
    pair = make_pair()
    place(pair, "none")
    assert "position" not in pair["student"]
    with pytest.raises(RelgraphError, match="unknown layout 'springs': did you mean 'spring'"):
        place(pair, "springs")  # type: ignore[arg-type]
    wrong: Side = "teachers"  # type: ignore[assignment]
    with pytest.raises(RelgraphError, match="unknown side 'teachers'"):
        place(pair, "tsne", wrong)
