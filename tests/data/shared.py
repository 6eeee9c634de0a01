"""Random images, generators, crops and torchvision's changes of colour, for several tests of this folder."""

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as tv

from relgraph.data.views import View

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


def padded_crop(image: Tensor, crops: View, row: int, padding: int) -> Tensor:
    """Do with one image what torchvision's RandomCrop(padding=...) and RandomHorizontalFlip do."""
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    top, left = padding + int(crops.dy[row]), padding + int(crops.dx[row])
    crop = torch.from_numpy(padded[:, top : top + image.shape[1], left : left + image.shape[2]])
    return crop.flip(-1) if crops.flip[row] else crop
