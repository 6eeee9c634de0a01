"""The fixed views of every image, whose embeddings are stored: drawn once, the same in every epoch."""

import torch
from torch import Tensor

from relgraph.data.views import PadCropFlip, View
from relgraph.errors import RelgraphError
from relgraph.seeding import generator


class FixedViews:
    """View 0 of an image is the image itself; view v >= 1 is one crop and flip, drawn by `(seed, v)`.

    A view of an image is the same whatever `count` is, and on every device: `n` images are drawn in their order by a
    generator on the CPU.

    Args:
        n: number of images.
        count: views of each, at least 1.
        padding: black pixels on every side before a crop.
        flip: whether half the crops are mirrored.
        seed: what the crops depend on.
    """

    def __init__(self, n: int, count: int, *, padding: int, flip: bool, seed: int) -> None:
        if n < 1 or count < 1:
            raise RelgraphError(f"fixed views need at least 1 image and 1 view, got {n} and {count}")
        # 16 bits, filled a view at a time: a million images with many views stay small beside their embeddings.
        self.dx, self.dy = torch.zeros(2, count, n, dtype=torch.int16)
        self.flip = torch.zeros(count, n, dtype=torch.bool)
        for v in range(1, count):
            drawn = PadCropFlip(padding, flip).draw(n, 0, 0, generator("stored views", seed, v))
            self.dx[v], self.dy[v], self.flip[v] = drawn.dx, drawn.dy, drawn.flip
        self.count = count

    def to(self, device: torch.device | str) -> "FixedViews":
        """Move the draws to a device, where `take` then gathers them, and return this."""
        self.dx, self.dy, self.flip = self.dx.to(device), self.dy.to(device), self.flip.to(device)
        return self

    def take(self, view: Tensor, index: Tensor) -> View:
        """Return view `view` `(B,)` of the images `index` `(B,)`, both on the device of the draws.

        >>> views = FixedViews(5, 2, padding=1, flip=True, seed=0)
        >>> images = torch.arange(3 * 9, dtype=torch.uint8).view(3, 1, 3, 3)
        >>> view = views.take(torch.tensor([0, 0, 0]), torch.tensor([4, 2, 2]))
        >>> torch.equal(view.apply(images), images)
        True
        """
        return View(self.dx[view, index].long(), self.dy[view, index].long(), self.flip[view, index])
