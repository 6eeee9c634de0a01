"""MobileNetV2 for small images: inverted residuals around depthwise convolutions."""

from torch import Tensor, nn
from torch.nn.functional import relu

from relgraph.networks.backbone import Staged, conv_norm, start_from_fan_out

# The paper's table 2, for each stage (expansion, channels at width 1, blocks, stride), grouped by the maps handed out.
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
STEM, LAST = 32, 1280


class InvertedResidual(nn.Module):
    """1 x 1 to `expansion` times the channels, depthwise 3 x 3, and a linear 1 x 1; plus the input where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
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
        inputs = int(STEM * multiplier)
        self.stem = nn.Sequential(*conv_norm(in_channels, inputs, 3, stride=2), nn.ReLU())
        self.layers = nn.ModuleList()
        for group in STAGES:
            blocks = []
            for expansion, channels, count, stride in group:
                outputs = int(channels * multiplier)
                for index in range(count):
                    blocks.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion))
                    inputs = outputs
            self.layers.append(nn.Sequential(*blocks))
        self.last = nn.Sequential(*conv_norm(inputs, LAST, 1), nn.ReLU())
        start_from_fan_out(self)

    def before_mean(self, x: Tensor) -> Tensor:
        """Return the 1280 channels above the last map."""
        above: Tensor = self.last(x)
        return above
