"""Images with their labels: a split of a data set, in memory or in files."""

import os
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from relgraph.data.decoding import BadImage, ImageSize, pair, quiet, read_image
from relgraph.data.label_maps import LabelMaps
from relgraph.data.stream import stream
from relgraph.errors import RelgraphError
from relgraph.printing import no_bar
from relgraph.seeding import generator

T = TypeVar("T")
SPLITS = ("train", "val", "test")
IN_POOL = b"//"  # how names in a pool begin; no path within a folder does
SAMPLE_BYTES = 2**30  # a sample of streamed images stays small, however large they are


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Colour images `(N, 3, H, W)` uint8 that stay in their files until they are asked for; `image_files` makes them.

    `names` are paths within `folder`, as bytes in one array: worker processes share its memory, while of a list of
    strings each would get its own copy as references are counted. `size` is `(H, W)`; with an `image_size` images are
    made to fit it, without one all must have it. Names that begin with `//` are paths within the folder `pool`.
    """

    folder: Path
    names: NDArray[np.bytes_]
    size: tuple[int, int]
    image_size: ImageSize | None
    pool: Path | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    @property
    def shape(self) -> torch.Size:
        """The shape that they would have in memory, `(N, 3, H, W)`."""
        return torch.Size((len(self), 3, *self.size))

    def __getitem__(self, which: Tensor) -> "ImageFiles":
        """Return the images at `which`, positions or a mask; none is decoded."""
        return replace(self, names=self.names[which.cpu().numpy()])

    def with_pool(self, pool: "ImageFiles") -> "ImageFiles":
        """Return these images and, after them, those of another folder; none is decoded."""
        return replace(self, names=np.concatenate([self.names, np.char.add(IN_POOL, pool.names)]), pool=pool.folder)

    def followed_by(self, others: "ImageFiles | Tensor") -> "ImageFiles":
        """Return these images and, after them, others of the same data set; none is decoded."""
        assert isinstance(others, ImageFiles)  # parts of one data set are all files
        folder = Path(os.path.commonpath([self.folder.absolute(), others.folder.absolute()]))
        first, second = (files._within(folder) for files in (self, others))
        return replace(first, names=np.concatenate([first.names, second.names]), pool=self.pool or others.pool)

    def _within(self, folder: Path) -> "ImageFiles":
        """Return the same images by their paths within a folder above theirs."""
        inner = os.path.relpath(self.folder, folder)
        if inner == os.curdir:
            return self
        elsewhere = np.char.startswith(self.names, b"/")  # absolute, or in the pool
        below = np.char.add(os.fsencode(os.path.join(inner, "")), self.names)
        return replace(self, folder=folder, names=np.where(elsewhere, self.names, below))

    def path(self, number: int) -> str:
        """Return the path of the image at a position."""
        name: bytes = self.names[number]
        if self.pool is not None and name.startswith(IN_POOL):
            return os.path.join(self.pool, os.fsdecode(name.removeprefix(IN_POOL)))
        return os.path.join(self.folder, os.fsdecode(name))

    def decode(self, which: NDArray[np.int64]) -> Tensor:
        """Return the images at the positions `which` `(B,)`, `(B, 3, H, W)` uint8.

        Raises:
            RelgraphError: if a file is no readable image, or has another size.
        """
        # PIL and numpy alone: torch's threads do not survive the fork of a worker process.
        pixels = np.empty((len(which), *self.shape[1:]), dtype=np.uint8)
        with quiet():
            for slot, number in enumerate(which):
                self._read(int(number), pixels[slot])
        return torch.from_numpy(pixels)

    def decode_readable(self, which: NDArray[np.int64]) -> tuple[Tensor, dict[int, str]]:
        """Return those of the images at `which` that can be read, and why others cannot, by their position.

        Raises:
            RelgraphError: if a readable one has another size.
        """
        pixels = np.empty((len(which), *self.shape[1:]), dtype=np.uint8)
        faults, count = dict[int, str](), 0
        with quiet():
            for number in which.tolist():
                try:
                    self._read(number, pixels[count])
                    count += 1
                except BadImage as error:
                    faults[number] = error.reason
        return torch.from_numpy(pixels[:count]), faults

    def load(self, progress: str) -> Tensor:
        """Return all images, decoded by threads; `progress` is the name of the bar on a terminal.

        Raises:
            RelgraphError: if a file is no readable image, or has another size.
        """
        pixels = np.empty(self.shape, dtype=np.uint8)
        self._each(self._read, progress, pixels)
        return torch.from_numpy(pixels)

    def faults(self, progress: str) -> dict[int, BadImage]:
        """Return what is wrong with the images that cannot be read, by their position; each is decoded once.

        Raises:
            RelgraphError: if a readable one has another size.
        """
        found = self._each(self._fault, progress)
        return {number: fault for number, fault in enumerate(found) if fault is not None}

    def status(self) -> Tensor:
        """Return `(N, 2)` int64: each file's size in bytes, and when it was modified, in nanoseconds.

        Raises:
            RelgraphError: if a file is gone.
        """
        found = np.empty((len(self), 2), dtype=np.int64)
        for number in range(len(self)):
            file = self.path(number)
            try:
                status = os.stat(file)
            except OSError as error:
                raise RelgraphError(f"{file}: expected an image, found none ({error.strerror})") from error
            found[number] = status.st_size, status.st_mtime_ns
        return torch.from_numpy(found)

    def checksums(self, status: Tensor | None = None) -> Tensor:
        """Return a checksum `(N,)` int64 of each file's path within the folder, its size and `image_size`.

        Its `status` is asked for if it is not known.

        Raises:
            RelgraphError: if a file is gone.
        """
        sizes = (self.status() if status is None else status)[:, 0].numpy()
        pairs, side = zip(self.names, sizes.data, strict=True), str(self.image_size).encode()  # no list of numbers
        found = (zlib.crc32(b"%s\0%d\0%s" % (name, size, side)) for name, size in pairs)
        return torch.from_numpy(np.fromiter(found, np.int64, len(self)))

    def _each(self, call: Callable[..., T], progress: str, *rows: NDArray[np.uint8]) -> list[T]:
        """Return what a function gives of each position, and of a row of each of `rows`; threads call it."""
        from tqdm import tqdm

        with quiet(), ThreadPoolExecutor() as pool:
            called = pool.map(call, range(len(self)), *rows)
            return list(tqdm(called, desc=progress, total=len(self), unit="img", leave=False, disable=no_bar()))

    def _fault(self, number: int) -> BadImage | None:
        try:
            self._image(number)
        except BadImage as error:
            return error
        return None

    def _read(self, number: int, pixels: NDArray[np.uint8]) -> None:
        pixels[...] = np.asarray(self._image(number)).transpose(2, 0, 1)

    def _image(self, number: int) -> Image:
        file = Path(self.path(number))
        image = read_image(file, self.image_size)
        height, width = self.size
        if image.size != (width, height):
            found = f"found {image.width} x {image.height}: give --image-size to resize them"
            raise RelgraphError(f"{file}: expected {width} x {height} pixels like the first image, {found}")
        return image


def names_in_one(names: Sequence[str]) -> NDArray[np.bytes_]:
    """Return paths as bytes in one array: of many, a tenth of what they take as strings.

    >>> names_in_one(["a/1.png", "b/22.png"])
    array([b'a/1.png', b'b/22.png'], dtype='|S8')
    """
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def image_files(
    folder: Path,
    names: Sequence[str] | NDArray[np.bytes_],
    image_size: ImageSize | None,
    size: tuple[int, int] | None = None,
    *,
    skip: bool = False,
) -> ImageFiles:
    """Return the images `names` in `folder`; only where neither size is given, the first is opened to learn its.

    With `skip` it is the first that can be read.

    Raises:
        RelgraphError: if that image is unreadable.
    """
    if image_size is not None:
        size = pair(image_size)
    elif size is None:
        size = _first_size(folder, names, skip)
    return ImageFiles(folder, names if isinstance(names, np.ndarray) else names_in_one(names), size, image_size)


def _first_size(folder: Path, names: Iterable[str | bytes], skip: bool) -> tuple[int, int]:
    """Return the height and width of the first image, or with `skip` of the first that can be read."""
    for name in names:
        try:
            with quiet():
                width, height = read_image(folder / os.fsdecode(name), None).size
            return height, width
        except BadImage:
            if not skip:
                raise
    raise RelgraphError(f"{folder}: expected an image, found none that can be read")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images `(N, C, H, W)` uint8 with labels `(N,)` int64, -1 where training has none.

    `images` is a tensor, or where they do not fit memory their files. `index` `(N,)` is the position in the data set's
    original split: training and validation images that were cut from one split share its numbers. `truth` `(N,)` are
    the true labels, where `labels` hides or changes some (see `relabel`). `decoded` are the files that a tensor of
    images was read from, and `part` `(N,)` says of images of several splits which of `SPLITS` each one is of.

    Where each pixel has a class, `maps` has these, and `classes` are theirs; a label is 0 then if training may use the
    map of the image, else -1.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    classes: tuple[str, ...]
    split: str
    index: Tensor
    truth: Tensor | None = None
    decoded: ImageFiles | None = None
    part: Tensor | None = None
    maps: LabelMaps | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def files(self) -> ImageFiles | None:
        """The files of the images, whether they were decoded or are streamed; `None` where they come from none."""
        return self.images if isinstance(self.images, ImageFiles) else self.decoded

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which images are of each split, `train_mask`, `val_mask` and `test_mask`, `(N,)` each."""
        own = torch.full((len(self),), SPLITS.index(self.split)) if self.part is None else self.part
        return {f"{split}_mask": own == number for number, split in enumerate(SPLITS)}

    @property
    def pixels(self) -> Tensor:
        """The images where they lie in memory, `(N, C, H, W)` uint8.

        Raises:
            RelgraphError: if they are streamed.
        """
        if isinstance(self.images, ImageFiles):
            raise RelgraphError(f"expected the {self.split} images in memory, found files that are streamed")
        return self.images

    @property
    def true_labels(self) -> Tensor:
        """The labels `(N,)` of all images, also those that training does not use; -1 where pixels have classes."""
        if self.maps is not None:
            return torch.full_like(self.labels, -1)
        return self.labels if self.truth is None else self.truth

    @property
    def groups(self) -> tuple[str, ...]:
        """What the labels number, in words: the classes, or where pixels have these all images that have a map."""
        return tuple(f"class {name!r}" for name in self.classes) if self.maps is None else ("the data set",)

    def relabel(self, labels: Tensor) -> "ImageSet":
        """Return the images with other labels `(N,)` for training; evaluation keeps the true ones."""
        maps = None if self.maps is None else self.maps.shown(labels)
        return replace(self, labels=labels, truth=self.true_labels, maps=maps)

    def select(self, which: Tensor) -> "ImageSet":
        """Return the images at `which`, positions or a mask; of files none is decoded."""
        optional = ("truth", "decoded", "part", "maps")
        beside = {name: rows[which] for name in optional if (rows := getattr(self, name)) is not None}
        chosen: dict[str, Any] = {name: getattr(self, name)[which] for name in ("images", "labels", "index")}
        return replace(self, **chosen, **beside)

    def evenly(self, count: int) -> "ImageSet":
        """Return `count` images: see `evenly`."""
        return self if count >= len(self) else self.select(evenly(self.true_labels, count))

    def to(self, device: torch.device | str) -> "ImageSet":
        """Return the images that lie in memory, and the labels, on a device."""
        images = self.images if isinstance(self.images, ImageFiles) else self.images.to(device)
        truth = None if self.truth is None else self.truth.to(device)
        maps = None if self.maps is None else self.maps.to(device)
        return replace(self, images=images, labels=self.labels.to(device), truth=truth, maps=maps)

    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Generator[Tensor, None, None]:
        """Yield the images `(B, C, H, W)` uint8 at each of `indices`, `(B,)` each, in order.

        Images in memory come from the device where they lie. Files are decoded ahead by `workers` processes, or by this
        one if 0, and come from the CPU; they are the same at any number of workers. Closing the generator early ends
        the processes.

        Raises:
            RelgraphError: if a file is no readable image, or has another size.
        """
        if isinstance(self.images, ImageFiles):
            return stream(self.images.decode, indices, workers, pin_memory=self.labels.is_cuda)
        images = self.images
        # One copy an image; indexing takes six times as long, number by number.
        return (images.index_select(0, index.to(images.device, non_blocking=True)) for index in indices)

    def sample(self, limit: int) -> Tensor:
        """Return at most `limit` evenly spaced images `(n, C, H, W)`, and of files at most 1 GiB, decoded.

        Raises:
            RelgraphError: if a file is no readable image, or has another size.
        """
        count = min(len(self), limit)
        if isinstance(self.images, ImageFiles):
            count = min(count, max(1, SAMPLE_BYTES // self.images.shape[1:].numel()))
        chosen = self.select(torch.arange(count) * len(self) // max(count, 1)).images
        return chosen.load(f"sample {self.split}") if isinstance(chosen, ImageFiles) else chosen

    def check(self) -> None:
        """Decode each image that is streamed once, so that none stops what reads them much later.

        Raises:
            RelgraphError: if one is no readable image, or has another size.
        """
        if isinstance(self.images, ImageFiles):
            for fault in self.images.faults(f"check {self.split}").values():
                raise fault

    def checksums(self) -> Tensor:
        """Return a checksum (CRC-32) of each image, `(N,)` int64, which matches stored results with their images.

        In memory it is that of the pixels, bytes in `(C, H, W)` order. For files it is that of the path within the
        split, the file's size in bytes and the image size, so that nothing is read.

        >>> images = torch.zeros(2, 1, 1, 4, dtype=torch.uint8)
        >>> ImageSet(images, torch.zeros(2), ("a",), "test", torch.arange(2)).checksums()
        tensor([558161692, 558161692])
        """
        if isinstance(self.images, ImageFiles):
            return self.images.checksums()
        pixels: NDArray[Any] = self.images.cpu().contiguous().numpy()
        return torch.tensor([zlib.crc32(image) for image in pixels], dtype=torch.int64)


def evenly(labels: Tensor, count: int) -> Tensor:
    """Return `count` positions, as many of each class as there are, or can be; those without a label are a class too.

    They are drawn by a fixed seed and stay in their order. Those of a smaller count are among those of a larger.
    """
    order = torch.randperm(len(labels), generator=generator("images evenly over classes"))
    order = order[labels.cpu()[order].argsort(stable=True)]  # class by class, in a drawn order each
    turn = torch.cat([torch.arange(members) for members in (labels + 1).bincount().tolist()])  # -1 is no label
    return order[turn.argsort(stable=True)[:count]].sort().values
