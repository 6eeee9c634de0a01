"""Variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019, arXiv 1904.05835)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from relgraph.graph.kernels import at_least_float32
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.stages import StageMethod, same_size, through

# The least variance, as in the code: otherwise a channel that is predicted exactly would have an infinite likelihood.
FLOOR = 1e-5


class VID(StageMethod):
    """Match the teacher's maps by Gaussian predictions from the student's, with one variance per channel, by stage.

        L = sum over stages of mean of 1/2 [(mu(s) - t)^2 / v_c + log v_c],    v_c = softplus(p_c) + 1e-5

    with the mean over images, channels and positions: a bound of the mutual information of s and t, up to constants. mu
    is three 1x1 convolutions without bias, with a ReLU between them and as many channels in the middle as the teacher
    has; it and p are trained with the student. The larger map is averaged over space to the size of the smaller before.
    The maps of the stems are left out. Networks with different numbers of stages are paired from the end, deepest with
    deepest, as many as the shorter has. Called with outputs that hold maps `(N, C, H, W)`; returns a scalar, which is
    negative if the prediction is good, and infinite where it misses by 2e19 or more. The teacher receives no gradient.

    Paper, official code and this one: the paper sums the log-likelihood over all numbers of a map, the benchmark code
    (RepDistiller) averages, as here. The code pairs stages from the front: the same where their numbers are equal.

    Paper: Variational Information Distillation for Knowledge Transfer (Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019,
        arXiv 1904.05835)
    Differs: the log-likelihood is summed over a map in the paper, averaged in the code and here
    Criterion: likelihood

    Args:
        student_maps: Shapes (C, H, W) of the student's maps, the stem's first.
        teacher_maps: Those of the teacher.
        init_variance: The variance of all channels at the start, above 1e-5.

    Raises:
        RelgraphError: if a network returns fewer than two maps, they are not of the same images or have other channels
            than the given shapes, or the variance is out of range.

    >>> maps = ((3, 8, 8), (4, 8, 8), (6, 4, 4))
    >>> loss = VID(maps, maps)
    >>> [str(tuple(p.shape)) for p in loss.raw_variances]
    ['(4,)', '(6,)']
    """

    pointwise = True

    init_variance: float = option(default=5.0, above=FLOOR, below=math.inf)

    def __post_init__(self) -> None:
        """Build a regressor of each stage."""
        super().__post_init__()
        self.regressors = nn.ModuleList(_regressor(s[0], t[0]) for s, t in self.built)
        above = self.init_variance - FLOOR
        raw = above + math.log(-math.expm1(-above))  # softplus(raw) is what is above the floor
        self.raw_variances = nn.ParameterList(nn.Parameter(torch.full((t[0],), raw)) for _, t in self.built)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `vid`."""
        pairs, losses = self.pairs(student, teacher), []
        for (s, t), regressor, raw in zip(pairs, self.regressors, self.raw_variances, strict=True):
            smaller, target = same_size(s, t)
            found, factor = through(regressor, smaller)
            losses.append(variational_loss(found * factor, target, raw))
        return {"vid": torch.stack(losses).sum()}


def variational_loss(mean: Tensor, teacher: Tensor, raw_variance: Tensor) -> Tensor:
    """Return the mean of 1/2 [(mean - t)^2 / v_c + log v_c] over maps `(N, C, H, W)`, with v from p `(C,)`."""
    variance = (softplus(at_least_float32(raw_variance)) + FLOOR).view(-1, 1, 1)
    misfit = (at_least_float32(mean) - at_least_float32(teacher)).square() / variance
    return 0.5 * (misfit + variance.log()).mean(dtype=torch.float64).to(misfit.dtype)  # the sum overflows before it


def _regressor(student: int, teacher: int) -> nn.Sequential:
    first, second, third = (nn.Conv2d(width, teacher, 1, bias=False) for width in (student, teacher, teacher))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
