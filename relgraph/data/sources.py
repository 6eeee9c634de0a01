"""Data sets as objects: digits, and what was published for download; `catalogue` has them by name."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relgraph.data.decoding import ImageSize, centre, covering_size, pair
from relgraph.data.downloads import Archive, State
from relgraph.data.folders import POOL, Listings, check_memory, list_pool, read_listings, read_pool
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.listing import LeftOut
from relgraph.data.tiny_imagenet import list_tiny_imagenet
from relgraph.errors import RelgraphError

UNLABELLED = "unlabeled_X.bin"  # of STL-10, as it was published
RESIZED_AT_ONCE = 1_000  # images

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class OriginalSplits:
    """The original splits of a data set, before labels are hidden or images held out.

    An empty `test` of a data set with classes is to be drawn from the training images. `normalisation` is (mean, std),
    None where nobody published them; `unlabelled`, `(N, C, H, W)` uint8 each, are images to be added to the training
    set: files if the training images are, else they need not lie in memory; `pool` are the files that these were
    decoded from, if the training images were; `left_out` is what is no part of the data set.
    """

    train: ImageSet
    test: ImageSet
    crop_padding: int
    flip: bool
    val: ImageSet | None = None
    normalisation: Normalisation | None = None
    unlabelled: tuple[Tensor | ImageFiles, ...] = ()
    pool: ImageFiles | None = None
    left_out: LeftOut = field(default_factory=LeftOut)


class Source(ABC):
    """A data set that can be read: a member of `catalogue.SOURCES`, one of `file_sources`, or an object of one's own.

    Attributes:
        name: Its name as it is written.
        short_name: Its name in those of files.
    """

    name: str

    @property
    def short_name(self) -> str:
        """Its name in those of files: of a folder or a file the last part of its path."""
        return Path(self.name.partition(":")[2] or self.name).name

    @property
    def preset(self) -> str:
        """The preset of a training that names none."""
        return "none"

    def ignoring(self, numbers: tuple[int, ...]) -> "Source":
        """Return the data set with these numbers in its labels of pixels read as 255, a pixel without a class.

        Raises:
            RelgraphError: if it reads no such labels from files.
        """
        raise RelgraphError(f"{self.name} has no files with labels of pixels: expected no numbers to ignore in them")

    @abstractmethod
    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the original splits, downloaded to `root` if need be, images resized to `image_size`.

        The `mode` auto, memory or stream is that of `folders.read_folder`.

        Raises:
            RelgraphError: if a file is missing or wrong, or the download fails.
        """

    def skipping(self) -> "Source":
        """Return the data set without image files that cannot be read; it is the same where images are no files."""
        return self

    def beside(self, pool: Path) -> "Source":
        """Return the data set with the images in a folder, at any depth, as further ones without labels."""
        return Beside(self, pool)


class Beside(Source):
    """A data set in memory, and in a folder images without labels, which become grey where those of the data set are.

    `skip` leaves out files that cannot be read.
    """

    def __init__(self, source: Source, pool: Path, *, skip: bool = False) -> None:
        self.source, self.pool, self.skip, self.name = source, pool, skip, source.name

    def skipping(self) -> "Beside":
        """Return the data set without image files that cannot be read."""
        return Beside(self.source.skipping(), self.pool, skip=True)

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the original splits with the further images.

        Raises:
            RelgraphError: if the data set cannot be read, or there is no such image, or one is unreadable or of another
                size.
        """
        original = self.source.read(root, image_size, mode)
        left_out, (channels, height, width) = (
            replace(original.left_out, skip=self.skip),
            original.train.images.shape[1:],
        )
        images = read_pool(self.pool, image_size, (height, width), left_out)
        splits = [len(split) for split in (original.train, original.test, original.val) if split is not None]
        check_memory(sum(splits) + sum(map(len, original.unlabelled)) + len(images), channels, height, width)
        images = images if channels == images.shape[1] else _grey(images)
        return replace(original, unlabelled=(*original.unlabelled, images), left_out=left_out)


def _grey(images: Tensor) -> Tensor:
    """Return the luma `(N, 1, H, W)` of images, as PIL has it for its mode L."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    return torch.cat([(part * weights[:, None, None]).sum(1, keepdim=True).round().to(torch.uint8) for part in
                      torch.split(images, 1_000)])  # fmt: skip


class Facts(NamedTuple):
    """Numbers of images and classes, the height and width of an image in pixels, 0 where these differ, and of what."""

    train: int
    test: int
    classes: int
    pixels: int
    unlabelled: int = 0
    of_pixels: bool = False


