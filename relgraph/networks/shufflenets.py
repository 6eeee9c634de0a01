"""ShuffleNet V1 and V2 for small images: a 1 x 1 stem without stride, and no max-pool.

Both begin with PyTorch's own initialisation, as in the RepDistiller benchmark, whose fixed 4 x 4 average pool is a mean
over all positions here.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from relgraph.networks.backbone import Staged, conv_norm, stacked

STEM, GROUPS = 24, 3


class GroupedUnit(nn.Module):
    """ShuffleNet V1's unit: grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1, on a residual path.

    With stride 2, the input is average-pooled and stands beside the new channels; else it is added to them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        new = outputs - inputs if stride == 2 else outputs
        inner = new // 4
        self.stride = stride
        self.groups = 1 if inputs == STEM else GROUPS  # the paper: the stem's 24 channels are too few for groups
        self.narrow = conv_norm(inputs, inner, 1, groups=self.groups)
        self.depthwise = conv_norm(inner, inner, 3, stride, groups=inner)
        self.widen = conv_norm(inner, new, 1, groups=GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's map."""
        y = torch.channel_shuffle(relu(self.narrow(x)), self.groups)
        y = self.widen(relu(self.depthwise(y)))
        if self.stride == 1:
            return relu(x + y)
        return relu(torch.cat([y, avg_pool2d(x, 3, 2, padding=1)], dim=1))


class ShuffleNetV1(Staged):
    """ShuffleNet with 3 groups, `(N, C, H, W) -> (N, 960)` (Zhang et al., 2017, arXiv 1707.01083).

    As in the benchmark, there is a ReLU after the depthwise convolution, which the paper leaves out.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.width = 960
        self.stem = nn.Sequential(*conv_norm(in_channels, STEM, 1), nn.ReLU())
        self.layers = nn.ModuleList(stacked(GroupedUnit, STEM, ((240, 4, 2), (480, 8, 2), (960, 4, 2))))


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return 1 x 1, depthwise 3 x 3 and 1 x 1 convolution, with a ReLU after the first and the last."""
    point, depthwise = conv_norm(inputs, outputs, 1), conv_norm(outputs, outputs, 3, stride, groups=outputs)
    return nn.Sequential(point, nn.ReLU(), depthwise, conv_norm(outputs, outputs, 1), nn.ReLU())


class SplitUnit(nn.Module):
    """ShuffleNet V2's unit: half of the channels pass, the other half are convolved, then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's map."""
        passed, worked = x.chunk(2, dim=1)
        return torch.channel_shuffle(torch.cat([passed, self.branch(worked)], dim=1), 2)


class DownUnit(nn.Module):
    """ShuffleNet V2's unit with stride 2: two branches read all channels, and each gives half of the new ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.pooled = nn.Sequential(conv_norm(inputs, inputs, 3, 2, inputs), conv_norm(inputs, half, 1), nn.ReLU())
        self.branch = _branch(inputs, half, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's map."""
        return torch.channel_shuffle(torch.cat([self.pooled(x), self.branch(x)], dim=1), 2)


def _unit(inputs: int, outputs: int, stride: int) -> nn.Module:
    return DownUnit(inputs, outputs) if stride == 2 else SplitUnit(outputs)


class ShuffleNetV2(Staged):
    """ShuffleNet V2 at width 1, `(N, C, H, W) -> (N, 1024)` (Ma et al., 2018, arXiv 1807.11164)."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.width = 1024
        self.stem = nn.Sequential(*conv_norm(in_channels, STEM, 1), nn.ReLU())
        self.layers = nn.ModuleList(stacked(_unit, STEM, ((116, 4, 2), (232, 8, 2), (464, 4, 2))))
        self.last = nn.Sequential(*conv_norm(464, self.width, 1), nn.ReLU())
