"""The labels of pixels: a map of classes for each image of a set."""

import zlib
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from relgraph.data.decoding import ImageSize, centre, covering_size, pair, uncovered_size

IGNORED = 255  # what stands in a map where a pixel has no class


class Originals(Protocol):
    """Maps at their own sizes: a tensor of them, or their files."""

    def __getitem__(self, number: int, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """A map of classes for each of N images: 0 to C - 1, and 255 where a pixel has none, or training may not use it.

    An image without a label has 255 everywhere.

    Attributes:
        maps: The maps of M images at the size of the images, `(M, H, W)` uint8, on the device of the set.
        row: Which of them an image has in training, `(N,)` int64, -1 for none.
        original: The same maps at the labels' own sizes.
        number: Which of these an image has, `(N,)` int64, also where it is hidden from training; -1 for none.
        sums: A checksum (CRC-32) of the map of each image, `(N,)` int64, 0 without one.
    """

    maps: Tensor
    row: Tensor
    original: Originals
    number: Tensor
    sums: Tensor

    @classmethod
    def of(cls, maps: Tensor, original: Originals | None = None, labels: Tensor | None = None) -> "LabelMaps":
        """Return the maps `(M, H, W)` uint8 of those images whose label `(N,)` is not negative, by default of all.

        >>> maps = LabelMaps.of(torch.tensor([[[0, 1]], [[1, 255]]], dtype=torch.uint8))
        >>> maps[torch.tensor([1])].rows(torch.tensor([0]))
        tensor([[[  1, 255]]], dtype=torch.uint8)
        """
        known = torch.ones(len(maps), dtype=torch.bool) if labels is None else labels >= 0
        number = torch.where(known, known.cumsum(0) - 1, -1)
        pixels: NDArray[Any] = maps.contiguous().numpy()
        sums = torch.zeros_like(number)
        sums[known] = torch.tensor([zlib.crc32(each) for each in pixels], dtype=torch.int64)
        # One that shows nothing where there is none, so that every row can be read.
        held = maps if len(maps) else maps.new_full((1, *maps.shape[1:]), IGNORED)
        return cls(held, number, maps if original is None else original, number, sums)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.row)

    def __getitem__(self, which: Tensor) -> "LabelMaps":
        """Return the maps of the images at `which`, positions or a mask; none is copied."""
        here = which.cpu()
        return replace(self, row=self.row[which], number=self.number[here], sums=self.sums[here])

    def to(self, device: torch.device | str) -> "LabelMaps":
        """Return the maps on a device; only those that `rows` gives are moved."""
        if self.row.device == torch.device(device):
            return self
        kept, row = torch.unique(self.row, return_inverse=True)  # -1 comes first, and takes the place of a map
        maps = self.maps[kept.clamp_min(0)].to(device)
        return replace(self, maps=maps, row=torch.where(self.row < 0, -1, row).to(device))

    def rows(self, which: Tensor) -> Tensor:
        """Return the maps of the images at positions `which` `(B,)` for training, `(B, H, W)` uint8 on the device."""
        row = self.row[which.to(self.row.device, non_blocking=True)]
        return torch.where((row < 0)[:, None, None], IGNORED, self.maps[row.clamp_min(0)])

    def own(self, number: int) -> Tensor:
        """Return the map of one image `(h, w)` uint8 at its label's own size, for evaluation and figures, on the CPU.

        It shows what the image shows: where this was cropped, so is the map. A label that is hidden from training is
        here all the same.

        Raises:
            RelgraphError: if it is in a file that cannot be read.
        """
        position = int(self.number[number])
        if position < 0:
            return torch.full(self.maps.shape[1:], IGNORED, dtype=torch.uint8)
        return self.original[position]

    def shown(self, labels: Tensor) -> "LabelMaps":
        """Return the maps with those alone in training whose label `(N,)` is not negative."""
        return replace(self, row=torch.where(labels.to(self.row.device) < 0, -1, self.row))

    def resized(self, size: ImageSize) -> "LabelMaps":
        """Return the maps for images that cover another size (nearest), cropped alike; own sizes are cropped alone."""
        height, width = self.maps.shape[1:]
        covering = covering_size((height, width), size)
        maps = torch.nn.functional.interpolate(self.maps[:, None], size=covering, mode="nearest-exact")[:, 0]
        shown = maps[:, *centre(covering, pair(size))].contiguous()
        return replace(self, maps=shown, original=_Uncovered(self.original, size))

    def with_unlabelled(self, count: int) -> "LabelMaps":
        """Return the maps of these images and of `count` images after them that have none."""
        none = torch.full((count,), -1)
        row, number = (torch.cat([each, none.to(each.device)]) for each in (self.row, self.number))
        return replace(self, row=row, number=number, sums=torch.cat([self.sums, none.new_zeros(count)]))

    def followed_by(self, others: "LabelMaps") -> "LabelMaps":
        """Return the maps of these images and, after them, those of others of the same data set."""
        row = torch.where(others.row < 0, -1, others.row + len(self.maps))
        first = int(self.number.max()) + 1 if len(self) else 0
        number = torch.where(others.number < 0, -1, others.number + first)
        return LabelMaps(torch.cat([self.maps, others.maps]), torch.cat([self.row, row]),
                         _Two(self.original, others.original, first), torch.cat([self.number, number]),
                         torch.cat([self.sums, others.sums]))  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Uncovered:
    """The middles of maps that are left of their images where these cover a size."""

    whole: Originals
    size: ImageSize

    def __getitem__(self, number: int, /) -> Tensor:
        """Return the map of a number."""
        found = self.whole[number]
        height, width = found.shape
        return found[centre((height, width), uncovered_size((height, width), self.size))]


@dataclass(frozen=True, eq=False)
class _Two:
    """Maps of two origins, of which the second are numbered from `start`."""

    first: Originals
    second: Originals
    start: int

    def __getitem__(self, number: int, /) -> Tensor:
        """Return the map of a number."""
        return self.first[number] if number < self.start else self.second[number - self.start]
