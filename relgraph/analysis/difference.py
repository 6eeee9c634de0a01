"""The edges on which student and teacher disagree."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relgraph.analysis.split_graph import SplitGraph, split_rule
from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import STUDENT, TEACHER
from relgraph.graph.search import degenerate_in_blocks, edge_weights

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

# The smallest normal float32: the weight of an exact 0. It is not 0 for programs that read single precision either.
NO_WEIGHT = torch.finfo(torch.float32).tiny


@torch.no_grad()
def difference_pair(
    student: Tensor,
    teacher: Tensor,
    *,
    graph: SplitGraph = "knn",
    k: int = 8,
    threshold: float = 0.5,
    kernel: Kernel = pearson,
) -> "HeteroData":
    """Return student and teacher, `(N, D)` each, with only those edges that the graph of one network alone holds.

    Each network chooses its own edges, its `k` nearest neighbours or the pairs with at least the magnitude `threshold`.
    `(student, relates, student)` holds those of the student's that the teacher's graph lacks, and `(teacher, relates,
    teacher)` the reverse: `edge_index` (2, E), `edge_weight` (E,), the weight in that network, and `other_weight`
    (E,), the weight of the same two nodes in the other. There is no cross graph.

    Raises:
        RelgraphError: if the two are not finite and (N, D) alike, for the graph `dense`, in which both networks hold
            all pairs, if `k` is not in 1..N-1, or if there are too many pairs above the threshold.

    >>> pair = difference_pair(torch.tensor([[3.0, 1, 0], [2, 1, 0], [0, 1, 3], [0, 1, 2]]),
    ...                        torch.tensor([[3.0, 1, 0], [0, 1, 2], [0, 1, 3], [2, 1, 0]]), k=1)
    >>> pair["student", "relates", "student"].edge_index  # neighbour above anchor
    tensor([[1, 0, 3, 2],
            [0, 1, 2, 3]])
    """
    from torch_geometric.data import HeteroData

    rule = split_rule(student, teacher, graph, k, threshold)
    if rule is None:
        every = "with the graph 'dense' both networks hold all pairs and no edge is of one alone"
        raise RelgraphError(f"{every}: expected 'knn' or 'threshold'")
    both = {"student": student, "teacher": teacher}
    chosen = {side: rule.find(x, x, kernel).edge_index for side, x in both.items()}
    numbers = {side: anchor * len(student) + candidate for side, (candidate, anchor) in chosen.items()}
    pair = HeteroData()
    pair.graph = "sparse"
    for side, other, kind in (("student", "teacher", STUDENT), ("teacher", "student", TEACHER)):
        x, y = both[side], both[other]
        pair[side].x, pair[side].degenerate = x, degenerate_in_blocks(x, kernel)
        store, edges = pair[kind], chosen[side][:, ~torch.isin(numbers[side], numbers[other])]
        store.edge_index, store.edge_weight = edges, edge_weights(x, x, edges, kernel)
        store.other_weight = edge_weights(y, y, edges, kernel)
    return pair


def difference_edges(pair: "HeteroData") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each edge of a `difference_pair` between the nodes `n0`, `n1`, ..., from neighbour to anchor.

    `only` is the network that holds it; `student_correlation` and `teacher_correlation` are the weights in both;
    `difference` is the student's less the teacher's, `sign` that of it, and `weight` its magnitude.

    Raises:
        RelgraphError: if the pair is another.
    """
    for side, kind in (("student", STUDENT), ("teacher", TEACHER)):
        if kind not in pair.edge_types or "other_weight" not in pair[kind]:
            raise RelgraphError("the side 'difference' takes a pair of difference_pair, got another graph pair")
        store = pair[kind]
        mine, other = store.edge_weight.detach(), store.other_weight.detach()
        student, teacher = (mine, other) if side == "student" else (other, mine)
        difference = student - teacher
        columns = student, teacher, difference, difference.sign().long(), difference.abs().clamp_min(NO_WEIGHT)
        for (tail, head), r_s, r_t, signed, sign, weight in zip(
            store.edge_index.T.tolist(), *(column.tolist() for column in columns), strict=True
        ):
            correlations = {"student_correlation": r_s, "teacher_correlation": r_t, "difference": signed}
            yield f"n{tail}", f"n{head}", {"weight": weight, "sign": sign, "only": side, **correlations}
