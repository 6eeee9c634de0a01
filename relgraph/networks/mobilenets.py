"""MobileNetV2 for small images: inverted residuals around depthwise convolutions."""

from torch import Tensor, nn
from torch.nn.functional import relu

from relgraph.networks.backbone import Staged, conv_norm, stacked, start_from_fan_out

# The paper's table 2: channels at width 1, blocks and stride of the stages with an expansion of 6, and what is around.
STAGES = ((24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
STEM, FIRST, LAST = 32, 16, 1280


class InvertedResidual(nn.Module):
    """1 x 1 to `expansion` times the channels, depthwise 3 x 3, and a linear 1 x 1; plus the input where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 6) -> None:
        super().__init__()
        inner = expansion * inputs
        self.adds = stride == 1 and inputs == outputs
        self.expand = conv_norm(inputs, inner, 1)
        self.depthwise = conv_norm(inner, inner, 3, stride, groups=inner)
        self.project = conv_norm(inner, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, which no ReLU cuts."""
        y: Tensor = self.project(relu(self.depthwise(relu(self.expand(x)))))
        return x + y if self.adds else y


class MobileNetV2(Staged):
    """MobileNetV2 of a width multiplier, `(N, C, H, W) -> (N, 1280)` (Sandler et al., 2018, arXiv 1801.04381).

    As in the RepDistiller benchmark, for small images: the second stage keeps the resolution, which the paper halves;
    a ReLU stands where the paper has ReLU6; the first block has its 1 x 1 convolution too; and channels are cut to
    whole numbers, not rounded to multiples of 8. The benchmark pools 2 x 2, this one all positions.
    """

    def __init__(self, multiplier: float, in_channels: int = 3) -> None:
        super().__init__()
        self.width = LAST
        stem, first = int(STEM * multiplier), int(FIRST * multiplier)
        stages = [(int(channels * multiplier), count, stride) for channels, count, stride in STAGES]
        self.stem = nn.Sequential(*conv_norm(in_channels, stem, 3, stride=2), nn.ReLU())
        unexpanded = InvertedResidual(stem, first, 1, expansion=1)
        a, b, c, d, e, f = stacked(InvertedResidual, first, stages)
        self.layers = nn.ModuleList([nn.Sequential(unexpanded, *a), b, nn.Sequential(*c, *d), nn.Sequential(*e, *f)])
        self.last = nn.Sequential(*conv_norm(stages[-1][0], LAST, 1), nn.ReLU())
        start_from_fan_out(self)
