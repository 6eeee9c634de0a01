"""The graph pair of a whole split, found in blocks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, graph_pair
from relgraph.graph.relation import check_nodes
from relgraph.graph.search import above_in_blocks, check_finite, degenerate_in_blocks, edge_weights, nearest_in_blocks
from relgraph.graph.topology import CHOOSERS, Chooser, Edges, check_k

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

SplitGraph = Literal["dense", "knn", "threshold"]
SPLIT_GRAPHS: tuple[SplitGraph, ...] = ("dense", "knn", "threshold")
# Three matrices of 3,000 x 3,000 are 108 MB; the sparse graphs have no such bound.
DENSE_LIMIT = 3_000


@torch.no_grad()
def split_pair(
    student: Tensor,
    teacher: Tensor,
    *,
    graph: SplitGraph = "knn",
    k: int = 8,
    threshold: float = 0.5,
    neighbours: Chooser = "teacher",
    kernel: Kernel = pearson,
    index: Tensor | None = None,
    y: Tensor | None = None,
) -> "HeteroData":
    """Return student and teacher of a whole split, `(N, D)` each, as the `HeteroData` that `graph_pair` gives.

    The graphs `knn` (each node's `k` nearest) and `threshold` (all pairs with at least this magnitude of weight) are
    built in blocks, without the matrix of all pairs; `neighbours` says whose weights choose the edges of both. Weights
    are those of `graph_pair` to rounding, and have no gradient. Nodes are read a block at a time and may be mapped from
    a file (see `relgraph.analysis.memory_mapped`).

    Raises:
        RelgraphError: if the two are not finite and (N, D) alike, for an unknown graph or choice of neighbours, if `k`
            is not in 1..N-1, or if there are too many pairs: N above 3,000 for `dense`, more than 5,000,000 edges
            above the threshold.

    >>> pair = split_pair(torch.randn(100, 8), torch.randn(100, 8), graph="knn", k=3)
    >>> pair["teacher", "relates", "teacher"].edge_index.shape
    torch.Size([2, 300])
    """
    _check(student, teacher, graph, neighbours)
    if graph == "dense":
        return graph_pair(student, teacher, kernel=kernel, index=index, y=y)
    if graph == "knn":
        check_k(k, len(student))

    def find(x: Tensor) -> Tensor:
        return _nearest_edges(x, k, kernel) if graph == "knn" else above_in_blocks(x, threshold, kernel)

    edges = Edges(_choose(student, teacher, neighbours, find), len(student))
    return _sparse_pair(student, teacher, edges, kernel, index, y)


def _check(student: Tensor, teacher: Tensor, graph: str, neighbours: str) -> None:
    if graph not in SPLIT_GRAPHS:
        raise unknown("graph", graph, SPLIT_GRAPHS)
    if neighbours not in CHOOSERS:
        raise unknown("choice of neighbours", neighbours, CHOOSERS)
    check_nodes(student, teacher, one_width=True)
    for side, x in (("student", student), ("teacher", teacher)):
        check_finite(x, side)
    if graph == "dense" and len(student) > DENSE_LIMIT:
        raise RelgraphError(
            f"the graph 'dense' holds all pairs and takes at most {DENSE_LIMIT:,} nodes, got {len(student):,}: "
            "take the graph 'knn' or 'threshold', or fewer nodes"
        )


def _nearest_edges(x: Tensor, k: int, kernel: Kernel) -> Tensor:
    candidates, _ = nearest_in_blocks(x, k, kernel)
    anchors = torch.arange(len(x), device=x.device).repeat_interleave(k)
    return torch.stack([candidates.flatten(), anchors])


def _choose(student: Tensor, teacher: Tensor, neighbours: Chooser, find: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the edges (2, E) that one network finds, the union or the mutual part of both, as `topology.Nearest`."""
    if neighbours in ("teacher", "student"):
        return find(teacher if neighbours == "teacher" else student)
    candidate, anchor = torch.cat([find(student), find(teacher)], dim=1)
    count = len(student)
    pairs, times = torch.unique(anchor * count + candidate, return_counts=True)
    chosen = pairs if neighbours == "union" else pairs[times == 2]
    return torch.stack([chosen % count, chosen // count])


def _sparse_pair(
    student: Tensor, teacher: Tensor, edges: Edges, kernel: Kernel, index: Tensor | None, y: Tensor | None
) -> "HeteroData":
    from torch_geometric.data import HeteroData

    pair = HeteroData()
    pair.form = "blocked"
    for side, x in (("student", student), ("teacher", teacher)):
        store = pair[side]
        store.x, store.degenerate = x, degenerate_in_blocks(x, kernel)
        if index is not None:
            store.index = index
        if y is not None:
            store.y = y
    across = edges.with_own()
    for kind, x, other, chosen in (
        (STUDENT, student, student, edges),
        (TEACHER, teacher, teacher, edges),
        (MATCHES, student, teacher, across),  # the student's nodes are the anchors
    ):
        store = pair[kind]
        store.edge_index = chosen.edge_index
        store.edge_weight = edge_weights(x, other, chosen.edge_index, kernel)
    return pair
