"""Angles: the differences that meet in a node are a graph of their own, and their cosines are the angles there."""

from torch import Tensor

from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.kernels import at_least_float32
from relgraph.graph.pair import check_nodes
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Table

# Numbers in the largest tensor of a block, 8 MiB in float32: few enough for the caches of a processor, where fewer are
# no faster, and enough that a batch of 64 vectors of 512 numbers is one block (experiments/rkd_memory.py).
LARGEST = 2**21


def differences(x: Tensor, anchors: slice = slice(None), table: Table | None = None) -> Tensor:
    """Return the differences that meet in each anchor, `x_i - x_j` for the candidates i of j, `(N, D) -> (A, M, D)`.

    Candidates are all N nodes, the anchor itself included, or those of a table, whose empty places give 0.

    >>> import torch
    >>> differences(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), slice(1, 2))
    tensor([[[-1., -2.],
             [ 0.,  0.]]])
    """
    candidates = x if table is None else x[table.candidates[anchors]]
    return candidates - x[anchors].unsqueeze(-2)


def related_angles(
    relation: Relation, student: Tensor, teacher: Tensor, table: Table | None = None, largest: int = LARGEST
) -> Tensor:
    """Return the mean of a relation's criterion over the graphs of differences, one for each anchor: a scalar.

    With the cosine kernel the edge between two candidates i and k of an anchor j is the cosine of the angle at j,
    `<x_i - x_j, x_k - x_j> / (|x_i - x_j| |x_k - x_j|)`, and 0 where i or k is j itself or lies upon it; all pairs i, k
    of the candidates count, `sum_j d_j^2` triplets for anchors of d_j candidates (RKD; Park et al., 2019, arXiv
    1904.05068). Triplets that would take more than `largest` numbers at once are compared a block of anchors at a time,
    with the same value and gradient.

    Args:
        relation: Kernel and criterion; no scale, and of the criterion its rows: they are sums over edges, and 0 for 0
            against 0, whose mean over the triplets is taken.
        student: Nodes `(N, D_s)`.
        teacher: Nodes `(N, D_t)`.
        table: Each anchor's candidates; all N nodes if not given.
        largest: Numbers in the largest tensor of a block.

    Raises:
        RelgraphError: if the two do not hold the same number of nodes, or a table holds no edge.

    >>> import torch
    >>> from relgraph.graph.kernels import cosine
    >>> from relgraph.graph.criteria import mean_square
    >>> line, other = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    >>> related_angles(Relation(cosine, criterion=mean_square), line, other) * 27  # 2 (-1 - 1)^2 at nodes 0 and 1
    tensor(16.)
    """
    count, width = len(student), len(student) if table is None else table.candidates.shape[1]

    check_nodes(student, teacher)

    def triplets(anchors: slice, s: Tensor, t: Tensor) -> Tensor:
        angles = (relation.kernel(differences(x, anchors, table)) for x in (s, t))
        return relation.criterion.row(*angles).sum()

    block = largest // max(1, width * max(width, student.shape[-1], teacher.shape[-1]))
    total = sum_of_blocks(triplets, (at_least_float32(student), at_least_float32(teacher)), count, max(1, block))
    return total / (count * width**2 if table is None else table.real.sum(-1).square().sum())
