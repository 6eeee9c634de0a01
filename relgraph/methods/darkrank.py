"""DarkRank, the hard form (Chen, Wang, Zhang, AAAI 2018, arXiv 1707.01220)."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import Kernel, identity, squared_differences, squared_distance, where_positive
from relgraph.graph.pair import Pair, PairBuilder, topology_of
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Edges
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.relational import FixedParts


class DarkRank(FixedParts):
    """Match the teacher's ranking of the images nearest to each image.

    With the score `S_ij = -rank_alpha |x_i - x_j|^rank_beta` of the nodes of one network, and j_1, ..., j_L those L
    others of image i (`length`) that the teacher scores best, best first,

        L = -1 / N * sum_i sum_l log( exp S^s_(i, j_l) / sum_{m >= l} exp S^s_(i, j_m) )

    the mean over images of minus the log-likelihood of the teacher's order under the student's Plackett-Luce model. On
    a sparse graph the list is taken from the image's edges, at least L of them; with k = N - 1 it is the dense form, in
    value and gradient. The loss depends on the length of the nodes: scores grow with a power of their distances, and
    the defaults come from codes with unit vectors. It is infinite where a score of the student is beyond 3e38, at
    distances of 5e12 with the defaults (of float16 nodes longer than some tens the gradient overflows).

    Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. A graph
    whose anchors differ in their number of edges (given edges, union or mutual neighbours) reads the largest and the
    smallest number back from the device in each call; k nearest neighbours do not.

    Paper, official code and this one: the paper has a soft form too, the KL divergence over the orders, which is not
    here. The authors' own code ranks all others of a batch, of 8 unit vectors by default, for the images of its first
    half (`length=7`, but for all images). RKD's code, which this one follows, ranks the 4 nearest of every image, with
    alpha 2 and beta 3 in its script and 3 and 3 in its class, and drops the first of each order, which is the image
    itself unless another one equals it; here the image itself is left out. Scores of the
    teacher that are equal in float32 are ranked in the order of the batch here, in any order there. Sparse graphs are
    ours.

    Paper: DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer (Chen, Wang, Zhang,
        AAAI 2018, arXiv 1707.01220)
    Differs: the hard form alone; ranks each image's 4 nearest, as RKD's code, where DarkRank's own ranks the batch
    Kernel: euclidean^beta
    Topology: nearest others
    Criterion: likelihood of order

    Args:
        rank_alpha: Scale of the scores, > 0.
        rank_beta: Power of the distances, > 0.
        length: How many others are ranked, at least 2: one image has only one order.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, numbers out of range, outputs without the nodes that it reads, or images with
            fewer than `length` others, or edges, in the batch.

    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> DarkRank(length=2)(x, x).item() < 1e-4 < DarkRank(length=2)(x, -x[[1, 0, 3, 2]]).item()
    True
    """

    rank_alpha: float = option(default=2.0, above=0)
    rank_beta: float = option(default=3.0, above=0)
    length: int = option(default=4, least=2)

    def make_relation(self) -> Relation:
        """Return the relation of scores by the likelihood of the teacher's order."""
        criterion = Criterion(self._likelihood, name="likelihood of order")
        return Relation(score(self.rank_alpha, self.rank_beta), self.rule, criterion=criterion)

    def make_builder(self) -> PairBuilder:
        """Return the builder of graphs of scores, without a node's edge to itself."""
        assert self.relation is not None
        return self.relation.builder

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `darkrank`."""
        edges = topology_of(pair)
        if isinstance(edges, Edges) and edges.degree is None:  # an image without edges is in no row of the criterion
            self._check(int(edges.edge_index[1].bincount(minlength=edges.anchors).min()))
        return super().compare_pair(pair, student, teacher, batch)

    def _likelihood(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return minus the log-likelihood of the teacher's order of its best, `(A, M) x (A, M) -> (A,)`."""
        self._check(teacher.shape[-1] - 1 if self.rule.dense else teacher.shape[-1])  # all pairs: one is itself
        # The bits of negative numbers, as integers, grow with the magnitude. Those that float32 lacks are rounded off:
        # images at one distance would be ranked by rounding error.
        rounded = (teacher.view(torch.int64) + 2**28) >> 29
        best = rounded.argsort(dim=-1, stable=True)[..., : self.length]
        return -log_likelihood(student.gather(-1, best))

    def _check(self, others: int) -> None:
        if others < self.length:
            expected = f"expected at least {self.length} in its graph"
            raise RelgraphError(f"DarkRank ranks {self.length} others of each image: {expected}, got {others}")


def score(alpha: float, beta: float) -> Kernel:
    """Return the kernel `-alpha |x - y|^beta`, with gradient 0 at distance 0; a node's own score is the worst of all.

    In float64: in float32 the scores of nodes of length 1e13 overflow at a beta of 3.

    >>> score(2, 3)(torch.tensor([[0.0], [2.0]]))
    tensor([[-inf, -16.],
            [-16., -inf]], dtype=torch.float64)
    """
    product = replace(squared_distance, pairs=partial(squared_differences, dtype=torch.float64), own=torch.inf)
    return Kernel("euclidean^beta", identity, product, partial(_score, alpha, beta), nearest_is_largest=True)


def _score(alpha: float, beta: float, square: Tensor) -> Tensor:
    return -alpha * where_positive(lambda positive: positive ** (beta / 2), square)


def log_likelihood(scores: Tensor) -> Tensor:
    """Return the logarithm of the Plackett-Luce probability of each row's order, `(N, L) -> (N,)`.

    `sum_l [ S_l - log sum_{m >= l} exp S_m ]`: the first is drawn among all, the next among the rest.

    >>> log_likelihood(torch.zeros(1, 3)).exp()  # each of the six orders is as probable
    tensor([0.1667])
    """
    length = scores.shape[-1]
    gone = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril(-1)
    rest = scores.unsqueeze(-2).expand(-1, length, -1).masked_fill(gone, float("-inf"))
    least = torch.finfo(scores.dtype).min  # where scores overflow the result is infinite
    return (scores - rest.logsumexp(-1).clamp_min(least)).sum(-1)
