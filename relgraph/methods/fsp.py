"""The flow of the solution procedure (Yim, Joo, Bae, Kim, CVPR 2017)."""

from itertools import pairwise

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import excess_of_all, linear
from relgraph.methods.base import Batch, Output, Terms
from relgraph.methods.stages import StageMethod, map_pairs, same_size


class FSP(StageMethod):
    """Match the teacher's products of the channels of consecutive stages (FSP matrices), image by image.

    With the channels of two consecutive maps f (N, C, H, W) and g (N, D, H, W) of one network,

        G_cd = 1 / (H W) * sum over positions of f_c g_d        L = sum over stages of mean (G^s - G^t)^2

    with the mean over images and pairs of channels; the first map is that of the stem. The larger of two consecutive
    maps is averaged over space to the size of the smaller before. Student and teacher need as many channels as each
    other in each stage, at any spatial size. Networks with different numbers of stages are paired from the end, deepest
    with deepest, as many as the shorter has. Called with outputs that hold maps; returns a scalar >= 0, a fourth power
    of their numbers, which is infinite from about 4e9 on. The teacher receives no gradient.

    Paper, official code and this one: paper and benchmark code (RepDistiller) use it to initialise the student, which
    is then trained by labels alone; the code in 30 epochs before its 240, which is 1/9 of the 270 and the share here
    (`init_share`). The paper sums the squares over pairs of channels, the code averages, as here. The code pairs maps
    from the front: the same where their numbers are equal.

    Paper: A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning (Yim,
        Joo, Bae, Kim, CVPR 2017)
    Differs: squares are summed in the paper, averaged in the code and here; trains alone, before the labels do
    Kernel: linear
    Topology: channels, stages
    Criterion: mean square

    Args:
        student_maps: Shapes (C, H, W) of the student's maps, the stem's first; with both, channels are checked at once.
        teacher_maps: Those of the teacher.

    Raises:
        RelgraphError: if a network returns fewer than two maps, they are not of the same images, or channels differ.

    >>> earlier, later = torch.ones(1, 1, 2, 2), torch.tensor([1.0, 5.0]).view(1, 2, 1, 1)
    >>> flow(earlier, later)
    tensor([[[1., 5.]]])
    """

    weight = 50.0
    pointwise = True
    init_share = 1 / 9

    needs_shapes = False
    facing = slice(0, None)

    def __post_init__(self) -> None:
        """Check the channels, where the shapes are known."""
        super().__post_init__()
        _check_equal([(s[0], t[0]) for s, t in self.built])

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `fsp`."""
        pairs = map_pairs(student, teacher, "FSP")
        _check_equal([(s.shape[1], t.shape[1]) for s, t in pairs])
        losses = [flow_loss((s, next_s), (t, next_t)) for (s, t), (next_s, next_t) in pairwise(pairs)]
        return {"fsp": torch.stack(losses).sum()}


def flow_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared difference of the flow between two maps of the student and two of the teacher."""
    # Where products overflow, so does the loss: infinity less infinity would be no number.
    both = zip(student, teacher, strict=True)
    one, other = (torch.maximum(excess_of_all(s), excess_of_all(t)) for s, t in both)
    s, t = (flow(earlier / one, later / other) for earlier, later in (student, teacher))
    return mean_square((s - t) * one * other, torch.zeros_like(s))


def flow(earlier: Tensor, later: Tensor) -> Tensor:
    """Return the mean product of the channels of two maps of one network, `(N, C, H, W), (N, D, h, w) -> (N, C, D)`."""
    f, g = (maps.flatten(2) for maps in same_size(earlier, later))
    return linear(f, g) / f.shape[-1]


def _check_equal(channels: list[tuple[int, int]]) -> None:
    if any(student != teacher for student, teacher in channels):
        student, teacher = (", ".join(map(str, side)) for side in zip(*channels, strict=True))
        expected = "expected stage maps with as many channels in student and teacher"
        raise RelgraphError(f"FSP compares channel with channel: {expected}, got {student} and {teacher}")
