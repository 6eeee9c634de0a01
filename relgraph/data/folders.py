"""Folders of images, in memory or listed to be streamed.

Labelled ones are `PATH/train/CLASS/*.png` with `PATH/val` or `PATH/test`; a `PATH` without these three holds images
without labels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relgraph.data.decoding import BadImage
from relgraph.data.images import ImageFiles, image_files, names_in_one
from relgraph.data.listing import SUFFIXES, LeftOut, class_folders, find_images
from relgraph.errors import RelgraphError

MEMORY_LIMIT = 8 * 2**30  # bytes: beyond that, images in memory stop being a good idea on common machines

Listing = dict[str, NDArray[np.bytes_]]  # the image files of each class, as paths within the folder of the classes
Listings = dict[str, tuple[Path, Listing]]  # of each split, train first
Splits = dict[str, tuple[Tensor | ImageFiles, Tensor]]  # images (N, 3, H, W) and labels (N,)


def read_folder(
    path: Path, image_size: int | None, mode: str = "auto", left_out: LeftOut | None = None
) -> tuple[tuple[str, ...], Splits]:
    """Return the classes and, for each split, its images `(N, 3, H, W)` uint8 and labels `(N,)`.

    The splits are `train`, `val` and `test`; a folder with only one of the last two has `train` and `test`. A folder
    with none of the three holds images without labels: all that are in it, at any depth, hidden ones left out, are
    `train` with the label -1, `test` is empty, and there are no classes, whatever the folders in it are called.

    With an `image_size` the shorter side is resized to it (bicubic, antialiased) and the centre is cropped; without one
    all images must have the same size. The `mode` memory decodes all images now, stream leaves them in their files, and
    auto does that only where they need more than 8 GiB.

    What is an image is told by `listing`, and how it is decoded by `decoding.read_image`. What is left out of the
    folder is added to `left_out`, which also says whether unreadable images are.

    Raises:
        RelgraphError: if a folder or a class is missing, there is no image at all, an image that is decoded is
            unreadable or of another size, or images for the memory need too much of it.
    """
    left_out = LeftOut() if left_out is None else left_out
    if not path.is_dir():
        raise RelgraphError(f"{path}: no such folder")
    there = [split for split in ("train", "val", "test") if (path / split).is_dir()]
    if not there:
        (names,) = find_images(path, [(path, "")], left_out)
        if not names:
            raise RelgraphError(
                f"{path}: expected train/CLASS/image.png with val/ or test/ beside train/, or images without labels at "
                f"any depth, found no image ({_looked_for(left_out)})"
            )
        unlabelled = {"": names_in_one(names)}
        splits = read_listings({"train": (path, unlabelled), "test": (path, {})}, image_size, mode, left_out)
        return (), {split: (images, torch.full_like(labels, -1)) for split, (images, labels) in splits.items()}
    if there[0] != "train":
        raise RelgraphError(f"{path}: expected a folder train/ in it, found none")
    if there == ["train"]:
        raise RelgraphError(f"{path}: expected a folder val/ or test/ beside train/, found neither")
    folders = zip(("train", "test") if len(there) == 2 else there, there, strict=True)
    listings = _list_splits(path, {split: path / folder for split, folder in folders}, left_out)
    return _common_classes(path, listings), read_listings(listings, image_size, mode, left_out)


def read_listings(listings: Listings, image_size: int | None, mode: str, left_out: LeftOut | None = None) -> Splits:
    """Return the images of each split and their labels, which number its classes in their order.

    Image size and mode are those of `read_folder`; at most the first training image is opened to learn their size. If
    `left_out` says so, images that cannot be read are added to it; to find them, streamed ones are decoded once.

    Raises:
        RelgraphError: if an image that is decoded is unreadable or of another size, images for the memory need too much
            of it, or no image of a class can be read.
    """
    left_out = LeftOut() if left_out is None else left_out
    splits: dict[str, tuple[ImageFiles, Tensor]] = {}
    size = None
    for split, (folder, listing) in listings.items():
        names = np.concatenate([np.empty(0, dtype=np.bytes_), *listing.values()])
        counts = torch.tensor([len(names) for names in listing.values()], dtype=torch.int64)
        files = image_files(folder, names, image_size, size, skip=left_out.skip)
        splits[split], size = (files, torch.arange(len(listing)).repeat_interleave(counts)), files.size
    total, shape = sum(len(files) for files, _ in splits.values()), splits["train"][0].shape[1:]
    streamed = mode == "stream" or (mode == "auto" and total * shape.numel() > MEMORY_LIMIT)
    if not streamed:
        check_memory(total, *shape)
    return {
        split: _open(f"decode {split}", files, labels, tuple(listings[split][1]), streamed, left_out)
        for split, (files, labels) in splits.items()
    }


def _open(
    progress: str, files: ImageFiles, labels: Tensor, classes: tuple[str, ...], streamed: bool, left_out: LeftOut
) -> tuple[Tensor | ImageFiles, Tensor]:
    """Return the images of a split, in memory or streamed, and their labels, without what is to be skipped."""
    if streamed and not left_out.skip:
        return files, labels
    try:
        if not streamed:
            return files.load(progress), labels
    except BadImage:
        if not left_out.skip:
            raise
    faults = files.faults(f"check {progress.removeprefix('decode ')}")
    left_out.skipped.update({str(fault.file): fault.reason for fault in faults.values()})
    kept = torch.ones(len(files), dtype=torch.bool)
    kept[list(faults)] = False
    for label in sorted(set(labels.tolist()) - set(labels[kept].tolist())):
        first = next(faults[number] for number in (labels == label).nonzero().flatten().tolist())
        owner = f" of class {classes[label]!r}" if classes[label] else ""
        raise RelgraphError(f"none of the images{owner} can be read, the first is {first}")
    files, labels = files[kept], labels[kept]
    return files if streamed else files.load(progress), labels


def list_images(folder: Path) -> Listing:
    """Return the image files of every class, a folder in `folder`, as paths within it; both in alphabetical order.

    Hidden folders and files do not count; files deeper in a class folder do.

    Raises:
        RelgraphError: if there are fewer than two classes, or a class has no images.
    """
    return _list_splits(folder, {"train": folder}, LeftOut())["train"][1]


def _list_splits(root: Path, folders: Mapping[str, Path], left_out: LeftOut) -> Listings:
    """Return the image files of every class of each split, whose folders are below `root`."""
    classes = {split: class_folders(folder, left_out) for split, folder in folders.items()}
    places = [(folders[split], name) for split, found in classes.items() for names in found.values() for name in names]
    found = dict(zip(places, find_images(root, places, left_out), strict=True))
    listings: Listings = {}
    for split, folder in folders.items():
        listing = {}
        for title, names in classes[split].items():
            files = [file for name in names for file in found[folder, name]]
            if not files:
                raise RelgraphError(f"{folder / names[0]}: no images in this class folder ({_looked_for(left_out)})")
            listing[title] = names_in_one(files)
        listings[split] = folder, listing
    return listings


def _looked_for(left_out: LeftOut) -> str:
    counted = left_out.counted()
    return f"looked for {', '.join(SUFFIXES)}" + (f"; left out {counted}" if counted else "")


def _common_classes(path: Path, listings: Listings) -> tuple[str, ...]:
    expected = set(listings["train"][1])
    for split, (_, listing) in listings.items():
        other = {"missing": sorted(expected - set(listing)), "not in train/": sorted(set(listing) - expected)}
        parts = [f"{word} {', '.join(names[:5])}{', ...' * (len(names) > 5)}" for word, names in other.items() if names]
        if parts:
            raise RelgraphError(f"{path}: the classes of the {split} images differ from train/: {'; '.join(parts)}")
    return tuple(listings["train"][1])


def list_tiny_imagenet(folder: Path) -> tuple[tuple[str, ...], Listings]:
    """Return the names of Tiny-ImageNet's classes, or of a part of them, and its images in its own layout.

    `wnids.txt` lists the classes by their WordNet numbers, which order them, and `words.txt` names them; images are in
    `train/WNID/images/*.JPEG` and `val/images/*.JPEG`, the latter with their classes in `val/val_annotations.txt`. The
    labels of `test/` were never published, so that `val` is the test split.

    Raises:
        RelgraphError: if files are missing or disagree with each other; no image is read.
    """
    train = list_images(folder / "train")
    wnids = sorted(_lines(folder / "wnids.txt"))
    _check_listed(wnids, list(train), f"{folder / 'train'}: expected a folder for each class of wnids.txt")
    least, most = (pick(train, key=lambda wnid: len(train[wnid])) for pick in (min, max))
    if len(train[least]) < len(train[most]):  # published with 500 each: a copy that broke off has fewer
        found = f"found {len(train[most])} in {most} and {len(train[least])} in {least}"
        raise RelgraphError(f"{folder / 'train'}: expected as many images in every class, {found}")
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    for wnid in wnids:
        if wnid not in words:
            raise RelgraphError(f"{folder / 'words.txt'}: expected a name for {wnid}, found none")
    names = [words[wnid].split(",")[0].strip() for wnid in wnids]
    # The first synonym of every class, with the WordNet number behind it where two classes share it.
    classes = tuple(n if names.count(n) == 1 else f"{n} ({wnid})" for n, wnid in zip(names, wnids, strict=True))
    return classes, {"train": (folder / "train", train), "test": (folder / "val" / "images", _list_val(folder, wnids))}


def _list_val(folder: Path, wnids: Sequence[str]) -> Listing:
    """Return the validation images of Tiny-ImageNet by their annotated classes."""
    annotations, found = folder / "val" / "val_annotations.txt", {wnid: list[str]() for wnid in wnids}
    for number, line in enumerate(_lines(annotations), start=1):
        name, wnid, *_ = [*line.split("\t"), ""]  # what follows is a bounding box
        if wnid not in found:
            raise RelgraphError(f"{annotations}, line {number}: expected an image and a class, found {line[:60]!r}")
        found[wnid].append(name)
    images, named = folder / "val" / "images", [name for names in found.values() for name in names]
    (there,) = find_images(images, [(images, "")], LeftOut())
    _check_listed(named, there, f"{annotations}: expected a line for each file of {images}")
    return {wnid: names_in_one(names) for wnid, names in found.items()}


def _check_listed(listed: Sequence[str], there: Sequence[str], expected: str) -> None:
    """Raise RelgraphError unless a list names once what is there, and nothing else."""
    counts, found = Counter(listed), Counter(there)
    for name in sorted(counts | found):
        if counts[name] != found[name]:
            raise RelgraphError(f"{expected}, found {name} {counts[name]} times in the list and {found[name]} there")


def _lines(file: Path) -> list[str]:
    """Return the lines of a list of Tiny-ImageNet that are not empty."""
    try:
        return list(filter(None, file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not text")
        raise RelgraphError(f"{file}: expected a list of Tiny-ImageNet ({reason})") from error


def check_memory(images: int, channels: int, height: int, width: int) -> None:
    """Refuse images that need more than 8 GiB as uint8.

    Raises:
        RelgraphError: if they do.
    """
    if (needed := images * channels * height * width) > MEMORY_LIMIT:
        told = f"{images} images of {channels} x {height} x {width} need {needed / 2**30:.1f} GiB of memory"
        hint = "choose a smaller --image-size, or stream a folder with --images stream"
        raise RelgraphError(f"{told}, expected at most {MEMORY_LIMIT / 2**30:.0f}: {hint}")
