"""Images with their labels: a split of a data set."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images `(N, C, H, W)` uint8 with labels `(N,)` int64, -1 where training does not know them.

    `index` `(N,)` is the position in the data set's original split: training and validation images that were cut from
    one split share its numbers.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: str
    index: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def select(self, which: Tensor) -> "ImageSet":
        """Return the images at `which`, positions or a mask."""
        return replace(self, images=self.images[which], labels=self.labels[which], index=self.index[which])
