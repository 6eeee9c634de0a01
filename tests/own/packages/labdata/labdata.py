"""A laboratory's data set: flat images of three colours, with noise."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Flat(Dataset[tuple[Tensor, int]]):
    """90 images of 12 x 12 pixels, red, green or blue."""

    classes = ("red", "green", "blue")

    def __init__(self, count: int = 90) -> None:
        noise = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(3))
        self.labels = torch.arange(count) % 3
        self.images = (150 * noise).to(torch.uint8)
        self.images[torch.arange(count), self.labels] += 60

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its label."""
        return self.images[index], int(self.labels[index])
