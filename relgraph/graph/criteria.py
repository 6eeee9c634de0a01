"""Criteria: measures of the difference between two networks' weights s and t of the same edges.

| criterion | equation | of |
|---|---|---|
| `frobenius` | `sqrt(sum (s - t)^2)`, neither squared nor divided by anything; gradient 0 at zero difference | EGA |
| `mean_square` | `sum (s - t)^2 / E` over E edges | SP, CC, IRG |
| `sum_square` | `sum (s - t)^2`, which grows with the square of N on all pairs | IRG's paper |
| `anchor_square` | `sum (s - t)^2 / N` over N anchors | MLLD |
| `half_square` | `sum (s - t)^2 / (2 N)` over N anchors, Caffe's Euclidean loss; `(M,)` is one row | IRG's code |
| `huber` | the mean over edges of `d^2 / 2` where `|d| < 1`, else `|d| - 1/2`, with `d = s - t` | RKD |
| `kl` | the mean over edges of `t log((t + 1e-7) / (s + 1e-7))` for *probabilities*, as in its code | PKT |
| `cross_entropy` | the mean over anchors of `-sum exp(t) s` for *log-probabilities* | SEED |
| `log_kl` | the mean over anchors of `sum exp(t) (t - s)` for *log-probabilities* | CIRKD |

Squares of differences overflow in float32 from 2e19 on; their sums are in float64, so that a mean does not overflow
before its terms.

Sources: EGA (Ma, Chen, Akata, 2022, arXiv 2211.13264), SP (Tung and Mori, 2019, arXiv 1907.09682), CC (Peng et al.,
2019, arXiv 1904.01802), IRG (Liu et al., CVPR 2019), RKD (Park et al., 2019, arXiv 1904.05068), PKT (Passalis and
Tefas, 2018, arXiv 1803.10837), SEED (Fang et al., 2021, arXiv 2101.04731), MLLD (Jin et al., CVPR 2023), CIRKD (Yang
et al., 2022, arXiv 2204.06986).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import safe_sqrt
from relgraph.graph.positions import mean_of_graphs
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Topology

Row = Callable[[Tensor, Tensor], Tensor]


def _mean_over_anchors(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / anchors


def _mean_over_edges(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / max(1, edges)  # 0, not NaN, of a graph without edges


@dataclass(frozen=True)
class Criterion:
    """A number from two networks' weights of the same edges, `finish(sum_i row(s_i, t_i), anchors, edges)`.

    Every form of a relation follows from the contribution of one anchor: a matrix consists of all rows, a block of some
    of them, an edge list of the rows of its anchors. An anchor without edges contributes 0, and is counted in a mean.

    Attributes:
        row: The contribution of each anchor, from the weights of its M edges, `(..., M) x (..., M) -> (...)`.
        finish: Maps the sum over anchors, given the numbers of anchors and of edges, to the result; the mean over
            anchors if not given, the sum itself if `None`.
        name: Name, as used in the literature.
        additive: Whether the contribution of an anchor is a sum over its edges: the edges of a sparse graph then need
            not be grouped by anchor.
        square: Whether anchors contribute their squared differences, or for a `norm` the lengths of the differences;
            the factored form is then available.
        norm: Whether the contributions of the anchors are reduced by their Euclidean norm, in place of their sum.

    >>> absolute = Criterion(lambda student, teacher: (student - teacher).abs().mean(-1))  # one of your own
    >>> absolute(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(2.5000)
    """

    row: Row
    finish: Callable[[Tensor, int, int], Tensor] | None = _mean_over_anchors
    name: str = "own"
    additive: bool = False
    square: bool = False
    norm: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, topology: Topology = ALL_PAIRS) -> Tensor:
        """Return the number, a scalar, for the weights of the edges of a topology; of a batch of graphs their mean."""
        if student.ndim > topology.dims:
            return mean_of_graphs(partial(self, topology=topology), student, teacher, topology.dims)
        if isinstance(topology, AllPairs):
            rows, anchors = self.row(student, teacher), student.shape[:-1].numel()
            if rows.shape != student.shape[:-1]:
                raise _not_one_each(rows, student)
        else:
            rows, anchors = topology.rows(self.of_rows, student, teacher, self.additive), topology.anchors
        # A plain float32 sum over the squares of a matrix of N = 4,096 loses three digits, and overflows before a mean.
        wide = torch.float64
        total: Tensor = torch.linalg.vector_norm(rows, dtype=wide) if self.norm else rows.sum(dtype=wide)
        total = total if self.finish is None else self.finish(total, anchors, student.numel())
        return total.to(torch.result_type(student, teacher))

    def of_rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the result of `row` for the weights of some anchors.

        Raises:
            RelgraphError: if it is not one number for each anchor.
        """
        found = self.row(student, teacher)
        if found.shape != student.shape[:-1]:
            raise _not_one_each(found, student)
        return found

    def of_block(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the contribution of some anchors, `(A, M) x (A, M)`, in float64: `of_blocks` reads the sum."""
        rows = self.of_rows(student, teacher)
        return rows.double().square().sum() if self.norm else rows.sum(dtype=torch.float64)

    def of_blocks(self, total: Tensor, count: int, edges: int | None = None) -> Tensor:
        """Return the number from the sum over `count` anchors, which have all pairs as edges or `edges` in all."""
        total = safe_sqrt(total) if self.norm else total
        return total if self.finish is None else self.finish(total, count, count**2 if edges is None else edges)


def _not_one_each(found: Tensor, weights: Tensor) -> RelgraphError:
    rule = "the row of a criterion returns one number for each anchor"
    shapes = f"expected {tuple(weights.shape[:-1])}, got {tuple(found.shape)} from weights {tuple(weights.shape)}"
    return RelgraphError(f"{rule}: {shapes}; reduce over the last dimension alone")


def as_criterion(criterion: Criterion | Row) -> Criterion:
    """Return a criterion; a function of the weights of one anchor is averaged over anchors."""
    if isinstance(criterion, Criterion):
        return criterion
    return Criterion(criterion, name=getattr(criterion, "__name__", "own").replace("_", " "))


def _length(student: Tensor, teacher: Tensor) -> Tensor:
    # A single row may hold all edges of a graph.
    dtype = torch.float64 if student.ndim == 1 else None
    length: Tensor = torch.linalg.vector_norm(student - teacher, dim=-1, dtype=dtype)
    return length


def _square(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(-1)


def _half_over_anchors(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / (2 * anchors)


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return smooth_l1_loss(student, teacher, reduction="none").sum(-1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher * ((teacher + 1e-7) / (student + 1e-7)).log()).sum(-1)


def _cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.exp() * student).sum(-1)


def _log_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1)


frobenius = Criterion(_length, None, "Frobenius norm", additive=True, square=True, norm=True)
mean_square = Criterion(_square, _mean_over_edges, "mean square", additive=True, square=True)
sum_square = Criterion(_square, None, "sum of squares", additive=True, square=True)
anchor_square = Criterion(_square, _mean_over_anchors, "square by anchor", additive=True, square=True)
half_square = Criterion(_square, _half_over_anchors, "half square", additive=True, square=True)
huber = Criterion(_huber, _mean_over_edges, "Huber", additive=True)
kl = Criterion(_kl, _mean_over_edges, "KL", additive=True)
cross_entropy = Criterion(_cross_entropy, _mean_over_anchors, "cross-entropy", additive=True)
log_kl = Criterion(_log_kl, _mean_over_anchors, "KL of logarithms", additive=True)
