"""Attention transfer (Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928)."""

import torch
from torch import Tensor

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import at_least_float32, bounded, unit
from relgraph.methods.base import Batch, Method, Output, Terms
from relgraph.methods.stages import map_pairs, same_size


class AT(Method):
    """Match the teacher's attention over the positions of each image, stage by stage.

    The attention of a stage map f is its mean square over the channels, as a vector of length 1 over the positions p,

        a_p = sum_c f_cp^2 / C        Q = a / |a|        L = sum over stages of mean (Q^s - Q^t)^2

    with the mean over images and positions. The larger map is averaged over space to the size of the smaller before; a
    map of zeros has attention 0. The maps of the stems are left out. Networks with different numbers of stages are
    paired from the end, deepest with deepest, as many as the shorter has; the number of channels may differ. Called
    with outputs that hold maps `(N, C, H, W)`; returns a scalar >= 0. The teacher receives no gradient.

    Paper, official code and this one: the paper has, in place of the mean square, the Euclidean norm of the difference
    of Q, halved; the code has the mean square, as here. The weight 1000 is that of the benchmark code (RepDistiller),
    which pairs stages from the front: the same where their numbers are equal.

    Paper: Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via
        Attention Transfer (Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928)
    Differs: half the Euclidean norm of the difference in the paper, its mean square in the code and here
    Criterion: mean square

    Raises:
        RelgraphError: if a network returns fewer than two maps, or they are not of the same images.

    >>> student, teacher = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]], [[[1.0, 1.0]]]])
    >>> attention_loss(student, teacher[:1]), attention_loss(student, 3 * student)
    (tensor(1.), tensor(0.))
    """

    weight = 1000.0
    pointwise = True
    reads = ("maps",)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `at`."""
        losses = [attention_loss(*pair) for pair in map_pairs(student, teacher, "AT")[1:]]
        return {"at": torch.stack(losses).sum()}


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the attention of two maps `(N, C_s, H, W)` and `(N, C_t, h, w)`."""
    s, t = (attention(maps) for maps in same_size(student, teacher))
    return mean_square(s, t)


def attention(maps: Tensor) -> Tensor:
    """Return the mean square over the channels, of length 1 over the positions, `(N, C, H, W) -> (N, H * W)`.

    In float32 or wider. An image whose map is 0 has attention 0, without gradient.

    >>> attention(torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]]))
    tensor([[1., 0.]])
    """
    # Each image is divided by its largest number, which cancels in unit vectors: squares neither overflow nor vanish.
    scaled = bounded(at_least_float32(maps).flatten(1)).view(len(maps), maps.shape[1], -1)
    return unit(scaled.square().mean(1))
