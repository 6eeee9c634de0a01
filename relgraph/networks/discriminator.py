"""The discriminator of score maps: strided convolutions of spectral norm, with self-attention (SAGAN, 1805.08318)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, normalize

from relgraph.graph.kernels import excess_of_all

SIDE = 8  # least height and width: one convolution of stride 2 leaves the last one its 4 x 4 positions
START = 15  # power iterations of new weights, as in torch's own spectral norm


class SpectralConv(nn.Conv2d):
    """A 4 x 4 convolution of stride 2 whose weights, a row an output channel, are divided by their spectral norm.

    The norm is `left' W right` for two vectors that `iterate` moves towards the singular vectors (Miyato et al., 2018,
    arXiv 1802.05957); a forward pass does not move them.
    """

    left: Tensor
    right: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)
        self.register_buffer("left", normalize(torch.randn(outputs), dim=0))
        self.register_buffer("right", torch.zeros(16 * inputs))
        for _ in range(START):
            self.iterate()

    def forward(self, input: Tensor) -> Tensor:
        """Return maps of half the height and width."""
        norm = self.left @ self.weight.flatten(1) @ self.right
        return conv2d(input, self.weight / norm, self.bias, stride=2, padding=1)

    @torch.no_grad()
    def iterate(self) -> None:
        """Do one step of the power iteration."""
        rows = self.weight.flatten(1)
        self.right.copy_(normalize(self.left @ rows, dim=0))
        self.left.copy_(normalize(rows @ self.right, dim=0))


class SelfAttention(nn.Module):
    """Add to each position a mean of all positions' values, `x + gamma * softmax(q k') v`; gamma begins at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, channels // 8, 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        mean: Tensor = value @ (query.mT @ key).softmax(-1).mT
        return x + self.gamma * mean.view_as(x)


class Discriminator(nn.Module):
    """Scores of how real maps `(B, C, H, W)` look, `(B, 1, h, w)`; neither state nor statistics move in a forward pass.

    Maps are normalised over the batch. Four convolutions of stride 2 follow, of fewer where they would leave less than
    4 x 4 positions, each with a leaky ReLU of slope 0.1 and twice the channels of the one before; self-attention behind
    the last two of them; and a 4 x 4 convolution to one channel.

    Args:
        channels: C.
        size: (H, W), at least 8 each; maps of another size may follow if they are as large.
        width: Channels of the first convolution, at least 8.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        # No layer: those are synchronised over processes, without a second derivative, and all rows are here already.
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        depth = min(4, int(math.log2(min(size) // (SIDE // 2))))
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [SpectralConv(channels, width), nn.LeakyReLU(0.1)]
            layers += [SelfAttention(width)] if i >= depth - 2 else []
            channels, width = width, 2 * width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the scores."""
        maps = maps / excess_of_all(maps)  # whose squares overflow else
        scale, shift = self.scale.to(maps.dtype), self.shift.to(maps.dtype)  # maps of half precision are float32 now
        normalised = batch_norm(maps, None, None, scale, shift, training=True)
        found: Tensor = self.layers(normalised.to(self.scale.dtype))
        return found

    def iterate(self) -> None:
        """Do one step of the power iteration of each spectral norm."""
        for layer in self.layers:
            if isinstance(layer, SpectralConv):
                layer.iterate()
