"""Neuron selectivity transfer (Huang, Wang, 2017, arXiv 1707.01219)."""

import torch
from torch import Tensor

from relgraph.graph.kernels import cosine
from relgraph.methods.base import Batch, Method, Output, Terms
from relgraph.methods.stages import map_pairs, same_size


class NST(Method):
    """Match the teacher's distribution of channel activations over the positions of each image, stage by stage.

    Each image is a graph whose nodes are the channels of a stage map: vectors over its positions, whose kernel is the
    squared cosine, `k(a, b) = (<a, b> / (|a| |b|))^2`. The loss is the maximum mean discrepancy, squared,

        L = sum over stages of [mean k(t, t) + mean k(s, s) - 2 mean k(s, t)]

    with means over all images and all pairs of channels. The larger map is averaged over space to the size of the
    smaller before; a channel of zeros has cosine 0 with all. The maps of the stems are left out. Networks with
    different numbers of stages are paired from the end, deepest with deepest, as many as the shorter has; the number of
    channels may differ. Called with outputs that hold maps `(N, C, H, W)`; returns a scalar >= 0. The teacher receives
    no gradient.

    Paper, official code and this one: of the paper's kernels (linear, polynomial, gaussian) the benchmark code
    (RepDistiller) has the polynomial one, squared, with the weight 50, as here. It forms all products of channels
    position by position and then sums them; here they are one matrix product, which is the same number. It pairs
    stages from the front: the same where their numbers are equal.

    Paper: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (Huang, Wang, 2017, arXiv
        1707.01219)
    Differs: the polynomial kernel of the paper's three, as in the benchmark code
    Kernel: cosine squared
    Topology: channels
    Criterion: MMD

    Raises:
        RelgraphError: if a network returns fewer than two maps, or they are not of the same images.

    >>> student, teacher = torch.eye(2).view(1, 2, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    >>> selectivity_loss(student, teacher)  # 1 + 1/2 - 2 * 1/2
    tensor(0.5000)
    """

    weight = 50.0
    pointwise = True
    reads = ("maps",)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `nst`."""
        losses = [selectivity_loss(*pair) for pair in map_pairs(student, teacher, "NST")[1:]]
        return {"nst": torch.stack(losses).sum()}


def selectivity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared discrepancy of the channels of two maps, `(N, C_s, H, W)` and `(N, C_t, h, w)`, a scalar."""
    s, t = (cosine.nodes(maps.flatten(2)) for maps in same_size(student, teacher))
    within, own, across = (cosine.matrix(x, y).square().mean() for x, y in ((t, t), (s, s), (s, t)))
    return within + own - 2 * across
