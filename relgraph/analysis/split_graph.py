"""The graph pair of a whole split, found in blocks, and the edges on which student and teacher disagree."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, Form, Pair, check_nodes, graph_pair
from relgraph.graph.search import check_finite, degenerate_in_blocks, edge_weights
from relgraph.graph.topology import ALL_PAIRS, Above, Chooser, Nearest

SplitGraph = Literal["dense", "knn", "threshold"]
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
) -> Pair:
    """Return student and teacher of a whole split, `(N, D)` each, as the `HeteroData` that `graph_pair` gives.

    The graphs `knn` (each node's `k` nearest) and `threshold` (all pairs with at least this magnitude of weight) are
    built in blocks, without the matrix of all pairs; `neighbours` names the network whose weights choose the edges of
    both. Weights are those of `graph_pair` to rounding, and have no gradient. Nodes are read a block at a time and may
    be memory-mapped from a file (see `run_loading.empty_rows`). Nodes of two widths have no cross graph.

    Raises:
        RelgraphError: if the two are not finite and (N, D) of one N, for an unknown graph or choice of neighbours, if
            `k` is not in 1..N-1, or if there are too many pairs: N above 3,000 for `dense`, more than 5,000,000 edges
            above the threshold.

    >>> pair = split_pair(torch.randn(100, 8), torch.randn(100, 8), graph="knn", k=3)
    >>> pair["teacher", "relates", "teacher"].edge_index.shape
    torch.Size([2, 300])
    """
    rule = _rule(student, teacher, graph, k, threshold, neighbours)
    if rule is None and len(student) > DENSE_LIMIT:
        told = f"the graph 'dense' holds all pairs and takes at most {DENSE_LIMIT:,} nodes, got {len(student):,}"
        raise RelgraphError(f"{told}: take the graph 'knn' or 'threshold', or fewer nodes")
    form: Form = "matrix" if rule is None else "blocked"
    match = student.shape[1] == teacher.shape[1]
    return graph_pair(student, teacher, topology=rule or ALL_PAIRS, form=form, match=match)


def lone_pair(x: Tensor, name: str, **options: Any) -> Pair:
    """Return the graph of one network, "student" or "teacher", as a `split_pair` that has no other.

    Raises:
        RelgraphError: as `split_pair`.

    >>> lone_pair(torch.randn(100, 8), "teacher", k=3).edge_types
    [('teacher', 'relates', 'teacher')]
    """
    pair = split_pair(x, x, **options)
    other = STUDENT if name == "teacher" else TEACHER
    for kind in (other[0], other, MATCHES):  # PyG leaves the edges of nodes that are gone
        del pair[kind]
    return pair


@torch.no_grad()
def difference_pair(
    student: Tensor, teacher: Tensor, *, graph: SplitGraph = "knn", k: int = 8, threshold: float = 0.5
) -> Pair:
    """Return student and teacher, `(N, D)` each, with only those edges that the graph of one network alone holds.

    Each network chooses its own edges, its `k` nearest neighbours or the pairs with at least the magnitude `threshold`.
    `(student, relates, student)` holds those of the student's that the teacher's graph lacks, and `(teacher, relates,
    teacher)` the reverse: `edge_index` (2, E), `edge_weight` (E,), the weight in that network, and `other_weight`
    (E,), the weight of the same two nodes in the other. There is no cross graph.

    Raises:
        RelgraphError: if the two are not finite and (N, D) of one N, for the graph `dense`, in which both networks hold
            all pairs, if `k` is not in 1..N-1, or if there are too many pairs above the threshold.

    >>> pair = difference_pair(torch.tensor([[3.0, 1, 0], [2, 1, 0], [0, 1, 3], [0, 1, 2]]),
    ...                        torch.tensor([[3.0, 1, 0], [0, 1, 2], [0, 1, 3], [2, 1, 0]]), k=1)
    >>> pair["student", "relates", "student"].edge_index  # neighbour above anchor
    tensor([[1, 0, 3, 2],
            [0, 1, 2, 3]])
    """
    from relgraph.graph.pyg import HeteroData

    rule = _rule(student, teacher, graph, k, threshold)
    if rule is None:
        every = "with the graph 'dense' both networks hold all pairs and no edge is of one alone"
        raise RelgraphError(f"{every}: expected 'knn' or 'threshold'")
    both, pair = (student, teacher), HeteroData()
    pair.graph = "sparse"
    chosen = [rule.find(x, x, pearson).edge_index for x in both]
    numbers = [anchor * len(student) + candidate for candidate, anchor in chosen]
    for own, kind in enumerate((STUDENT, TEACHER)):
        x, y = both[own], both[1 - own]
        pair[kind[0]].x, pair[kind[0]].degenerate = x, degenerate_in_blocks(x)
        edges = chosen[own][:, ~torch.isin(numbers[own], numbers[1 - own])]
        pair[kind].edge_index, pair[kind].edge_weight = edges, edge_weights(x, x, edges)
        pair[kind].other_weight = edge_weights(y, y, edges)
    return pair


def _rule(
    student: Tensor, teacher: Tensor, graph: str, k: int, threshold: float, neighbours: Chooser = "teacher"
) -> Nearest | Above | None:
    """Return the rule of a graph of a whole split, after checks of its options and nodes; of `dense` none."""
    if graph not in get_args(SplitGraph):
        raise unknown("graph", graph, get_args(SplitGraph))
    sparse = Nearest(k, neighbours) if graph == "knn" else Above(threshold, neighbours, EDGE_LIMIT)
    check_nodes(student, teacher, one_width=False)
    for side, x in (("student", student), ("teacher", teacher)):
        check_finite(x, side)
    return None if graph == "dense" else sparse
