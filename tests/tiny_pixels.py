"""A data set of a few tiny images whose pixels have classes that can be learnt."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from relgraph.data.decoding import ImageSize
from relgraph.data.images import ImageSet
from relgraph.data.label_maps import IGNORED, LabelMaps
from relgraph.data.sources import OriginalSplits, Source, original_split

CLASSES = ("dark", "red", "blue")


def coloured(count: int, split: str, seed: int) -> ImageSet:
    """Return images `(count, 3, 12, 16)` of a red and a blue square on noise, their first row without a class."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (count, 3, 12, 16), generator=random, dtype=torch.uint8)
    maps = torch.zeros(count, 12, 16, dtype=torch.uint8)
    for number in range(count):
        for label, channel in ((1, 0), (2, 2)):
            top, left = (int(torch.randint(0, n, (1,), generator=random)) for n in (8, 12))
            images[number, :, top : top + 5, left : left + 5] //= 4
            images[number, channel, top : top + 5, left : left + 5] = 220
            maps[number, top : top + 5, left : left + 5] = label
    maps[:, 0] = IGNORED
    found = original_split(images, torch.zeros(count, dtype=torch.int64), CLASSES, split)
    return replace(found, maps=LabelMaps.of(maps, twice(maps)))


def twice(maps: Tensor) -> Tensor:
    """Return maps at twice their height and width."""
    return maps.repeat_interleave(2, 1).repeat_interleave(2, 2)


class TinyPixels(Source):
    """20 training and 6 test images; the labels' own size is twice that of the images."""

    name = "tiny-pixels"
    preset = "pixels"

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits."""
        return OriginalSplits(coloured(20, "train", 0), coloured(6, "test", 1), crop_padding=1, flip=True)
