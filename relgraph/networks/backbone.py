"""The interface of every student backbone: images to stage maps and one pooled vector an image."""

from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A network without its classifier, `(N, C, H, W) -> (N, width)`. A family implements `stages`.

    Attributes:
        width: Length of the pooled vector. That of a library's network is `measured`.
    """

    width: int

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps, each `(N, channels, height, width)`, in order, and the pooled vector `(N, width)`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        return self.stages(images)[1]

    @torch.no_grad()
    def measured(self, in_channels: int, image_size: int) -> Self:
        """Return itself, in training mode, with the `width` that one square image of zeros gives.

        Raises:
            ValueError: if the output is no vector.
        """
        _, pooled = self.eval().stages(torch.zeros(1, in_channels, image_size, image_size))
        if pooled.ndim != 2:
            raise ValueError(f"expected one vector (1, width), got {tuple(pooled.shape)}")
        self.width = int(pooled.shape[1])
        return self.train()


class Staged(Backbone):
    """A backbone whose `stem` and `layers` each read the map before; the mean over all positions is its vector.

    The mean is that of the last stage's map, or of what `last` makes of it where a family has such a layer.
    """

    stem: nn.Module
    layers: Iterable[nn.Module]
    last: Callable[[Tensor], Tensor]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the maps of stem and stages, and the mean of the last, or of what `last` makes of it."""
        maps = [self.stem(images)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        averaged = self.last(maps[-1]) if hasattr(self, "last") else maps[-1]
        return tuple(maps), averaged.mean(dim=(2, 3))


@torch.no_grad()
def map_shapes(backbone: Backbone, in_channels: int, image_size: int) -> tuple[tuple[int, int, int], ...]:
    """Return `(channels, height, width)` of each stage map of one square image; the backbone is left as it was."""
    training = backbone.training
    maps, _ = backbone.eval().stages(torch.zeros(1, in_channels, image_size, image_size))
    backbone.train(training)
    return tuple((int(x.shape[1]), int(x.shape[2]), int(x.shape[3])) for x in maps)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its batch norm; the map shrinks by the stride alone."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def stacked(
    unit: Callable[[int, int, int], nn.Module], inputs: int, stages: Iterable[tuple[int, int, int]]
) -> list[nn.Sequential]:
    """Return stages of units, each `unit(inputs, outputs, stride)`; a stage is (outputs, number of units, stride).

    The first unit of a stage has the stride and changes the number of channels, the others keep both.
    """
    layers = []
    for outputs, count, stride in stages:
        rest = (unit(outputs, outputs, 1) for _ in range(count - 1))
        layers.append(nn.Sequential(unit(inputs, outputs, stride), *rest))
        inputs = outputs
    return layers


def start_from_fan_out(network: nn.Module) -> None:
    """Draw all convolutions anew, with Kaiming's variance of 2 / fan-out, and set their biases to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
