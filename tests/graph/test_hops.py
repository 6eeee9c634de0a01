"""Nodes refined on batches of seeds and neighbours: within enough hops they are those of the graph of all images."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from relgraph.data.neighbour_batches import ImageGraph, NeighbourBatches, neighbour_batches
from relgraph.graph.refine import Refinement
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import edges_of
from relgraph.methods import CSD, EGA, PKT, SP, Batch
from relgraph.names import refiner
from relgraph.outputs import bare
from tests.checks import case
from tests.graph.test_neighbourhoods import added, of_batches, pearson
from tests.methods.golden import vectors

N, D, K, SIZE = 60, 6, 2, 18


class TwoLayers(nn.Module):
    """Reads nodes two edges away."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SAGEConv(dim, dim) for _ in range(2))

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """Return the moved nodes, `(N, D)`."""
        for layer in self.layers:
            x = x + layer(x, edge_index)
        return x


class Whole(NamedTuple):
    """Both networks' nodes of all images, the graph, and the nodes that are refined over all of it."""

    student: Tensor
    teacher: Tensor
    graph: ImageGraph
    refinement: Refinement
    moved: tuple[Tensor, Tensor]


def whole(name: str, weights: Tensor | None = None) -> Whole:
    """Return all images; nodes are refined by plain loops and calls over the edges of the graph."""
    s, t = (x.detach() for x in vectors(N, D, D))
    graph = ImageGraph.of_edges(edges_of(nearest_in_blocks(t, K)[0]), N, weights)
    torch.manual_seed(0)
    own: Any = TwoLayers
    refinement = Refinement(refiner(own if name == "two layers" else name), D).double()
    index = graph.edge_index
    moved = []
    sides: list[tuple[Any, Tensor, Tensor | None]] = [(refinement.student, s, None), (refinement.teacher, t, weights)]
    for side, x, given in sides:
        found = torch.stack([pearson(x[i], x[j]) for j, i in index.T.tolist()]) if given is None else given
        if name == "smooth":
            rows = []
            for i in range(N):
                own = [(found[e], x[j]) for e, (j, anchor) in enumerate(index.T.tolist()) if anchor == i]
                mean = torch.stack([r * y for r, y in own]).sum(0) / torch.stack([r.abs() for r, _ in own]).sum()
                rows.append((x[i] + mean) / 2)
            moved.append(torch.stack(rows))
        elif name == "two layers":
            moved.append(side.conv(x, index, found))
        else:
            told = {"GCNConv": {"edge_weight": found.abs()}, "GATv2Conv": {"edge_attr": found[:, None]}}
            moved.append(x + side.conv(x, index, **told[name]))
    return Whole(s, t, graph, refinement, (moved[0].detach(), moved[1].detach()))


def drawn(found: Whole, hops: int) -> NeighbourBatches:
    graph = replace(found.graph, hops=hops)
    return neighbour_batches(graph, torch.zeros(N), batch_size=SIZE, labelled_share=1, seed=0, epoch=0)


def seeds_of(found: Whole, hops: int) -> tuple[bool, bool]:
    """Return whether the refined seeds of all batches are those of the whole graph, and so their neighbours."""
    method, equal = SP(graph="knn", k=K, nodes="embedding", refinement=found.refinement), [True, True]
    batches = drawn(found, hops)
    for number, index in zip(range(4), batches, strict=False):
        edges = batches.edges(number)
        with torch.no_grad():
            outputs = bare(found.student[index]), bare(found.teacher[index])
            moved = method.vectors(*outputs, edges)
            learned = method.teacher_terms(*outputs, Batch(index, index, edges), lambda output: output.embedding)
        assert all(torch.equal(term, moved[1]) for term in learned.values())  # what trains the teacher's side
        rows = torch.arange(edges.anchors), edges.edge_index[0]
        for at, part in enumerate(rows):
            pairs = [(x[part], y[index[part]]) for x, y in zip(moved, found.moved, strict=True)]
            equal[at] &= all(torch.allclose(x, y, rtol=1e-11, atol=1e-12) for x, y in pairs)
    return equal[0], equal[1]


@pytest.mark.parametrize(
    ("name", "seeds", "neighbours"), [("smooth", 1, 2), ("GATv2Conv", 1, 2), ("GCNConv", 2, 3), ("two layers", 2, 3)]
)
def test_refined_seeds_and_neighbours_are_exact_from_their_number_of_hops_on(
    name: str, seeds: int, neighbours: int
) -> None:
    """`GCNConv` also divides by the degree of a neighbour, which is one hop further away."""
    found = whole(name)
    assert [seeds_of(found, hops) for hops in (1, 2, 3)] == [(h >= seeds, h >= neighbours) for h in (1, 2, 3)]
    if name == "smooth":
        assert seeds_of(whole(name, torch.linspace(-1, 1, N * K).double()), 1)[0], "the teacher's given weights"


def test_all_within_hops_are_in_the_batch_and_all_edges_among_them_carry_messages() -> None:
    found = whole("smooth", torch.arange(N * K).double())
    for hops in (1, 2, 3):
        batches, edges_of_all = drawn(found, hops), found.graph.edge_index.T.tolist()
        for number in range(len(batches)):
            index, edges = batches.batch(number)
            images = index.tolist()
            reached = set(images[: edges.anchors])
            for _ in range(hops):
                reached |= {j for j, i in edges_of_all if i in reached}
            assert reached <= set(images) and len(images) == len(set(images)) == SIZE
            among = {(j, i): float(at) for at, (j, i) in enumerate(edges_of_all) if {i, j} <= set(images)}
            sent = edges.messages
            assert sent is not None and sent.weights is not None
            ends = [(images[j], images[i]) for j, i in sent.edge_index.T.tolist()]
            assert dict(zip(ends, sent.weights.tolist(), strict=True)) == among
    assert drawn(found, 0).edges(0).messages is None


def test_the_losses_of_batches_add_up_to_that_of_the_whole_graph_with_refined_nodes() -> None:
    """EGA weighs the edges between nodes as they are, and matches refined ones."""
    found = whole("smooth")
    for make, hops in ((EGA, 2), (partial(EGA, cross="own"), 1), (PKT, 2), (CSD, 2)):
        loss: Any = make(graph="knn", k=K, refinement=found.refinement)
        plain: Any = make(graph=found.graph.edge_index, refinement=found.refinement)
        with case(make, hops):
            expected = added(plain.terms(found.student, found.teacher), N)
            values = of_batches(loss, found.student, found.teacher, drawn(found, hops))
            torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    index, edges = drawn(found, 1).batch(0)
    own = EGA(graph="knn", k=K, refinement=found.refinement, cross="own")
    values = own(found.student[index], found.teacher[index], Batch(index, index, edges))
    bare = edges._replace(messages=None)  # the edges to the seeds do
    torch.testing.assert_close(own(found.student[index], found.teacher[index], Batch(index, index, bare)), values)
