"""Folders of images, in memory or listed to be streamed.

Labelled ones are `PATH/train/CLASS/*.png` with `PATH/val` or `PATH/test`; a `PATH` without these three holds images
without labels.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relgraph.data.images import ImageFiles, image_files, names_in_one
from relgraph.errors import RelgraphError, unknown

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision
MEMORY_LIMIT = 8 * 2**30  # bytes: beyond that, images in memory stop being a good idea on common machines

MODES = ("auto", "memory", "stream")

Listing = dict[str, NDArray[np.bytes_]]  # the image files of each class, as paths within the folder of the classes
Split = tuple[Tensor | ImageFiles, Tensor]  # images (N, 3, H, W) and labels (N,)


def read_folder(path: Path, image_size: int | None, mode: str = "auto") -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the classes and, for each split, its images `(N, 3, H, W)` uint8 and labels `(N,)`.

    The splits are `train`, `val` and `test`; a folder with only one of the last two has `train` and `test`. A folder
    with none of the three holds images without labels: all that are in it, at any depth, hidden ones left out, are
    `train` with the label -1, `test` is empty, and there are no classes, whatever the folders in it are called.

    With an `image_size` the shorter side is resized to it (bicubic, antialiased) and the centre is cropped; without one
    all images must have the same size. The `mode` memory decodes all images now, stream leaves them in their files, and
    auto does that only where they need more than 8 GiB.

    Raises:
        RelgraphError: if a folder or a class is missing, there is no image at all, an image that is decoded is
            unreadable or of another size, or images for the memory need too much of it.
    """
    if mode not in MODES:
        raise unknown("way to hold images", mode, MODES)
    classes, splits = _list_splits(path, image_size)
    total, shape = sum(len(files) for files, _ in splits.values()), splits["train"][0].shape[1:]
    if mode == "stream" or (mode == "auto" and not fits_memory(total, *shape)):
        return classes, {split: (files, labels) for split, (files, labels) in splits.items()}
    check_memory(total, *shape)
    return classes, {split: (files.load(f"decode {split}"), labels) for split, (files, labels) in splits.items()}


def _list_splits(path: Path, image_size: int | None) -> tuple[tuple[str, ...], dict[str, tuple[ImageFiles, Tensor]]]:
    """Return the classes and, for each split, its files and labels; at most the first training image is opened."""
    folders = _find_splits(path)
    if not folders:
        return (), _list_unlabelled(path, image_size)
    listings = {split: list_images(folder) for split, folder in folders.items()}
    classes = _common_classes(path, listings)
    splits: dict[str, tuple[ImageFiles, Tensor]] = {}
    size = None
    for split, listing in listings.items():  # train comes first: its first image has the size of all
        files = image_files(folders[split], np.concatenate([listing[name] for name in classes]), image_size, size)
        size = files.size
        labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(listing[name]) for name in classes]))
        splits[split] = (files, labels)
    return classes, splits


def _list_unlabelled(path: Path, image_size: int | None) -> dict[str, tuple[ImageFiles, Tensor]]:
    """Return all images of a folder for training, without labels, and none to test with."""
    names = _list_files(path, "")
    if not names:
        raise RelgraphError(
            f"{path}: expected train/CLASS/image.png with val/ or test/ beside train/, or images without labels at any "
            f"depth, found no image (looked for {', '.join(SUFFIXES)})"
        )
    train = image_files(path, names, image_size)
    test = image_files(path, [], image_size, train.size)
    return {split: (files, torch.full((len(files),), -1)) for split, files in (("train", train), ("test", test))}


def _find_splits(path: Path) -> dict[str, Path]:
    """Return the folder of each split; none where neither train/, val/ nor test/ is there."""
    if not path.is_dir():
        raise RelgraphError(f"{path}: no such folder")
    train, val, test = (path / split for split in ("train", "val", "test"))
    if not any(split.is_dir() for split in (train, val, test)):
        return {}
    if not train.is_dir():
        raise RelgraphError(f"{path}: expected a folder train/ in it, found none")
    if val.is_dir() and test.is_dir():
        return {"train": train, "val": val, "test": test}
    if not val.is_dir() and not test.is_dir():
        raise RelgraphError(f"{path}: expected a folder val/ or test/ beside train/, found neither")
    return {"train": train, "test": test if test.is_dir() else val}


def list_images(folder: Path) -> Listing:
    """Return the image files of every class, a folder in `folder`, as paths within it; both in alphabetical order.

    Hidden folders and files do not count; files deeper in a class folder do.

    Raises:
        RelgraphError: if there are fewer than two classes, or a class has no images.
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        found = f"found {classes[0].name}" if classes else "found none"
        raise RelgraphError(f"{folder}: expected one folder for each of at least 2 classes, {found}")
    listing = {entry.name: names_in_one(_list_files(folder, entry.name)) for entry in classes}
    for name, files in listing.items():
        if len(files) == 0:
            raise RelgraphError(f"{folder / name}: no images in this class folder (looked for {', '.join(SUFFIXES)})")
    return listing


def _list_files(folder: Path, name: str) -> list[str]:
    """Return the image files at any depth of `folder / name`, as paths within `folder`, in alphabetical order."""
    # Strings rather than Paths, which are slow to make and to sort by the million.
    files: list[str] = []
    for parent, folders, names in os.walk(folder / name, followlinks=True):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]  # these alone are walked into
        inside = "" if parent == str(folder) else os.path.relpath(parent, folder)
        files += [os.path.join(inside, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    return sorted(files, key=lambda file: file.split(os.sep))


def _common_classes(path: Path, listings: dict[str, Listing]) -> tuple[str, ...]:
    expected = set(listings["train"])
    for split, listing in listings.items():
        missing, extra = sorted(expected - set(listing)), sorted(set(listing) - expected)
        if missing or extra:
            parts = [
                f"{word} {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
                for word, names in (("missing", missing), ("not in train/", extra))
                if names
            ]
            raise RelgraphError(f"{path}: the classes of the {split} images differ from train/: {'; '.join(parts)}")
    return tuple(listings["train"])


def fits_memory(images: int, channels: int, height: int, width: int) -> bool:
    """Return whether so many images need at most 8 GiB as uint8."""
    return images * channels * height * width <= MEMORY_LIMIT


def check_memory(images: int, channels: int, height: int, width: int) -> None:
    """Refuse images that need more than 8 GiB as uint8.

    Raises:
        RelgraphError: if they do.
    """
    if not fits_memory(images, channels, height, width):
        needed = images * channels * height * width / 2**30
        raise RelgraphError(
            f"{images} images of {channels} x {height} x {width} need {needed:.1f} GiB of memory, expected at most "
            f"{MEMORY_LIMIT / 2**30:.0f}: choose a smaller --image-size, or stream a folder with --images stream"
        )
