"""Files with labels of pixels: images of one channel whose numbers are those of classes."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from relgraph.data.decoding import fitted, quiet, read_numbers, size_as_seen, uncovered
from relgraph.data.folders import check_memory
from relgraph.data.images import ImageFiles
from relgraph.data.label_maps import IGNORED
from relgraph.errors import RelgraphError
from relgraph.printing import no_bar

MOST = 255  # classes, since 255 is none


@dataclass(frozen=True, eq=False)
class LabelFiles:
    """The labels of M images in files.

    Attributes:
        images: The files of the images that they belong to.
        paths: Theirs, `(M,)`.
        meaning: The class of each number that a pixel may have, `(256,)` uint8; 255 for none.
        classes: The number of classes; 255 where it is not known yet.
    """

    images: ImageFiles
    paths: NDArray[np.bytes_]
    meaning: NDArray[np.uint8]
    classes: int

    def __getitem__(self, number: int, /) -> Tensor:
        """Return the map of an image `(h, w)` uint8 at its label's own size, cut to what is seen of the image.

        Raises:
            RelgraphError: if the file cannot be read.
        """
        found, size = read_numbers(self.path(number)), self.images.image_size
        return torch.from_numpy(self.meaning[np.asarray(found if size is None else uncovered(found, size))])

    def path(self, number: int) -> Path:
        """Return the path of a label."""
        return Path(os.fsdecode(self.paths[number]))

    def load(self, progress: str) -> tuple[Tensor, NDArray[np.bool_]]:
        """Return the maps at the size of the images, `(M, H, W)` uint8, and which classes their files hold, `(256,)`.

        They are decoded by threads and resized (nearest), by which a small class may vanish.

        Raises:
            RelgraphError: if one cannot be read, has not its image's size, or has a number that is no class; or if all
                need too much memory.
        """
        shape = len(self.paths), *self.images.size
        check_memory(shape[0], 1, *shape[1:])
        maps = np.empty(shape, dtype=np.uint8)
        with quiet(), ThreadPoolExecutor() as pool:
            read = pool.map(self._read, range(len(maps)), maps)
            there = np.zeros(256, dtype=np.bool_)
            for found in tqdm(read, desc=progress, total=len(maps), unit="img", leave=False, disable=no_bar()):
                there[found] = True
        return torch.from_numpy(maps), there

    def _read(self, number: int, row: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the map of a label, and return the classes that its file has."""
        file, image = self.path(number), Path(self.images.path(number))
        found = read_numbers(file)
        if found.size != (expected := size_as_seen(image)):
            told = f"expected {expected[0]} x {expected[1]} pixels like {image}"
            raise RelgraphError(f"{file}: {told}, found {found.width} x {found.height}")
        values = self.meaning[np.asarray(found)]
        wrong = (values >= self.classes) & (values != IGNORED)
        if wrong.any():
            value = int(np.asarray(found)[wrong][0])
            known = np.flatnonzero(self.meaning < self.classes)
            told = f"expected numbers of {self.classes} classes, {known[0]} to {known[-1]}, or 255, found {value}"
            raise RelgraphError(f"{file}: {told}: give --ignore {value} if it stands for no class")
        present = np.unique(values)
        if (size := self.images.image_size) is not None:
            values = np.asarray(fitted(Image.fromarray(values), size, Image.Resampling.NEAREST))
        row[...] = values
        return present


def meanings(ignored: tuple[int, ...] = (), classes: Mapping[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the class of each number `(256,)`, 255 for none: of those `ignored`, and of those without an entry.

    Without `classes` each number is that of its class, or less where numbers below it are ignored: of these there is no
    class, which nothing would teach.

    Raises:
        RelgraphError: if a number that is ignored has not 8 bits.

    >>> meanings((0, 11))[[0, 1, 10, 11]], meanings(classes={7: 0})[[7, 8]]
    (array([255,   0,   9, 255], dtype=uint8), array([  0, 255], dtype=uint8))
    """
    if wrong := [number for number in ignored if not 0 <= number <= IGNORED]:
        raise RelgraphError(f"numbers that are ignored in labels must be from 0 to 255, got {wrong[0]}")
    found = np.full(256, IGNORED, dtype=np.uint8)
    if classes is None:
        classes = {number: label for label, number in enumerate(sorted({*range(IGNORED)} - {*ignored}))}
    for number, label in classes.items():
        found[number] = label
    found[list(ignored)] = IGNORED
    return found
