"""Scales, which make two networks' weights comparable, and criteria, which measure what still differs.

Both read the weights of the edges together with their topology, so the same function serves a matrix `(N, M)` and an
edge list `(E,)`.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss, softplus

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import quotient
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges


class Scale(Protocol):
    """Makes the weights of one network's edges comparable with another's, in the same shape."""

    def __call__(self, weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS, /) -> Tensor:
        """Return the scaled weights."""


class Criterion(Protocol):
    """Measures the difference of two networks' weights of the same edges."""

    def __call__(self, student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS, /) -> Tensor:
        """Return a scalar."""


def raw(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the weights as they are."""
    return weights


def by_mean(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the mean of the positive weights of the whole graph; 0 if there are none.

    The scale of RKD's distances (Park et al., 2019, arXiv 1904.05068).
    """
    positive = weights > 0
    total = torch.where(positive, weights, 0).sum()
    return quotient(weights, total / positive.sum().clamp_min(1))


def by_max(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the largest weight of the whole graph, with gradient through it; 0 if it is not positive.

    The scale in the codes of IRG (Liu et al., CVPR 2019).
    """
    if weights.numel() == 0:  # mutual neighbours, or a threshold, may leave no edge
        return weights
    return quotient(weights, weights.max())


def by_constant_max(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the largest weight of the whole graph, a constant for the gradient; 0 if it is not positive.

    The scale in the authors' code of IRG (Liu et al., CVPR 2019).
    """
    if weights.numel() == 0:
        return weights
    return quotient(weights, weights.detach().max())


def by_anchor_norm(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the Euclidean length of each anchor's weights; zeros stay 0.

    The scale of SP (Tung and Mori, 2019, arXiv 1907.09682).
    """
    square = topology.sum(weights.square())
    return weights * torch.where(square > 0, torch.where(square > 0, square, 1).rsqrt(), 0)


def by_anchor_sum(weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Divide by the sum of each anchor's weights, which makes probabilities of weights >= 0.

    The scale of PKT (Passalis and Tefas, 2018, arXiv 1803.10837).
    """
    return quotient(weights, topology.sum(weights))


def softmax(temperature: float) -> Scale:
    """Build the scale that makes log-probabilities of each anchor's edges, at a temperature.

    `w_ij / T - log sum_k exp(w_ik / T)` over the edges of anchor i.

    Raises:
        RelgraphError: if the temperature is not positive.
    """
    if not temperature > 0:
        raise RelgraphError(f"a temperature must be positive, got {temperature}")
    return partial(_log_softmax, temperature)


def is_softmax(scale: Scale) -> bool:
    """Return whether a scale was built by `softmax`."""
    return isinstance(scale, partial) and scale.func is _log_softmax


def _log_softmax(temperature: float, weights: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    return topology.log_softmax(weights / temperature)


def frobenius(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Measure by the Frobenius norm, `sqrt(sum (s - t)^2)`, which is neither squared nor divided by anything.

    At zero difference the gradient is 0. Rows are summed first and their norms in float64: a plain float32 sum over
    a matrix of N = 4,096 loses three digits.
    """
    difference = student - teacher
    rows = torch.linalg.vector_norm(difference, dim=-1) if difference.ndim > 1 else difference
    norm: Tensor = torch.linalg.vector_norm(rows, dtype=torch.float64)
    return norm.to(difference.dtype)


def mean_square(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean of the squared differences over all edges."""
    return _mean((student - teacher).square())


def sum_square(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the sum of the squared differences over all edges, which grows with the square of N on all pairs."""
    return (student - teacher).square().sum()


def half_square(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return half the sum of the squared differences over all edges, divided by the number of anchors.

    The Euclidean loss of Caffe, in which the authors of IRG wrote (Liu et al., CVPR 2019). One row `(M,)` is that of
    one anchor.
    """
    return (student - teacher).square().sum() / (2 * topology.count(student))


def huber(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean over all edges of the Huber loss at delta 1: `d^2 / 2` where `|d| < 1`, else `|d| - 1/2`."""
    return _mean(smooth_l1_loss(student, teacher, reduction="none"))


def kl(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean over all edges of `t log(t / s)` for *probabilities* s and t.

    1e-7 is added to both inside the logarithm, as in the official code of PKT; the mean, in place of a sum over each
    anchor's edges, is its too.
    """
    return _mean(teacher * ((teacher + 1e-7) / (student + 1e-7)).log())


def cross_entropy(student: Tensor, teacher: Tensor, topology: AllPairs | Edges = ALL_PAIRS) -> Tensor:
    """Return the mean over anchors of `-sum exp(t) s` for *log-probabilities* s and t.

    The criterion of SEED (Fang et al., 2021, arXiv 2101.04731).
    """
    return -(teacher.exp() * student).sum() / topology.count(student)


def nce(positive: Tensor, negative: Tensor, count: Tensor, noise: float) -> Tensor:
    """Measure how well each anchor's positive is told from its m negatives, by noise-contrastive estimation.

    With probabilities p of the positive and p_k of the negatives, q of the noise, and e = 1e-7 as in the official code,

        1 / N * sum_i [-log(p_i / (p_i + m_i q + e)) - sum_k log(m_i q / (p_ik + m_i q + e))]

    The criterion of CRD (Tian et al., 2019, arXiv 1910.10699). It reads logarithms of the p, like `cross_entropy`:
    they neither overflow at a low temperature nor lose digits where p is far below m q.

    Args:
        positive: Log-probabilities `(N,)`; they need not be normalised.
        negative: Log-probabilities `(N, K)`; -inf stands for no negative.
        count: m, the number of negatives of each anchor, `(N,)`.
        noise: q, the probability that the noise gives to any one image.

    >>> nce(torch.zeros(1), torch.zeros(1, 2), torch.tensor([2]), noise=0.5)  # 3 log 2: all probabilities are 1/2
    tensor(2.0794)
    """
    expected = count.to(positive.dtype) * noise
    bar = (expected + 1e-7).log()
    # A threshold of 40, since beyond torch's own, 20, the softplus is its argument only to 2e-9.
    own = softplus(bar - positive, threshold=40)
    others = softplus(negative - bar.unsqueeze(-1), threshold=40).sum(-1)
    return (own + others + count * torch.log1p(1e-7 / expected)).sum() / len(positive)


def _mean(values: Tensor) -> Tensor:
    """Return the mean; 0, not NaN, of a graph without edges."""
    return values.sum() / max(1, values.numel())
