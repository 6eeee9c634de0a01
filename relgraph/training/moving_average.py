"""The exponential moving average of a student."""

from copy import deepcopy

import torch

from relgraph.networks.heads import Student


class MovingAverage:
    """An exponential moving average of a student's weights and statistics: `average <- d average + (1 - d) student`.

    It begins as a copy of the student, as timm's `ModelEmaV3` does. What is no floating-point number, as a table of
    positions, is copied. torch's `AveragedModel` averages integers too, which rounds some entries of a table down, and
    on a GPU waits for the device in each update.

    Args:
        source: The student that is trained.
        decay: d, in (0, 1).

    Attributes:
        student: The average, in evaluation mode.
    """

    def __init__(self, source: Student, decay: float) -> None:
        self.source, self.decay = source, decay
        self.student = deepcopy(source).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the student as it is now."""
        average, source = ([*network.parameters(), *network.buffers()] for network in (self.student, self.source))
        pairs = [*zip(average, source, strict=True)]
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([slow for slow, _ in moved], [now for _, now in moved], 1 - self.decay)
        for slow, now in pairs:
            if not slow.is_floating_point():
                slow.copy_(now)
