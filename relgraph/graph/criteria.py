"""Criteria: what measures the difference of two networks' weights of the same edges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from relgraph.graph.kernels import safe_sqrt
from relgraph.graph.topology import ALL_PAIRS, Topology

Row = Callable[[Tensor, Tensor], Tensor]


def _mean_over_anchors(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / anchors


def _mean_over_edges(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / max(1, edges)  # 0, not NaN, of a graph without edges


@dataclass(frozen=True)
class Criterion:
    """A number from two networks' weights of the same edges, `finish(sum_i row(s_i, t_i), anchors, edges)`.

    Every form of a relation follows from what one anchor contributes: a matrix is all of its rows, a block some of
    them, an edge list the rows of its anchors.

    Attributes:
        row: What anchors contribute, from the weights of their M edges, `(..., M) x (..., M) -> (...)`.
        finish: What becomes of the sum over anchors, given the numbers of anchors and of edges; the mean over anchors
            if not given.
        name: The field's term for it.
        additive: Whether an anchor contributes the sum of what each of its edges would alone: then the edges of a
            sparse graph need not be put together by their anchors.
        square: Whether that sum is the squared difference, from which the factored form follows.

    >>> absolute = Criterion(lambda student, teacher: (student - teacher).abs().mean(-1))  # one of your own
    >>> absolute(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(2.5000)
    """

    row: Row
    finish: Callable[[Tensor, int, int], Tensor] = _mean_over_anchors
    name: str = "own"
    additive: bool = False
    square: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, topology: Topology = ALL_PAIRS) -> Tensor:
        """Return the number, a scalar, for the weights of the edges of a topology."""
        total = topology.sum_rows(self.row, student, teacher, self.additive)
        return self.finish(total, topology.count(student), student.numel()).to(
            torch.promote_types(student.dtype, teacher.dtype)
        )


def as_criterion(criterion: Criterion | Row) -> Criterion:
    """Return a criterion; a function of the weights of one anchor becomes the mean of it over anchors."""
    if isinstance(criterion, Criterion):
        return criterion
    return Criterion(criterion, name=getattr(criterion, "__name__", "own").replace("_", " "))


def _square_by_norm(student: Tensor, teacher: Tensor) -> Tensor:
    # Rows by their norms and then in float64: a plain float32 sum over a matrix of N = 4,096 loses three digits.
    norm: Tensor = torch.linalg.vector_norm(student - teacher, dim=-1)
    return norm.double().square()


def _square(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(-1)


def _of_edges(edge: Row, finish: Callable[[Tensor, int, int], Tensor], name: str) -> Criterion:
    return Criterion(lambda student, teacher: edge(student, teacher).sum(-1), finish, name, additive=True)


_squared: dict[str, Any] = {"additive": True, "square": True}
# The Frobenius norm, `sqrt(sum (s - t)^2)`, which is neither squared nor divided by anything. At zero difference the
# gradient is 0.
frobenius = Criterion(_square_by_norm, lambda total, anchors, edges: safe_sqrt(total), "Frobenius norm", **_squared)
# The mean of the squared differences over all edges.
mean_square = Criterion(_square, _mean_over_edges, "mean square", **_squared)
# Their sum, which grows with the square of N on all pairs.
sum_square = Criterion(_square, lambda total, anchors, edges: total, "sum of squares", **_squared)
# Half their sum divided by the number of anchors: the Euclidean loss of Caffe, in which the authors of IRG wrote (Liu
# et al., CVPR 2019). One row `(M,)` is that of one anchor.
half_square = Criterion(_square, lambda total, anchors, edges: total / (2 * anchors), "half square", **_squared)
# The mean over all edges of the Huber loss at delta 1: `d^2 / 2` where `|d| < 1`, else `|d| - 1/2`.
huber = _of_edges(lambda s, t: smooth_l1_loss(s, t, reduction="none"), _mean_over_edges, "Huber")
# The mean over all edges of `t log(t / s)` for *probabilities* s and t. 1e-7 is added to both inside the logarithm, as
# in the official code of PKT; the mean, in place of a sum over each anchor's edges, is its too.
kl = _of_edges(lambda s, t: t * ((t + 1e-7) / (s + 1e-7)).log(), _mean_over_edges, "KL")
# The mean over anchors of `-sum exp(t) s` for *log-probabilities* s and t: the criterion of SEED (Fang et al., 2021,
# arXiv 2101.04731).
cross_entropy = _of_edges(lambda s, t: -(t.exp() * s), _mean_over_anchors, "cross-entropy")
