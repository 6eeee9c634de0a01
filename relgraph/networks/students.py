"""Student backbones: the residual networks of He et al. for small images.

Each is a map from images `(N, C, H, W)` to one pooled vector an image, `(N, width)`. The classifier is not part of
it: see `heads`.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from relgraph.errors import unknown

# Name -> (blocks in each of the three stages, channels of the stem and of the three stages).
RESNETS: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    **{f"resnet{depth}": ((depth - 2) // 6, (16, 16, 32, 64)) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": ((depth - 2) // 6, (32, 64, 128, 256)) for depth in (8, 32)},
}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, `(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A residual network of 6n + 2 layers, `(N, C, H, W) -> (N, width)` (He et al., 2015, arXiv 1512.03385).

    Parameter counts equal those of the RepDistiller benchmark. The benchmark's fixed 8 x 8 average pool breaks at
    any size but 32 pixels; this one averages over all positions, which is the same at 32 and right elsewhere.
    """

    def __init__(self, blocks: int, widths: tuple[int, int, int, int], in_channels: int = 3) -> None:
        super().__init__()
        stem, *stages = widths
        self.width = stages[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        layers: list[nn.Module] = []
        inputs = stem
        for stage, outputs in enumerate(stages):
            for block in range(blocks):
                layers.append(BasicBlock(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        maps: Tensor = self.blocks(self.stem(images))
        return maps.mean(dim=(2, 3))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_backbone(name: str, in_channels: int = 3) -> CifarResNet:
    """Return an untrained backbone with an attribute `width`, `(N, in_channels, H, W) -> (N, width)`.

    Raises:
        RelgraphError: for an unknown name; the message holds the nearest known one.

    >>> import torch
    >>> build_backbone("resnet8x4")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 256])
    """
    if name not in RESNETS:
        raise unknown("student", name, RESNETS)
    blocks, widths = RESNETS[name]
    return CifarResNet(blocks, widths, in_channels)
