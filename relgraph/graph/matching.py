"""Scales, which make two networks' weights comparable, and criteria, which measure what still differs.

Both read the weights of the edges together with their topology, so the same function serves a matrix `(N, M)` and an edge list `(E,)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from relgraph.errors import RelgraphError
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges

Scale = Callable[[Tensor, AllPairs | Edges], Tensor]
Criterion = Callable[[Tensor, Tensor, AllPairs | Edges], Tensor]


def raw(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the weights as they are."""
    return weights


def by_mean(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the mean of the positive weights of the whole graph (RKD; Park et al., 2019, arXiv 1904.05068); all stay 0 if none is."""
    positive = weights > 0
    total = torch.where(positive, weights, 0).sum()
    return weights * torch.where(total > 0, positive.sum() / torch.where(total > 0, total, 1), 0)


def by_max(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the largest weight of the whole graph (IRG's code; Liu et al., 2019); all stay 0 if it is 0. The gradient goes through it."""
    if weights.numel() == 0:  # mutual neighbours, or a threshold, may leave no edge
        return weights
    largest = weights.max()
    return weights * torch.where(largest > 0, 1 / torch.where(largest > 0, largest, 1), 0)


def by_anchor_norm(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the Euclidean length of each anchor's weights (SP; Tung and Mori, 2019, arXiv 1907.09682); zeros stay 0."""
    square = topology.sum(weights.square())
    return weights * torch.where(square > 0, torch.where(square > 0, square, 1).rsqrt(), 0)


def by_anchor_sum(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the sum of each anchor's weights, which makes probabilities of weights >= 0 (PKT; Passalis and Tefas, 2018, arXiv 1803.10837)."""
    total = topology.sum(weights)
    return weights * torch.where(total > 0, 1 / torch.where(total > 0, total, 1), 0)


def softmax(temperature: float) -> Scale:
    """Return the scale `log softmax(weights / temperature)` over each anchor's edges; criteria that follow expect log-probabilities.

    Raises:
        RelgraphError: if the temperature is not positive.
    """
    if not temperature > 0:
        raise RelgraphError(f"a temperature must be positive, got {temperature}")

    def scale(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
        return topology.log_softmax(weights / temperature)

    return scale


def frobenius(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the Frobenius norm of the difference, `sqrt(sum (s - t)^2)`: neither squared nor divided by the number of edges.

    At zero difference the gradient is 0. Rows are summed first and their norms in float64: a plain float32 sum over a matrix of
    N = 4,096 loses three digits.
    """
    difference = student - teacher
    rows = torch.linalg.vector_norm(difference, dim=-1) if difference.ndim > 1 else difference
    return torch.linalg.vector_norm(rows, dtype=torch.float64).to(difference.dtype)


def mean_square(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean of the squared differences over all edges."""
    return _mean((student - teacher).square())


def huber(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean over all edges of the Huber loss at delta 1: `d^2 / 2` where `|d| < 1`, else `|d| - 1/2`."""
    return _mean(smooth_l1_loss(student, teacher, reduction="none"))


def kl(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean over all edges of `t log(t / s)` for *probabilities* s and t.

    1e-7 is added to both inside the logarithm, as in the official code of PKT; the mean, in place of a sum over each anchor's edges, is its too.
    """
    return _mean(teacher * ((teacher + 1e-7) / (student + 1e-7)).log())


def cross_entropy(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean over anchors of `-sum exp(t) s` for *log-probabilities* s and t (SEED; Fang et al., 2021, arXiv 2101.04731)."""
    return -(teacher.exp() * student).sum() / topology.count(student)


def _mean(values: Tensor) -> Tensor:
    """Return the mean; 0, not NaN, of a graph without edges."""
    return values.sum() / max(1, values.numel())
