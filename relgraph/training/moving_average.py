"""The exponential moving average of a student."""

from copy import deepcopy

import torch

from relgraph.networks.heads import Student


class MovingAverage:
    """An exponential moving average of a student's weights and statistics: `average <- d average + (1 - d) student`.

    After `step` steps d is `min(decay, (1 + step) / (10 + step))`, as in TensorFlow's `ExponentialMovingAverage`: the
    average spans about the last ninth of the steps so far, until the decay limits it. With a constant d that of a short
    run would consist of the first, random weights. What is no floating-point number, as a table of positions, is
    copied. torch's `AveragedModel` averages integers too, which rounds some entries of a table down, and on a GPU waits
    for the device in each update.

    Args:
        source: The student that is trained.
        decay: In (0, 1).

    Attributes:
        student: The average, in evaluation mode.
    """

    def __init__(self, source: Student, decay: float) -> None:
        self.source, self.decay = source, decay
        self.student = deepcopy(source).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the student as it is after a step, counted from 0 over all epochs."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average, source = ([*network.parameters(), *network.buffers()] for network in (self.student, self.source))
        pairs = [*zip(average, source, strict=True)]
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([slow for slow, _ in moved], [now for _, now in moved], 1 - decay)
        for slow, now in pairs:
            if not slow.is_floating_point():
                slow.copy_(now)
