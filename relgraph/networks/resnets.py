"""Residual networks for small images: basic blocks in three stages, wide ones that begin with norms, and ResNet-50."""

from torch import Tensor, nn
from torch.nn.functional import relu

from relgraph.networks.backbone import Staged, conv_norm, stacked, start_from_fan_out


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if (stride, inputs) == (1, outputs) else conv_norm(inputs, outputs, 1, stride)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, `(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return relu(y + self.shortcut(x))


class CifarResNet(Staged):
    """A residual network of depth 6n + 2, `(N, C, H, W) -> (N, width)` (He et al., 2015, arXiv 1512.03385).

    Parameter counts equal those of the RepDistiller benchmark. The benchmark's fixed 8 x 8 average pool breaks at
    any size but 32 pixels; this one averages over all positions, which is the same at 32 and right elsewhere. The
    paper's shortcuts without parameters are 1 x 1 convolutions there and here.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], in_channels: int = 3) -> None:
        super().__init__()
        stem, *stages = widths
        self.width = stages[-1]
        self.stem = nn.Sequential(*conv_norm(in_channels, stem, 3), nn.ReLU())
        self.layers = layers = stacked(BasicBlock, stem, zip(stages, [(depth - 2) // 6] * 3, (1, 2, 2), strict=True))
        self.blocks = nn.Sequential(*(block for layer in layers for block in layer))  # in one row, as files name them
        start_from_fan_out(self)


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
        stages = zip((16 * k, 32 * k, 64 * k), [(depth - 4) // 6] * 3, (1, 2, 2), strict=True)
        self.layers = nn.ModuleList(stacked(PreActivationBlock, 16, stages))
        self.norm = nn.BatchNorm2d(self.width)
        start_from_fan_out(self)

    def last(self, x: Tensor) -> Tensor:
        """Return the last map after its norm and ReLU."""
        return relu(self.norm(x))


class Bottleneck(nn.Module):
    """1 x 1 (to a quarter of the outputs), 3 x 3 (with the stride) and 1 x 1 convolution, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        channels = outputs // 4
        self.narrow = conv_norm(inputs, channels, 1)
        self.conv = conv_norm(channels, channels, 3, stride)
        self.widen = conv_norm(channels, outputs, 1)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.widen(relu(self.conv(relu(self.narrow(x)))))
        return relu(y + self.shortcut(x))


class BottleneckResNet(Staged):
    """ResNet-50 for small images, `(N, C, H, W) -> (N, 2048)` (He et al., 2015, arXiv 1512.03385).

    As in the RepDistiller benchmark: a 3 x 3 stem without stride and no max-pool, so that the map of a 32-pixel image
    ends at 4 x 4; the stride of a block is on its 3 x 3 convolution, where the paper has it on the first. For large
    images, ImageNet's own is `timm:resnet50`, 16 times as fast.
    """

    def __init__(self, blocks: tuple[int, int, int, int], in_channels: int = 3) -> None:
        super().__init__()
        self.width = 2048
        self.stem = nn.Sequential(*conv_norm(in_channels, 64, 3), nn.ReLU())
        stages = zip((256, 512, 1024, 2048), blocks, (1, 2, 2, 2), strict=True)
        self.layers = nn.ModuleList(stacked(Bottleneck, 64, stages))
        start_from_fan_out(self)
