"""Image data sets, decoded once into uint8 tensors in memory, with a validation split and, if asked, few labels."""

import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from relgraph.data import BUILT_IN
from relgraph.data.folders import check_memory, read_folder
from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError, unknown

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training, validation and test images, mean and std per channel (0..1 scale), and the augmentation that suits."""

    name: str
    train: ImageSet
    val: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool


@dataclass(frozen=True, eq=False)
class _Source:
    """A data set as it was published; `normalisation` is (mean, std), None where nobody published them."""

    train: ImageSet
    test: ImageSet
    crop_padding: int
    flip: bool
    val: ImageSet | None = None
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def load(
    dataset: str, *, root: Path, image_size: int | None, val_fraction: float, labels_per_class: int | None, seed: int
) -> DataSet:
    """Load a data set by name: digits, cifar10, cifar100, stl10 or `folder:PATH`.

    Where the data set has no validation images of its own, a share `val_fraction` of every class of the training images
    becomes them, drawn by `seed`. With `labels_per_class` all but that many training labels per class, drawn by `seed`,
    become -1. A share of 0 leaves the validation split empty. `root` is where downloads are kept. With an `image_size`
    the images are resized to it (bicubic).

    Raises:
        RelgraphError: if the name is unknown, a number is out of range, the files are missing or wrong, or a class has
            too few images.

    >>> digits = load("digits", root=Path("data"), image_size=None, val_fraction=0.1, labels_per_class=None, seed=0)
    >>> digits.train.images.shape, len(digits.val), len(digits.test)
    (torch.Size([1299, 1, 8, 8]), 143, 355)
    """
    _check(image_size, val_fraction, labels_per_class)
    source = _read(dataset, root, image_size)
    generator = torch.Generator().manual_seed(seed)
    train, val = source.train, source.val
    if val is None and val_fraction == 0:
        val = replace(train.select(torch.arange(0)), split="val")
    elif val is None:
        train, val = _hold_out(train, val_fraction, generator)
    mean, std = source.normalisation or channel_statistics(train.images)
    if labels_per_class is not None:
        train = _keep_labels(train, labels_per_class, generator)
    return DataSet(dataset, train, val, source.test, mean, std, source.crop_padding, source.flip)


def _check(image_size: int | None, val_fraction: float, labels_per_class: int | None) -> None:
    if image_size is not None and image_size < 1:
        raise RelgraphError(f"the image size must be at least 1 pixel, got {image_size}")
    if not 0 <= val_fraction < 1:
        raise RelgraphError(f"the share of validation images must be at least 0 and below 1, got {val_fraction}")
    if labels_per_class is not None and labels_per_class < 1:
        raise RelgraphError(f"the labels per class must be at least 1, got {labels_per_class}")


def _read(dataset: str, root: Path, image_size: int | None) -> _Source:
    if dataset.startswith("folder:"):
        return _folder(Path(dataset.removeprefix("folder:")).expanduser(), image_size)
    readers: tuple[Callable[[Path], _Source], ...] = (_digits, _cifar10, _cifar100, _stl10)
    built_in = dict(zip(BUILT_IN, readers, strict=True))
    if dataset not in built_in:
        raise unknown("data set", dataset, [*built_in, "folder:PATH"])
    source = built_in[dataset](root)
    return source if image_size is None else _resize(source, image_size)


def _whole(images: Tensor, labels: Tensor, classes: tuple[str, ...], split: str) -> ImageSet:
    return ImageSet(images, labels, classes, split, torch.arange(len(images)))


def _folder(path: Path, image_size: int | None) -> _Source:
    classes, read = read_folder(path, image_size)
    splits = {split: _whole(images, labels, classes, split) for split, (images, labels) in read.items()}
    padding = min(splits["train"].images.shape[-2:]) // 8  # the 4 pixels that are common for CIFAR's 32
    return _Source(splits["train"], splits["test"], crop_padding=padding, flip=True, val=splits.get("val"))


def _digits(root: Path) -> _Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    classes = tuple(str(name) for name in data.target_names)
    # Every fifth image of a class is a test image: a split that no library's random numbers can change.
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(classes)):
        test[(labels == label).nonzero().flatten()[4::5]] = True
    return _Source(
        _whole(images[~test], labels[~test], classes, "train"),
        _whole(images[test], labels[test], classes, "test"),
        crop_padding=1,
        flip=False,
    )


def _cifar10(root: Path) -> _Source:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, "cifar10", root, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))


def _cifar100(root: Path) -> _Source:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, "cifar100", root, ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))


def _cifar(
    published: "type[CIFAR10]", name: str, root: Path, normalisation: tuple[tuple[float, ...], tuple[float, ...]]
) -> _Source:
    def read(split: str) -> ImageSet:
        data = published(root, train=split == "train", download=True)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return _whole(images, torch.tensor(data.targets), tuple(data.classes), split)

    with _download_errors(name, published.url, root):
        return _Source(read("train"), read("test"), crop_padding=4, flip=True, normalisation=normalisation)


def _stl10(root: Path) -> _Source:
    from torchvision.datasets import STL10

    def read(split: str) -> ImageSet:
        data = STL10(root, split=split, download=True)
        images, labels = torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels).long()
        return _whole(images, labels, tuple(data.classes), split)

    with _download_errors("stl10", STL10.url, root):
        return _Source(read("train"), read("test"), crop_padding=4, flip=True)


@contextmanager
def _download_errors(name: str, url: str, root: Path) -> Iterator[None]:
    """Turn what torchvision raises into one sentence, and let no silent connection hang for minutes."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte; torchvision has no option for it
    try:
        yield
    except (OSError, RuntimeError, EOFError, tarfile.TarError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise RelgraphError(f"{name} could not be downloaded ({reason}): fetch {url} and put it in {root}") from error
    finally:
        socket.setdefaulttimeout(patience)


def _resize(source: _Source, size: int) -> _Source:
    side = source.train.images.shape[-1]
    check_memory(len(source.train) + len(source.test), source.train.images.shape[1], size, size)
    train, test = (
        replace(
            split,
            images=functional.interpolate(split.images, size=(size, size), mode="bicubic", antialias=True),
        )
        for split in (source.train, source.test)
    )
    return replace(source, train=train, test=test, crop_padding=round(source.crop_padding * size / side))


def _hold_out(images: ImageSet, fraction: float, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """Return (training, validation) images: `fraction` of every class is for validation, at least one image."""
    held = torch.zeros(len(images), dtype=torch.bool)
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise RelgraphError(
                f"class {name!r} has {len(members)} training images, and {count} for validation leave none to train on"
            )
        held[_draw(members, count, generator)] = True
    return images.select(~held), replace(images.select(held), split="val")


def _keep_labels(images: ImageSet, count: int, generator: torch.Generator) -> ImageSet:
    """Return the images with the labels of `count` of them per class, and -1 for the others."""
    labels = torch.full_like(images.labels, -1)
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        if count > len(members):
            raise RelgraphError(
                f"class {name!r} has {len(members)} training images, fewer than the {count} labels per class asked for"
            )
        labels[_draw(members, count, generator)] = label
    return replace(images, labels=labels)


def _draw(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return members[torch.randperm(len(members), generator=generator)[:count]]


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images `(N, C, H, W)`, on the 0..1 scale.

    They come from the channel's histogram, so they are exact and need no float copy. A channel without contrast has the
    std of one grey level, 1/255: dividing by it stays finite.

    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        means.append(float(mean))
        stds.append(max(float((share * (levels - mean) ** 2).sum().sqrt()), 1 / 255))
    return tuple(means), tuple(stds)
