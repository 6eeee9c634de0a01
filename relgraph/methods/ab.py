"""Activation boundaries (Heo, Lee, Yun, Choi, AAAI 2019, arXiv 1811.03233)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.stages import StageMethod, norm, same_size, through


class AB(StageMethod):
    """Match the teacher's activation boundaries: each neuron is active or inactive as in the teacher, by a margin.

    With the student's pre-activations s and the teacher's activations t of a stage map, and a margin m,

        d = max(0, m - s) where t > 0, else max(0, m + s)
        L = 3 / 1000 * sum over stages l = 1..n of 2^(l - n) * 1 / N * sum d^2

    with the inner sum over all images, channels and positions. s is the output of a connector per stage, a 1x1
    convolution and a batch norm, which maps the student's channels to the teacher's and is trained with the student.
    The larger map is averaged over space to the size of the smaller before they are compared; a teacher's position
    counts as active if that mean is positive. The maps of the stems are left out. Networks with different numbers of
    stages are paired from the end, deepest with deepest, as many as the shorter has. Called with outputs that hold maps
    `(N, C, H, W)`; returns a scalar >= 0. The teacher receives no gradient.

    Paper, official code and this one: the code reads the maps before their activation, of both networks; a stage map
    here comes after it. Only the sign of the teacher's activation matters, and t > 0 is the same condition after a ReLU
    as before it. For the student, the connector reads the activated map, and its output is the pre-activation; the
    code's connector is the identity where the maps have one shape, and else a convolution with stride, where here
    positions are averaged. Paper and benchmark code (RepDistiller) use the loss to initialise the student, which is
    then trained by labels alone; the code in 30 epochs before its 240, which is 1/9 of the 270 and the share here
    (`init_share`). The factors 3 / 1000 and 2^(l - n) are the code's, which pairs stages from the front: the same where
    their numbers are equal.

    Paper: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons (Heo, Lee, Yun,
        Choi, AAAI 2019, arXiv 1811.03233)
    Differs: the code reads maps before their activation, this one after it, with the connector's output as the
        student's pre-activation; trains alone, before the labels do
    Criterion: squared hinge

    Args:
        student_maps: Shapes (C, H, W) of the student's maps, the stem's first.
        teacher_maps: Those of the teacher.
        margin: m > 0.

    Raises:
        RelgraphError: if a network returns fewer than two maps, they are not of the same images or have other channels
            than the given shapes, or the margin is not positive.

    >>> student, teacher = torch.tensor([0.5, 0.5, 2.0]), torch.tensor([1.0, 0.0, 1.0])
    >>> boundary_loss([student.view(1, 3, 1, 1)], [teacher.view(1, 3, 1, 1)]) * 1000 / 3  # 0.5^2 + 1.5^2 + 0
    tensor(2.5000)
    """

    pointwise = True
    init_share = 1 / 9

    margin: float = option(default=1.0, above=0)

    def __post_init__(self) -> None:
        """Build a connector of each stage."""
        super().__post_init__()
        layers = (nn.Sequential(nn.Conv2d(s[0], t[0], 1, bias=False), norm(t[0])) for s, t in self.built)
        self.connectors = nn.ModuleList(layers)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `ab`."""
        pairs = self.pairs(student, teacher)
        connected = [through(connector, s)[0] for connector, (s, _) in zip(self.connectors, pairs, strict=True)]
        return {"ab": boundary_loss(connected, [t for _, t in pairs], self.margin)}


def boundary_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], margin: float = 1.0) -> Tensor:
    """Return the loss of pre-activations `(N, C, H, W)` of the student against the teacher's maps, stage by stage."""
    losses = []
    for depth, (s, t) in enumerate(map(same_size, student, teacher), 1 - len(student)):
        losses.append(2.0**depth * torch.where(t > 0, margin - s, margin + s).clamp_min(0).square().sum() / len(s))
    return 3 / 1000 * torch.stack(losses).sum()
