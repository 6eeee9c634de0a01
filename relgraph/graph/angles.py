"""Angles: the differences to a node form a graph of their own, whose cosine weights are the angles at that node."""

from functools import partial

import torch
from torch import Tensor

from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.kernels import at_least_float32
from relgraph.graph.pair import check_nodes
from relgraph.graph.relation import Relation
from relgraph.graph.topology import ALL_PAIRS, Edges, Topology

# Numbers in the largest tensor of a block, 8 MiB in float32: few enough for the caches of a processor, where fewer are
# no faster, and enough that a batch of 64 vectors of 512 numbers is one block (experiments/rkd_memory.py).
LARGEST = 2**21


def related_angles(
    relation: Relation, student: Tensor, teacher: Tensor, topology: Topology = ALL_PAIRS, largest: int = LARGEST
) -> Tensor:
    """Return the mean of a relation's criterion over the graphs of differences, one for each anchor: a scalar.

    With the cosine kernel the edge between two candidates i and k of an anchor j is the cosine of the angle at j,
    `<x_i - x_j, x_k - x_j> / (|x_i - x_j| |x_k - x_j|)`, and 0 where i or k is j itself or coincides with it; all pairs
    i, k of the candidates count, `sum_j d_j^2` triplets for anchors of d_j candidates (RKD; Park et al., 2019, arXiv
    1904.05068). Triplets that would take more than `largest` numbers at once are compared a block of anchors at a time,
    with the same value and gradient.

    Args:
        relation: Kernel and criterion; no scale, and of the criterion its rows: they are sums over edges, whose mean
            over the triplets is taken.
        student: Nodes `(N, D_s)`.
        teacher: Nodes `(N, D_t)`.
        topology: Each anchor's candidates; all N nodes if not given, the anchor itself included.
        largest: Numbers in the largest tensor of a block.

    Raises:
        RelgraphError: if the two do not hold the same number of nodes.

    >>> import torch
    >>> from relgraph.graph.criteria import mean_square
    >>> from relgraph.graph.kernels import cosine
    >>> line, other = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    >>> related_angles(Relation(cosine, criterion=mean_square), line, other) * 27  # 2 (-1 - 1)^2 at nodes 0 and 1
    tensor(16.)
    """
    check_nodes(student, teacher)
    nodes, totals, triplets = (at_least_float32(student), at_least_float32(teacher)), [], 0
    everyone = torch.arange(len(student), device=student.device), None
    for anchors, places in topology.groups() if isinstance(topology, Edges) else [everyone]:
        candidates = topology.edge_index[0][places] if isinstance(topology, Edges) else None
        width = len(student) if candidates is None else candidates.shape[1]
        block = largest // max(1, width * max(width, student.shape[-1], teacher.shape[-1]))
        term = partial(_angles, relation, anchors, candidates)
        totals.append(sum_of_blocks(term, nodes, len(anchors), max(1, block)))
        triplets += len(anchors) * width**2
    if not totals:  # mutual neighbours, or a threshold, may leave no edge
        return nodes[0][:0].sum() + nodes[1][:0].sum()
    return torch.stack(totals).sum() / triplets


def _angles(
    relation: Relation, anchors: Tensor, candidates: Tensor | None, some: slice, s: Tensor, t: Tensor
) -> Tensor:
    chosen = None if candidates is None else candidates[some]
    s, t = (relation.kernel.nodes(differences(x, anchors[some], chosen)) for x in (s, t))
    return relation.criterion.of_block(relation.kernel.matrix(s, s), relation.kernel.matrix(t, t))


def differences(x: Tensor, anchors: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Return the differences to each anchor, `x_i - x_j` for the candidates i of anchor j, `(N, D) -> (A, M, D)`.

    Candidates are all N nodes, the anchor itself included, or those of each anchor, `(A, M)`.

    >>> differences(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([1]))
    tensor([[[-1., -2.],
             [ 0.,  0.]]])
    """
    return (x if candidates is None else x[candidates]) - x[anchors].unsqueeze(-2)
