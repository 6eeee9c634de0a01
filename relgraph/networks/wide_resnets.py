"""Wide residual networks: norm and ReLU before each convolution, few layers, many channels."""

from torch import Tensor, nn
from torch.nn.functional import relu

from relgraph.networks.backbone import Staged, stacked, start_from_fan_out


class PreActivationBlock(nn.Module):
    """Norm, ReLU, 3 x 3 convolution, twice, and a shortcut.

    Where the number of channels changes, the shortcut is a 1 x 1 convolution of the activated input; elsewhere it is
    the input as it came.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, before norm and ReLU."""
        active = relu(self.norm1(x))
        y: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(Staged):
    """WRN-depth-k: three stages of (depth - 4) / 6 blocks with 16k, 32k and 64k channels, `(N, C, H, W) -> (N, 64k)`.

    Zagoruyko and Komodakis, 2016, arXiv 1605.07146. The benchmark's implementation pools 8 x 8 and reshapes, which
    silently makes two images of 64 pixels into eight rows; this one averages over all positions. A stage map is the
    sum that leaves its last block, before norm and ReLU; the pooled vector is the mean after them.
    """

    def __init__(self, depth: int, k: int, in_channels: int = 3) -> None:
        super().__init__()
        self.width = 64 * k
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        blocks = (depth - 4) // 6
        self.layers = stacked(PreActivationBlock, 16, ((16 * k, blocks, 1), (32 * k, blocks, 2), (64 * k, blocks, 2)))
        self.norm = nn.BatchNorm2d(self.width)
        start_from_fan_out(self)

    def before_mean(self, x: Tensor) -> Tensor:
        """Return the last map after its norm and ReLU."""
        return relu(self.norm(x))
