"""Relational knowledge distillation (Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068)."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.criteria import huber
from relgraph.graph.kernels import at_least_float32, cosine, euclidean, squared_differences, squared_distance
from relgraph.graph.pair import Pair, PairBuilder, topology_of
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_mean
from relgraph.graph.topology import ALL_PAIRS, Edges, Topology
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.relational import FixedParts

# Numbers in the largest tensor of a block. On a processor angles of float32 come in smaller ones, 2 MiB of float64,
# which stay in its caches; 64 nodes are one block.
LARGEST, LARGEST_ON_CPU = 2**21, 2**18
# The least squared distance to an anchor, as a share of a network's largest, at which a node has an angle there: its
# reciprocal, and the product of two such distances, are in the range of float32.
LEAST = 1e-36


# The official code has at least 1e-6 for two images that coincide, so that they count in the mean distance, as here:
# whether rounding finds 0 or not then makes no difference. Here it is 1e-12, and the largest number of a batch about 1.
BETWEEN = replace(squared_distance, pairs=partial(squared_differences, least=1e-24))
DISTANCE = replace(euclidean, product=BETWEEN, bounded=True)


class RKD(FixedParts):
    """Match the teacher's distances between images, relative to their mean, and the angles formed by three images.

    With `d_ij = |x_i - x_j|` of the nodes of one network, mu the mean of those between two images (i != j), and
    `a_ijk = <x_i - x_j, x_k - x_j> / (|x_i - x_j| |x_k - x_j|)`, the cosine of the angle at j,

        L_distance = 1 / N^2 * sum_ij  huber(d^s_ij / mu^s, d^t_ij / mu^t)
        L_angle    = 1 / N^3 * sum_ijk huber(a^s_ijk, a^t_ijk)
        L = distance_weight * L_distance + angle_weight * L_angle

    with `huber(s, t) = (s - t)^2 / 2` where `|s - t| < 1`, else `|s - t| - 1/2`. On a sparse graph the distances are
    those of its edges, and the angles at j those between its candidates, j itself included as on all pairs; both are
    means, and with k = N - 1 they are the dense form, in value and gradient. The loss does not change when the nodes of
    a network are all scaled, shifted or rotated, equal ones among them.

    Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. The angles
    of all pairs are N^3 numbers: for many nodes they are compared a block of anchors at a time. They follow from N^2
    distances by the law of cosines, of float64 from N^2 differences of D numbers (`related_angles`). A graph whose
    anchors differ in their number of edges (given edges, union or mutual neighbours) reads these numbers back from the
    device in each call; k nearest neighbours do not.

    Paper, official code and this one: the paper sums over pairs and triplets, the code takes means, over all N^2
    entries, the diagonal included, and over all N^3 triplets, degenerate ones included (they count 0), as here. The
    student's mu has a gradient in the code, and here. Two images that coincide are at distance 1e-6 in the code, and
    here at 1e-12 of the largest number: both count them in mu. 25 and 50 are the weights of classification benchmarks
    (RepDistiller); the authors' metric learning has 1 and 2, on embeddings, where the student's are not of unit length
    (`nodes="embedding"`). Sparse graphs are ours.

    Paper: Relational Knowledge Distillation (Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068)
    Differs: the paper sums over pairs and triplets; the code, and this one, take means, zeros included
    Topology: all pairs; triplets

    Args:
        distance_weight: Weight of the distances.
        angle_weight: Weight of the angles; 0 leaves them out.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, a negative weight, none above 0, or outputs without the nodes that it reads.

    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> turned = 3 * x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + 5
    >>> RKD()(turned, x).item() < 1e-9, RKD()(x, x.square()).item() > 0.1
    (True, True)
    """

    most_positions: ClassVar[int | None] = 256  # triplets grow with the cube
    distance_weight: float = option(default=25.0, least=0, term="distance")
    angle_weight: float = option(default=50.0, least=0, term="angle")

    def __post_init__(self) -> None:
        """Build both relations."""
        super().__post_init__()
        if self.distance_weight == self.angle_weight == 0:
            raise RelgraphError("RKD needs a weight above 0, got 0 for both distances and angles")
        self.angle = Relation(cosine, criterion=huber)

    def make_relation(self) -> Relation:
        """Return the relation of the distances; angles are compared in blocks in every form."""
        return Relation(DISTANCE, scale=by_mean, criterion=huber)

    def mapped(self, builder: PairBuilder) -> bool:
        """Return whether `torch.vmap` maps it: on a sparse graph blocks of angles hold each image's own neighbours."""
        return self.rule.dense

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `distance` and, unless its weight is 0, `angle`."""
        assert self.relation is not None
        terms = {"distance": self.relation.of_pair(pair)}
        if self.angle_weight > 0:
            terms["angle"] = related_angles(self.angle, pair["student"].x, pair["teacher"].x, topology_of(pair))
        return terms


def related_angles(
    relation: Relation, student: Tensor, teacher: Tensor, topology: Topology = ALL_PAIRS, largest: int | None = None
) -> Tensor:
    """Return the mean of a relation's criterion over the graphs of differences, one for each anchor: a scalar.

    With the cosine kernel the edge between two candidates i and k of an anchor j is the cosine of the angle at j,
    `<x_i - x_j, x_k - x_j> / (|x_i - x_j| |x_k - x_j|)`, and 0 where i or k is j itself or coincides with it; all pairs
    i, k of the candidates count, `sum_j d_j^2` triplets for anchors of d_j candidates (RKD; Park et al., 2019, arXiv
    1904.05068). Triplets that would take more than `largest` numbers at once are compared a block of anchors at a time,
    with the same value and gradient.

    Of float32 or less the cosines between all nodes are computed from distances in float64 (`angles`), which is D times
    less work than differences in float32, with a gradient nearer to the exact one. Nodes coincide where
    `squared_differences` says so, or where they are 1e-18 times as far apart as the farthest two. Of float64, where a
    distance would cancel digits of near nodes, and with other kernels, differences are formed.

    Args:
        relation: Kernel, which does not see the scale of all nodes, and criterion; no scale, and of the criterion its
            rows: they are sums over edges, whose mean over the triplets is taken.
        student: Nodes `(N, D_s)`.
        teacher: Nodes `(N, D_t)`.
        topology: Each anchor's candidates; all N nodes if not given, the anchor itself included.
        largest: Numbers in the largest tensor of a block; if not given, what suits the device.

    >>> from relgraph.graph.criteria import mean_square
    >>> line, other = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    >>> related_angles(Relation(cosine, criterion=mean_square), line, other) * 27  # 2 (-1 - 1)^2 at nodes 0 and 1
    tensor(16.)
    """
    if isinstance(topology, Edges) or relation.kernel != cosine or torch.float64 in (student.dtype, teacher.dtype):
        return _from_differences(relation, student, teacher, topology, largest or LARGEST)
    largest = largest or (LARGEST_ON_CPU if student.device.type == "cpu" else LARGEST)
    squares = [_at_most_one(squared_differences(x, x, dtype=torch.float64)) for x in (student, teacher)]

    def term(some: slice, s: Tensor, t: Tensor) -> Tensor:
        return relation.criterion.of_block(angles(s, some), angles(t, some))

    count = len(student)
    return (sum_of_blocks(term, squares, count, max(1, largest // count**2)) / count**3).float()


def _at_most_one(squares: Tensor) -> Tensor:
    most = squares.detach().amax((-2, -1), keepdim=True)  # angles do not see the scale
    return squares / most.masked_fill(most == 0, 1)


def angles(squares: Tensor, anchors: slice) -> Tensor:
    """Return the cosines of the angles at some anchors, in float32, from squared distances of at most 1 in float64.

    By the law of cosines `a_ijk = (d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj)` at anchor j, and 0 where i or k is no
    farther from j than `sqrt(LEAST)`: `(N, N) -> (A, N, N)`.

    >>> angles(torch.tensor([[0.0, 0.25, 0.25], [0.25, 0.0, 0.5], [0.25, 0.5, 0.0]]), slice(0, 1))  # a right angle
    tensor([[[0., 0., 0.],
             [0., 1., 0.],
             [0., 0., 1.]]])
    """
    own = squares[anchors]
    inverse = torch.where(own > LEAST, own, torch.inf).rsqrt().float()
    corners = (own.unsqueeze(-1) + own.unsqueeze(-2) - squares).float()  # these cancel digits, what follows does not
    return corners * (inverse / 2).unsqueeze(-1) * inverse.unsqueeze(-2)


def _from_differences(relation: Relation, student: Tensor, teacher: Tensor, topology: Topology, largest: int) -> Tensor:
    # A difference of the largest numbers would overflow. A power of two rounds nothing, and angles do not see it.
    nodes = [at_least_float32(x) / 4 for x in (student, teacher)]
    kernel, totals, triplets = relation.kernel, [], 0

    def term(anchors: Tensor, candidates: Tensor | None, some: slice, s: Tensor, t: Tensor) -> Tensor:
        chosen = None if candidates is None else candidates[some]
        s, t = (kernel.nodes(differences(x, anchors[some], chosen)) for x in (s, t))
        return relation.criterion.of_block(kernel.matrix(s, s), kernel.matrix(t, t))

    everyone = torch.arange(len(student), device=student.device), None
    for anchors, places in topology.groups() if isinstance(topology, Edges) else [everyone]:
        candidates = topology.edge_index[0][places] if isinstance(topology, Edges) else None
        width = len(student) if candidates is None else candidates.shape[1]
        block = largest // max(1, width * max(width, student.shape[-1], teacher.shape[-1]))
        totals.append(sum_of_blocks(partial(term, anchors, candidates), nodes, len(anchors), max(1, block)))
        triplets += len(anchors) * width**2
    if not totals:  # mutual neighbours, or a threshold, may leave no edge
        return nodes[0][:0].sum() + nodes[1][:0].sum()
    return (torch.stack(totals).sum() / triplets).to(torch.result_type(*nodes))


def differences(x: Tensor, anchors: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Return the differences to each anchor, `x_i - x_j` for the candidates i of anchor j, `(N, D) -> (A, M, D)`.

    Candidates are all N nodes, the anchor itself included, or those of each anchor, `(A, M)`.

    >>> differences(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([1]))
    tensor([[[-1., -2.],
             [ 0.,  0.]]])
    """
    return (x if candidates is None else x[candidates]) - x[anchors].unsqueeze(-2)
