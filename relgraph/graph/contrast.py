"""Contrastive losses: cross-entropies of identifying an anchor's own key, by the softmax of a row of cosines.

All of them are means over anchors, computed on unit vectors in float32 or wider. A queue of keys is read in blocks and
never copied, and no more than a block of the `(N, K)` weights is held at a time; large matrices of all pairs are
computed in blocks as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from relgraph.errors import RelgraphError
from relgraph.gradients import once_differentiable, trace
from relgraph.graph.blocks import OneByOne, sum_of_blocks
from relgraph.graph.kernels import cosine, full_precision, own_places
from relgraph.graph.pair import LARGEST_MATRIX, check_nodes

# Weights in a block. On a CPU 4 MiB in float32, which its caches hold: an eighth to double take as long, 16 times as
# many a third longer. Elsewhere fewer blocks, since starting each one takes time (not measured).
LARGEST_ON_CPU, LARGEST = 2**20, 2**23


def queue_contrast(anchors: Tensor, own: Tensor, keys: Tensor, tau: float) -> Tensor:
    """Return the cross-entropy of identifying each anchor's own key among those of a queue, a scalar >= 0.

        L = -1 / N * sum_i log p_i0,    p_i = softmax over D+ of <a_i, .> / tau,    D+ = [k_i, Q]

    MoCo's InfoNCE (He et al., 2019, arXiv 1911.05722). Anchors and own keys receive gradient, once differentiable; the
    queue does not.

    Args:
        anchors: `(N, D)`, of any length; they are normalised.
        own: The key of each anchor, `(N, D)`, of any length.
        keys: The queue, `(K, D)`, already of unit length.
        tau: Temperature > 0.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> queue_contrast(torch.eye(2), torch.eye(2), -torch.eye(2)[:1], tau=1.0)  # log(1 + 1 / e^2), log(1 + 1 / e)
    tensor(0.2201)
    """
    _check(anchors, own)
    a, k = cosine.nodes(anchors), cosine.nodes(own)
    matched = (a * k).sum(-1) / tau
    rest, _ = over_keys(a / tau, keys)
    return _missed(matched, rest.to(matched)).mean()


def soft_queue_contrast(student: Tensor, teacher: Tensor, keys: Tensor, tau: float, teacher_tau: float) -> Tensor:
    """Return the cross-entropy of two networks' similarities to one queue, the teacher's own vectors first: a scalar.

        L = -1 / N * sum_ij p^t_ij log p^s_ij,    p^x_i = softmax over D+ of <x_i, .> / tau_x,    D+ = [t_i, Q]

    The loss of SEED (Fang et al., 2021, arXiv 2101.04731). Since `sum_j p^t_ij <s_i, d_j> = <s_i, sum_j p^t_ij d_j>`,
    it needs no product of two `(N, 1 + K)` matrices, only the mean q_i `(N, D)` of the queue, weighted by the teacher's
    probabilities:

        L = queue_contrast(s, t, Q) + 1 / N * sum_i (1 - p^t_i0) <s_i, t_i - q_i> / tau

    The student alone receives gradient, once differentiable.

    Args:
        student: `(N, D)`, of any length; they are normalised.
        teacher: `(N, D)`, of any length.
        keys: The queue, `(K, D)`, already of unit length.
        tau: The student's temperature > 0.
        teacher_tau: The teacher's temperature > 0.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> x, queue = torch.eye(2), -torch.eye(2)[:1]
    >>> bool(soft_queue_contrast(x, x, queue, 1.0, 1e-4).isclose(queue_contrast(x, x, queue, 1.0)))
    True
    """
    _check(student, teacher)
    s, t = cosine.nodes(student), cosine.nodes(teacher.detach())
    rest, means = over_keys(torch.cat([s / tau, t / teacher_tau]), keys)
    matched = (s * t).sum(-1) / tau
    student_rest, teacher_rest = rest.to(matched).chunk(2)
    others = torch.sigmoid(teacher_rest.detach() - t.square().sum(-1) / teacher_tau)
    softened = others * (s * (t - means[len(s) :].to(matched))).sum(-1) / tau
    return (_missed(matched, student_rest) + softened).mean()


def soft_rows(student: Tensor, teacher: Tensor, keys: Tensor, tau: float, teacher_tau: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each image's similarities to keys with the teacher's, and the teacher's entropy.

        H(p^t_i, p^s_i) = -sum_j p^t_ij log p^s_ij,    p^x_i = softmax over the keys of <x_i, k_j> / tau_x

    and H(p^t_i, p^t_i), `(N,)` each; their difference is KL(p^t_i || p^s_i). The keys are all that there are: unlike
    in `soft_queue_contrast` the own vector is no candidate unless it is among them. Since `sum_j p^t_ij <s_i, k_j>` is
    the student's product with the teacher's mean key, the matrices `(N, K)` are never built. The student alone
    receives gradient, once differentiable.

    Args:
        student: `(N, D)`, of any length; they are normalised.
        teacher: `(N, D)`, of any length.
        keys: `(K, D)`, used as they are.
        tau: The student's temperature > 0.
        teacher_tau: The teacher's temperature > 0.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> crossed, entropy = soft_rows(torch.eye(2), torch.eye(2), torch.eye(2), 1.0, 1.0)
    >>> crossed, bool((crossed - entropy).abs().max() < 1e-6)  # log(1 + e) - e / (1 + e)
    (tensor([0.5822, 0.5822]), True)
    """
    _check(student, teacher)
    s, t = cosine.nodes(student), cosine.nodes(teacher.detach())
    totals, means = over_keys(torch.cat([s / tau, t / teacher_tau]), keys)
    of_student, of_teacher = totals.chunk(2)
    mean = means[len(s) :]
    return of_student - (s * mean).sum(-1) / tau, of_teacher.detach() - (t * mean).sum(-1) / teacher_tau