class Digits(Source):
    """The 1,797 grey digits of scikit-learn, 8 x 8 pixels; every fifth image of a class is a test image.

    That is a split that no library's random numbers can change.
    """

    name = "digits"
    preset = "digits"

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits, resized to `image_size` (bicubic); nothing is downloaded.

        Raises:
            RelgraphError: if the mode is stream.
        """
        from sklearn.datasets import load_digits

        refuse_stream(self.name, mode)
        data = load_digits()
        images = torch.from_numpy(data.images * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(data.target).long()
        test = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(len(data.target_names)):
            test[(labels == label).nonzero().flatten()[4::5]] = True
        classes = tuple(map(str, data.target_names))
        train, held = (original_split(images[part], labels[part], classes, split)
                       for part, split in ((~test, "train"), (test, "test")))  # fmt: skip
        return resize(OriginalSplits(train, held, crop_padding=1, flip=False), image_size)


@dataclass(frozen=True)
class Published(Source):
    """A data set that is downloaded: `facts` about it, and its `archive`."""

    name: str
    facts: Facts

    @property
    @abstractmethod
    def archive(self) -> Archive:
        """The archive in which it was published."""

    def folder(self, root: Path) -> Path:
        """Return where it lies in `root`."""
        return root / self.archive.folder

    def state(self, root: Path) -> State:
        """Return what there is in `root`, by the names of files alone."""
        return self.archive.state(root)

    def provide(self, root: Path) -> Path:
        """Return its folder in `root`, downloaded and unpacked if it is not there.

        Raises:
            RelgraphError: if that fails, or an archive is not the published one.
        """
        return self.archive.provide(root)

    def check(self, root: Path) -> str:
        """Compare the files in `root` with what was published, and return a word about what agrees.

        Raises:
            RelgraphError: if one differs.
        """
        self.archive.check(root)
        return "its checksums are those published"


@dataclass(frozen=True)
class Torchvision(Published):
    """CIFAR-10, CIFAR-100 (Krizhevsky 2009) or STL-10 (Coates et al. 2011), by torchvision's reader.

    STL-10 has its unlabelled images where `facts` counts them.
    """

    size: int
    normalisation: Normalisation | None = None

    @property
    def archive(self) -> Archive:
        """The archive with the checksums that torchvision knows; unlabelled images count where they are asked for."""
        reader = self._reader()
        cifar = hasattr(reader, "meta")
        more = (reader.meta["filename"], reader.meta["md5"]) if cifar else (reader.class_names_file, "")
        files = dict([*reader.train_list, *reader.test_list, more])
        if not self.facts.unlabelled:
            files.pop(UNLABELLED, None)
        return Archive(self.name, reader.base_folder, reader.url, reader.tgz_md5, self.size, files)

    def _reader(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.name.split("+")[0].upper())

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits, downloaded if they are not in `root`; unlabelled images stay in their file.

        Raises:
            RelgraphError: if a file is missing or is not the published one, the download fails, or the mode is stream.
        """
        refuse_stream(self.name, mode)
        folder, reader = self.provide(root), self._reader()
        # Pickles can run code when they are opened. Every one is compared with its published MD5 first: here, for a
        # sentence that names the file, and once more in torchvision's constructor, before it opens any.
        self.archive.check(root)
        # Unlabelled images, 2.8 GB, it need not compare.
        labelled = [file for file in reader.train_list if file[0] != UNLABELLED]
        reader = type("Labelled", (reader,), {"train_list": labelled})
        train, test = (_read_split(reader, root, split) for split in ("train", "test"))
        original = OriginalSplits(train, test, crop_padding=4, flip=True, normalisation=self.normalisation)
        if self.facts.unlabelled:
            # torchvision would read all of them into memory, where they take 2.8 GB before they are resized. The file
            # is never written, but torch requires an array that could be. Each channel is stored column by column.
            stored = np.memmap(folder / UNLABELLED, dtype=np.uint8, mode="c").reshape(-1, 3, 96, 96)
            original = replace(original, unlabelled=(torch.from_numpy(stored.swapaxes(2, 3)),))
        return resize(original, image_size)


def _read_split(reader: Any, root: Path, split: str) -> ImageSet:
    cifar = hasattr(reader, "meta")  # its channels are last, its labels are targets, and a split is `train` or not
    found = reader(root, train=split == "train") if cifar else reader(root, split=split)
    pixels = torch.from_numpy(found.data.transpose(0, 3, 1, 2) if cifar else found.data).contiguous()
    labels = torch.as_tensor(found.targets if cifar else found.labels).long()
    return original_split(pixels, labels, tuple(found.classes), split)


