"""A laboratory's networks: a student without a base class, and a teacher that knows how its images are prepared."""

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """A student of two convolutions, which gives a map."""

    def __init__(self, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return a map `(N, width, h, w)`."""
        found: Tensor = self.late(self.early(images))
        return found


class Colours(nn.Module):
    """A teacher that sees colours alone: the mean of each channel, twice."""

    mean, std, channels = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 3

    def forward(self, images: Tensor) -> Tensor:
        """Return `(N, 6)`."""
        means = images.mean(dim=(2, 3))
        return torch.cat([means, means.square()], dim=1)


def narrow(in_channels: int = 3) -> nn.Module:
    """Return the student with fewer channels."""
    return Tiny(in_channels, width=8)