def batch_contrast(anchors: Tensor, own: Tensor, tau: float) -> Tensor:
    """Return the cross-entropy of identifying each anchor's own key among all keys of the batch, a scalar >= 0.

        L = -1 / N * sum_i log(exp(<a_i, k_i> / tau) / sum_j exp(<a_i, k_j> / tau))

    InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) over all pairs `(N, N)`; both sides receive gradient.

    Args:
        anchors: `(N, D)`, of any length; they are normalised.
        own: The key of each anchor, `(N, D)`, of any length.
        tau: Temperature > 0.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> batch_contrast(torch.eye(2), torch.eye(2), tau=1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    _check(anchors, own)

    def term(some: slice, a: Tensor, k: Tensor) -> Tensor:
        weights = cosine.matrix(a[some], k) / tau
        return (weights.logsumexp(-1) - weights.diagonal(some.start)).sum()

    return _mean_of_rows(term, cosine.nodes(anchors), cosine.nodes(own))


def view_contrast(first: Tensor, second: Tensor, tau: float) -> Tensor:
    """Return the cross-entropy of identifying, for each of 2N vectors, the other view of its image, a scalar >= 0.

        L = -1 / 2N * sum_i log(exp(<z_i, z_i'> / tau) / sum over j != i of exp(<z_i, z_j> / tau))

    with z both views one after the other and i' the other view of i: NT-Xent (SimCLR; Chen et al., 2020, arXiv
    2002.05709) over all pairs `(2N, 2N)`; both sides receive gradient. One image alone gives 0.

    Args:
        first: One view of each image, `(N, D)`, of any length; they are normalised.
        second: The other view, `(N, D)`.
        tau: Temperature > 0.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> view_contrast(torch.eye(2), torch.eye(2), tau=1.0)  # log(1 + 2 / e)
    tensor(0.5514)
    """
    _check(first, second)
    both = torch.cat([cosine.nodes(first), cosine.nodes(second)])
    other = torch.arange(len(both), device=both.device).roll(len(first)).unsqueeze(-1)

    def term(some: slice, z: Tensor) -> Tensor:
        weights = (cosine.matrix(z[some], z) / tau).masked_fill(own_places(z, some), -torch.inf)
        return (weights.logsumexp(-1) - weights.gather(-1, other[some]).squeeze(-1)).sum()

    return _mean_of_rows(term, both)


def over_keys(rows: Tensor, keys: Tensor, largest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return `log sum_j exp(<r_i, k_j>)` of each row over many keys, `(N,)`, and the mean of the keys, `(N, D)`.

    The mean is weighted by the softmax of the same products, so it is the gradient of the first output. Only the first
    output can be differentiated, once, with respect to the rows.

    Args:
        rows: `(N, D)`, divided by their temperature.
        keys: `(K, D)`, at least one; read as they are, a block at a time.
        largest: Products in a block; chosen by the device if not given.

    >>> total, mean = over_keys(torch.zeros(1, 2), torch.eye(2))
    >>> total.exp(), mean
    (tensor([2.]), tensor([[0.5000, 0.5000]]))
    """
    most = LARGEST_ON_CPU if rows.device.type == "cpu" else LARGEST
    block = max(1, (most if largest is None else largest) // len(rows))
    with full_precision(rows):
        total, mean = _OverKeys.apply(rows.to(torch.promote_types(rows.dtype, keys.dtype)), keys, block, trace(rows))
    return total, mean


class _OverKeys(OneByOne):
    """Logarithm of the sum and mean of the keys in one pass, with a running maximum."""

    @staticmethod
    def forward(rows: Tensor, keys: Tensor, block: int, of_rows: Tensor) -> tuple[Tensor, Tensor]:
        most = rows.new_full((len(rows), 1), -torch.inf)
        total, mean = torch.zeros_like(most), torch.zeros_like(rows)
        for part in torch.split(keys.detach(), block):
            some = part.to(rows.dtype)
            weights = rows @ some.mT
            higher = torch.maximum(most, weights.amax(-1, keepdim=True))
            kept = (most - higher).exp_()
            weights.sub_(higher).exp_()
            total.mul_(kept).add_(weights.sum(-1, keepdim=True))
            mean.mul_(kept).addmm_(weights, some)
            most = higher
            del weights  # frees its memory before the next block is computed
        mean.div_(total)
        return total.log_().add_(most).squeeze(-1), mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1], inputs[3])
        ctx.save_for_forward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable("keys of a memory are read in blocks")
    def backward(ctx: Any, weight: Tensor, of_mean: Tensor) -> tuple[Tensor | None, ...]:
        mean, _ = ctx.saved_tensors
        return mean * weight.unsqueeze(-1), None, None, None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, *_: Any) -> tuple[Tensor, None]:
        (mean,) = ctx.saved_tensors
        return (mean * change).sum(-1), None


def _mean_of_rows(term: Callable[..., Tensor], *nodes: Tensor) -> Tensor:
    """Return the mean of a term over the rows of all pairs, computed in blocks if the matrix is large."""
    count = len(nodes[0])
    return sum_of_blocks(term, nodes, count, count if count**2 <= LARGEST_MATRIX else None) / count


def _missed(matched: Tensor, rest: Tensor) -> Tensor:
    """Return `-log(exp(matched) / (exp(matched) + exp(rest)))`, at full precision where it is small."""
    return softplus(rest - matched, threshold=40)  # beyond 20, torch's default, the error is 2e-9


def _check(anchors: Tensor, own: Tensor) -> None:
    """Raise RelgraphError unless both are as many rows of one width."""
    check_nodes(anchors, own, one_width=True)
    if anchors.ndim != 2:
        raise RelgraphError(f"vectors must be (N, D), got {tuple(anchors.shape)}")