@dataclass(frozen=True)
class TinyImageNet(Published):
    """Tiny-ImageNet: 64 x 64 pixels in its own layout; the published validation images are the test split.

    `skip` leaves out image files that cannot be read, and `pool` is a folder of further ones.
    """

    skip: bool = False
    pool: Path | None = None

    def skipping(self) -> "TinyImageNet":
        """Return the data set without image files that cannot be read."""
        return replace(self, skip=True)

    def beside(self, pool: Path) -> "TinyImageNet":
        """Return the data set with further images from a folder."""
        return replace(self, pool=pool)

    @property
    def archive(self) -> Archive:
        """The archive with the sum that public loaders compare with; its publishers give none."""
        files = dict.fromkeys(("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt"), "")
        url, md5 = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
        return Archive(self.name, "tiny-imagenet-200", url, md5, 248_100_043, files)

    def check(self, root: Path) -> str:
        """Compare the lists of Tiny-ImageNet with the files that are there, without reading an image.

        Raises:
            RelgraphError: if they disagree.
        """
        list_tiny_imagenet(root / self.archive.folder)
        return "its lists agree with its files"

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the training images and, as test images, those that were published as validation images.

        Raises:
            RelgraphError: if the download fails, files are missing, disagree with each other, or an image that is
                decoded is unreadable.
        """
        classes, listings = list_tiny_imagenet(self.provide(root))
        return read_files(classes, listings, image_size, mode, LeftOut(self.skip), self.pool)


def original_split(
    images: Tensor | ImageFiles, labels: Tensor, classes: tuple[str, ...], split: str, files: ImageFiles | None = None
) -> ImageSet:
    """Return all images of an original split, with the files that they come from."""
    decoded = files if isinstance(images, Tensor) else None
    return ImageSet(images, labels, classes, split, torch.arange(len(images)), decoded=decoded)


def read_files(
    classes: tuple[str, ...], listings: Listings, image_size: ImageSize | None, mode: str, left_out: LeftOut,
    pool: Path | None = None,
) -> OriginalSplits:  # fmt: skip
    """Return the original splits of image files, and as unlabelled images those in the folder `pool`.

    Raises:
        RelgraphError: if the pool has no further image, or an image that is decoded is unreadable or of another size.
    """
    if pool is not None:
        listings = {**listings, POOL: list_pool(pool, listings, left_out)}
    splits = read_listings(classes, listings, image_size, mode, left_out)
    further = None if pool is None else splits.pop(POOL)
    sets = {split: original_split(images, labels, classes, split, files)
            for split, (images, labels, files) in splits.items()}  # fmt: skip
    padding = min(sets["train"].images.shape[-2:]) // 8  # the 4 pixels that are common for CIFAR's 32
    return OriginalSplits(sets["train"], sets["test"], crop_padding=padding, flip=True, val=sets.get("val"),
                          unlabelled=() if further is None else (further[0],),
                          pool=None if further is None else further[2], left_out=left_out)  # fmt: skip


class NoFiles(RelgraphError):
    """Images that are to be streamed, and come from no files."""


def refuse_stream(name: str, mode: str) -> None:
    """Raise NoFiles if images of one array are to be streamed."""
    if mode == "stream":
        raise NoFiles(f"{name} is published as one array: expected to hold it in memory, got mode stream")


def resize(original: OriginalSplits, size: ImageSize | None) -> OriginalSplits:
    """Return original splits that lie in memory with images, and label maps, of another size; `None` keeps theirs.

    They are resized until they just cover it, and their centre is cropped, as images of files are.

    Raises:
        RelgraphError: if they need too much memory.
    """
    if size is None:
        return original
    _, channels, side, _ = original.train.pixels.shape
    unlabelled = sum(map(len, original.unlabelled))
    check_memory(len(original.train) + len(original.test) + unlabelled, channels, *pair(size))
    train, test = (replace(split, images=resized(split.pixels, size), maps=split.maps and split.maps.resized(size))
                   for split in (original.train, original.test))  # fmt: skip
    return replace(original, train=train, test=test, crop_padding=round(original.crop_padding * min(pair(size)) / side))


def resized(images: Tensor, size: ImageSize) -> Tensor:
    """Return uint8 images `(N, C, H, W)` as `(N, C, *size)`: resized to cover it (bicubic, antialiased), the centre."""
    found = images.new_empty(*images.shape[:2], *pair(size))
    resize_into(images, found)
    return found


def resize_into(images: Tensor, slots: Tensor) -> None:
    """Write uint8 images `(N, C, H, W)` into `slots` `(N, C, h, w)`, resized and cropped as those of `resized`.

    Some at a time: they may come from a file, and what is cropped can be much larger than what is left.
    """
    height, width = images.shape[-2:]
    size = (slots.shape[-2], slots.shape[-1])
    covering = covering_size((height, width), size)
    kept = centre(covering, size)
    for slot, part in zip(torch.split(slots, RESIZED_AT_ONCE), torch.split(images, RESIZED_AT_ONCE), strict=True):
        whole = part if covering == (height, width) else _interpolated(part, covering)
        slot.copy_(whole[..., *kept])


def _interpolated(images: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(images, size=size, mode="bicubic", antialias=True)


CIFAR10_NORMALISATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_NORMALISATION = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
STL10_SIZE = 2_640_397_119  # bytes
