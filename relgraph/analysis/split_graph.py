"""The graph pair of a whole split, found in blocks."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import check_nodes, graph_pair
from relgraph.graph.search import check_finite, check_k
from relgraph.graph.topology import Above, Chooser, Nearest

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

SplitGraph = Literal["dense", "knn", "threshold"]
SPLIT_GRAPHS: tuple[SplitGraph, ...] = ("dense", "knn", "threshold")
# Three matrices of 3,000 x 3,000 are 108 MB; the sparse graphs have no such bound.
DENSE_LIMIT = 3_000
EDGE_LIMIT = 5_000_000


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
    image_id: Tensor | None = None,
    y: Tensor | None = None,
) -> "HeteroData":
    """Return student and teacher of a whole split, `(N, D)` each, as the `HeteroData` that `graph_pair` gives.

    The graphs `knn` (each node's `k` nearest) and `threshold` (all pairs with at least this magnitude of weight) are
    built in blocks, without the matrix of all pairs; `neighbours` names the network whose weights choose the edges of
    both. Weights are those of `graph_pair` to rounding, and have no gradient. Nodes are read a block at a time and may
    be memory-mapped from a file (see `relgraph.analysis.memory_mapped`).

    Raises:
        RelgraphError: if the two are not finite and (N, D) alike, for an unknown graph or choice of neighbours, if `k`
            is not in 1..N-1, or if there are too many pairs: N above 3,000 for `dense`, more than 5,000,000 edges
            above the threshold.

    >>> pair = split_pair(torch.randn(100, 8), torch.randn(100, 8), graph="knn", k=3)
    >>> pair["teacher", "relates", "teacher"].edge_index.shape
    torch.Size([2, 300])
    """
    rule = split_rule(student, teacher, graph, k, threshold, neighbours)
    if rule is not None:
        return graph_pair(student, teacher, topology=rule, kernel=kernel, image_id=image_id, y=y, form="blocked")
    if len(student) > DENSE_LIMIT:
        raise RelgraphError(
            f"the graph 'dense' holds all pairs and takes at most {DENSE_LIMIT:,} nodes, got {len(student):,}: "
            "take the graph 'knn' or 'threshold', or fewer nodes"
        )
    return graph_pair(student, teacher, kernel=kernel, image_id=image_id, y=y)


def split_rule(
    student: Tensor, teacher: Tensor, graph: str, k: int, threshold: float, neighbours: Chooser = "teacher"
) -> Nearest | Above | None:
    """Return the rule of a graph of a whole split: k nearest neighbours, or pairs above a threshold; of `dense` none.

    Raises:
        RelgraphError: for an unknown graph or choice of neighbours, and if the two are not finite and (N, D) alike, or
            have not k others each.
    """
    if graph not in SPLIT_GRAPHS:
        raise unknown("graph", graph, SPLIT_GRAPHS)
    sparse = Nearest(k, neighbours) if graph == "knn" else Above(threshold, neighbours, EDGE_LIMIT)
    check_nodes(student, teacher, one_width=True)
    for side, x in (("student", student), ("teacher", teacher)):
        check_finite(x, side)
    if graph == "knn":
        check_k(k, len(student))
    return None if graph == "dense" else sparse
