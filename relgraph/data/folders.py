"""Folders of images, in memory or listed to be streamed.

Labelled ones are `PATH/train/CLASS/*.png` with `PATH/val` or `PATH/test`; a `PATH` without these three holds images
without labels, or is read as `PATH/CLASS/*.png`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relgraph.data.decoding import BadImage, ImageSize
from relgraph.data.images import SPLITS as SPLITS
from relgraph.data.images import ImageFiles, image_files, names_in_one
from relgraph.data.listing import SUFFIXES, Inode, LeftOut, class_folders, find_images, inode
from relgraph.errors import RelgraphError
from relgraph.files import reading

MEMORY_LIMIT = 8 * 2**30  # bytes: beyond that, images in memory stop being a good idea on common machines

POOL = "unlabelled"  # the name of a pool among the splits

Listing = dict[str, NDArray[np.bytes_]]  # the image files of each class, as paths within the folder of the classes
Splits = dict[str, tuple[Tensor | ImageFiles, Tensor, ImageFiles]]  # images (N, 3, H, W), labels (N,), their files


class Listed(NamedTuple):
    """The image files of a split: their paths `(N,)` within a folder, and labels `(N,)`, -1 where there is none."""

    folder: Path
    names: NDArray[np.bytes_]
    labels: Tensor

    @classmethod
    def by_class(cls, folder: Path, listing: Listing) -> "Listed":
        """Return the images of each class in the order of the classes, which the labels number."""
        counts = torch.tensor([len(names) for names in listing.values()], dtype=torch.int64)
        names = np.concatenate([np.empty(0, dtype=np.bytes_), *listing.values()])
        return cls(folder, names, torch.arange(len(listing)).repeat_interleave(counts))

    @classmethod
    def unlabelled(cls, folder: Path, names: Sequence[str] = ()) -> "Listed":
        """Return images that have no label."""
        return cls(folder, names_in_one(names), torch.full((len(names),), -1))


Listings = dict[str, Listed]  # of each split, train first


def _here(path: Path) -> str:
    return "" if path.is_absolute() else f" in {Path.cwd()}"


def read_folder(
    path: Path, image_size: ImageSize | None, mode: str = "auto", left_out: LeftOut | None = None
) -> tuple[tuple[str, ...], Splits]:
    """Return the classes and, for each split, its images `(N, 3, H, W)` uint8, labels `(N,)` and files.

    The splits are `train`, `val` and `test`; a folder with only one of the last two has `train` and `test`. A folder
    with none of the three holds images without labels: all that are in it, at any depth, hidden ones left out, are
    `train` with the label -1, `test` is empty, and there are no classes, whatever the folders in it are called.

    With an `image_size` images are resized to cover it (bicubic, antialiased) and the centre is cropped; without one
    all images must have the same size. The `mode` memory decodes all images now, stream leaves them in their files, and
    auto does that only where they need more than 8 GiB.

    What is an image is told by `listing`, and how it is decoded by `decoding.read_image`. What is left out of the
    folder is added to `left_out`, which also says whether unreadable images are.

    Raises:
        RelgraphError: if a folder or a class is missing, there is no image at all, an image that is decoded is
            unreadable or of another size, or images for the memory need too much of it.
    """
    left_out = LeftOut() if left_out is None else left_out
    classes, listings = list_folder(path, left_out)
    return classes, read_listings(classes, listings, image_size, mode, left_out)


def list_folder(path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
    """Return the classes and the image files of each split of a folder that `read_folder` reads.

    A folder of images without labels whose folders could be classes has a note in `left_out` that says how to use them.

    Raises:
        RelgraphError: if a folder or a class is missing, or there is no image at all.
    """
    there = _splits_in(path)
    if not there:
        names = _all_images(path, left_out, "train/CLASS/image.png with val/ or test/ beside train/, or images without "
                                            "labels at any depth")  # fmt: skip
        left_out.notes.extend(_class_like(path, names))
        return (), {"train": Listed.unlabelled(path, names), "test": Listed.unlabelled(path)}
    if there[0] != "train":
        raise RelgraphError(f"{path}: expected a folder train/ in it, found none")
    if there == ["train"]:
        raise RelgraphError(f"{path}: expected a folder val/ or test/ beside train/, found neither")
    folders = zip(("train", "test") if len(there) == 2 else there, there, strict=True)
    listings = _list_splits(path, {split: path / folder for split, folder in folders}, left_out)
    return _common_classes(path, {split: listing for split, (_, listing) in listings.items()}), {
        split: Listed.by_class(*found) for split, found in listings.items()
    }


def _splits_in(path: Path) -> list[str]:
    if not path.is_dir():
        raise RelgraphError(f"{path}: no such folder{_here(path)}")
    return [split for split in SPLITS if (path / split).is_dir()]


def _all_images(path: Path, left_out: LeftOut, expected: str, taken: Iterable[Inode] = ()) -> list[str]:
    """Return all images of a folder at any depth, of which there must be one."""
    (names,) = find_images(path, [(path, "")], left_out, frozenset(taken))
    if not names:
        raise RelgraphError(f"{path}: expected {expected}, found no image ({looked_for(left_out)})")
    return names


def _class_like(path: Path, names: Sequence[str]) -> list[str]:
    """Return what a user should know of a folder of images whose folders could be classes."""
    found = list(dict.fromkeys(name.split(os.sep)[0] for name in names if os.sep in name))
    if len(found) < 2:
        return []
    shown = f"{', '.join(found[:3])}{', ...' * (len(found) > 3)}"
    return [f"read without labels; if its {len(found):,} folders ({shown}) are classes, give classes:{path}"]


def list_classes(path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
    """Return the classes, each a folder in `path`, and their image files as `train`; `test` is empty.

    Raises:
        RelgraphError: if the folder is missing or holds splits, there are fewer than two classes, or one has no images.
    """
    there = _splits_in(path)
    if "train" in there and len(there) > 1:
        told = f"expected one folder for each class, found splits ({', '.join(there)})"
        raise RelgraphError(f"{path}: {told}: give folder:{path}")
    listing = _list_splits(path, {"train": path}, left_out)["train"][1]
    return tuple(listing), {"train": Listed.by_class(path, listing), "test": Listed.unlabelled(path)}


def list_pool(path: Path, listings: Listings, left_out: LeftOut) -> Listed:
    """Return all image files of a folder, at any depth, but for those that a data set has already.

    Raises:
        RelgraphError: if the folder is missing, there is no such image, or an image of the data set is gone.
    """
    if not path.is_dir():
        raise RelgraphError(f"{path}: no such folder{_here(path)}")
    files = (os.path.join(listed.folder, os.fsdecode(name)) for listed in listings.values() for name in listed.names)
    with reading(path):
        taken = [inode(file) for file in files]
    return Listed.unlabelled(path, _all_images(path, left_out, "images without labels at any depth", taken))


def read_pool(path: Path, image_size: ImageSize | None, size: tuple[int, int], left_out: LeftOut) -> Tensor:
    """Return all images of a folder `(N, 3, H, W)` uint8, for a data set in memory whose images have this size.

    Raises:
        RelgraphError: if there is none, one is unreadable or of another size, or they need too much memory.
    """
    listed = list_pool(path, {}, left_out)
    files = image_files(listed.folder, listed.names, image_size, size)
    check_memory(len(files), *files.shape[1:])
    images, *_ = _open(f"decode {POOL}", files, listed.labels, (), False, left_out)
    assert isinstance(images, Tensor)
    return images


def read_listings(
    classes: tuple[str, ...],
    listings: Listings,
    image_size: ImageSize | None,
    mode: str,
    left_out: LeftOut | None = None,
) -> Splits:
    """Return the images of each split, their labels and their files.

    Image size and mode are those of `read_folder`; at most the first training image is opened to learn their size. If
    `left_out` says so, images that cannot be read are added to it; to find them, streamed ones are decoded once.

    Raises:
        RelgraphError: if an image that is decoded is unreadable or of another size, images for the memory need too much
            of it, or no image of a class can be read.
    """
    left_out = LeftOut() if left_out is None else left_out
    splits: dict[str, tuple[ImageFiles, Tensor]] = {}
    size = None
    for split, (folder, names, labels) in listings.items():
        files = image_files(folder, names, image_size, size, skip=left_out.skip)
        splits[split], size = (files, labels), files.size
    total, shape = sum(len(files) for files, _ in splits.values()), splits["train"][0].shape[1:]
    streamed = mode == "stream" or (mode == "auto" and total * shape.numel() > MEMORY_LIMIT)
    if not streamed:
        check_memory(total, *shape)
    return {
        split: _open(f"decode {split}", files, labels, classes, streamed, left_out)
        for split, (files, labels) in splits.items()
    }


def _open(
    progress: str, files: ImageFiles, labels: Tensor, classes: tuple[str, ...], streamed: bool, left_out: LeftOut
) -> tuple[Tensor | ImageFiles, Tensor, ImageFiles]:
    """Return the images of a split, in memory or streamed, labels and files, without what is to be skipped."""
    if streamed and not left_out.skip:
        return files, labels, files
    try:
        if not streamed:
            return files.load(progress), labels, files
    except BadImage:
        if not left_out.skip:
            raise
    faults = files.faults(f"check {progress.removeprefix('decode ')}")
    left_out.skipped.update({str(fault.file): fault.reason for fault in faults.values()})
    kept = torch.ones(len(files), dtype=torch.bool)
    kept[list(faults)] = False
    for label in sorted(set(labels.tolist()) - set(labels[kept].tolist())):
        first = next(faults[number] for number in (labels == label).nonzero().flatten().tolist())
        owner = f" of class {classes[label]!r}" if label >= 0 else ""
        raise RelgraphError(f"none of the images{owner} can be read, the first is {first}")
    files, labels = files[kept], labels[kept]
    return files if streamed else files.load(progress), labels, files


def list_images(folder: Path) -> Listing:
    """Return the image files of every class, a folder in `folder`, as paths within it; both in alphabetical order.

    Hidden folders and files do not count; files deeper in a class folder do.

    Raises:
        RelgraphError: if there are fewer than two classes, or a class has no images.
    """
    return _list_splits(folder, {"train": folder}, LeftOut())["train"][1]


def _list_splits(root: Path, folders: Mapping[str, Path], left_out: LeftOut) -> dict[str, tuple[Path, Listing]]:
    """Return the image files of every class of each split, whose folders are below `root`."""
    classes = {split: class_folders(folder, left_out) for split, folder in folders.items()}
    places = [(folders[split], name) for split, found in classes.items() for names in found.values() for name in names]
    found = dict(zip(places, find_images(root, places, left_out), strict=True))
    listings = {}
    for split, folder in folders.items():
        listing: Listing = {}
        for title, names in classes[split].items():
            files = [file for name in names for file in found[folder, name]]
            if not files:
                raise RelgraphError(f"{folder / names[0]}: no images in this class folder ({looked_for(left_out)})")
            listing[title] = names_in_one(files)
        listings[split] = folder, listing
    return listings


def looked_for(left_out: LeftOut) -> str:
    """Return what was looked for, where no image was found."""
    counted = left_out.counted()
    return f"looked for {', '.join(SUFFIXES)}" + (f"; left out {counted}" if counted else "")


def _common_classes(path: Path, listings: Mapping[str, Listing]) -> tuple[str, ...]:
    expected = set(listings["train"])
    for split, listing in listings.items():
        other = {"missing": sorted(expected - set(listing)), "not in train/": sorted(set(listing) - expected)}
        parts = [f"{word} {', '.join(names[:5])}{', ...' * (len(names) > 5)}" for word, names in other.items() if names]
        if parts:
            raise RelgraphError(f"{path}: the classes of the {split} images differ from train/: {'; '.join(parts)}")
    return tuple(listings["train"])


def check_memory(images: int, channels: int, height: int, width: int) -> None:
    """Refuse images that need more than 8 GiB as uint8.

    Raises:
        RelgraphError: if they do.
    """
    if (needed := images * channels * height * width) > MEMORY_LIMIT:
        told = f"{images} images of {channels} x {height} x {width} need {needed / 2**30:.1f} GiB of memory"
        hint = "choose a smaller --image-size, or stream a folder with --images stream"
        raise RelgraphError(f"{told}, expected at most {MEMORY_LIMIT / 2**30:.0f}: {hint}")
