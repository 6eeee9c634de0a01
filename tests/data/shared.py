"""Random images, generators and torchvision's changes of colour, for several tests of this folder."""

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as tv

JITTER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_images(*shape: int) -> Tensor:
    """Return bytes of which none is 0, the colour of what is padded."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=seeded(1))


def chi_square(counts: Tensor) -> float:
    """Return the statistic of counts that are all expected to be the same."""
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum())
