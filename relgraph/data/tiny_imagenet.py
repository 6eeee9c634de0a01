"""Tiny-ImageNet in its own layout, or a part of its classes.

`wnids.txt` lists the classes by their WordNet numbers and `words.txt` names them; images are in
`train/WNID/images/*.JPEG` and `val/images/*.JPEG`, the latter with their classes in `val/val_annotations.txt`. The
labels of `test/` were never published, so that `val` is the test split.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from relgraph.data.folders import check_memory, fits_memory, list_images
from relgraph.data.images import ImageFiles, ImageSet, image_files
from relgraph.data.published import OriginalSplits, original_split
from relgraph.errors import RelgraphError

SIDE = 64  # pixels

Labelled = tuple[list[str], list[int]]  # image files within a folder, and their labels


def read_tiny_imagenet(folder: Path, image_size: int | None, mode: str) -> OriginalSplits:
    """Return the training images and, as test images, those that were published as validation images.

    Classes are numbered in the order of their WordNet numbers, as torchvision's ImageFolder would. The `mode` is that
    of `read_folder`.

    Raises:
        RelgraphError: if files are missing, disagree with each other, or an image that is decoded is unreadable.
    """
    wnids = list_classes(folder)
    names = _class_names(folder, wnids)
    train, test = list_train(folder, wnids), list_val(folder, wnids)
    size = (SIDE, SIDE)
    files = {
        "train": (image_files(folder / "train", train[0], image_size, size), train[1]),
        "test": (image_files(folder / "val" / "images", test[0], image_size, size), test[1]),
    }
    total, shape = len(train[0]) + len(test[0]), files["train"][0].shape[1:]
    streamed = mode == "stream" or (mode == "auto" and not fits_memory(total, *shape))
    if not streamed:
        check_memory(total, *shape)

    def read(split: str) -> ImageSet:
        listed: ImageFiles = files[split][0]
        images = listed if streamed else listed.load(f"decode {split}")
        return original_split(images, torch.tensor(files[split][1]), names, split)

    return OriginalSplits(read("train"), read("test"), crop_padding=shape[-1] // 8, flip=True)


def check_tiny_imagenet(folder: Path) -> None:
    """Compare the lists of Tiny-ImageNet with the files that are there, without reading an image.

    Raises:
        RelgraphError: if they disagree.
    """
    wnids = list_classes(folder)
    _class_names(folder, wnids)
    list_train(folder, wnids)
    list_val(folder, wnids)


def list_classes(folder: Path) -> list[str]:
    """Return the WordNet numbers of `wnids.txt`, in alphabetical order.

    Raises:
        RelgraphError: if there is no such file, or a number stands in it twice.
    """
    wnids = [line.strip() for line in _lines(folder / "wnids.txt") if line.strip()]
    twice = [wnid for wnid, count in Counter(wnids).items() if count > 1]
    if twice or not wnids:
        raise RelgraphError(f"{folder / 'wnids.txt'}: expected every class once, found {(twice or ['none'])[0]}")
    return sorted(wnids)


def list_train(folder: Path, wnids: Sequence[str]) -> Labelled:
    """Return the training images, by class and name.

    Raises:
        RelgraphError: if the folders are not those of the classes, or a class has fewer images than another.
    """
    listing = list_images(folder / "train") if (folder / "train").is_dir() else {}
    missing, extra = sorted(set(wnids) - set(listing)), sorted(set(listing) - set(wnids))
    if missing or extra:
        found = f"{missing[0]} is missing" if missing else f"{extra[0]} is not in wnids.txt"
        raise RelgraphError(f"{folder / 'train'}: expected a folder for each class of wnids.txt, but {found}")
    most = max(wnids, key=lambda wnid: len(listing[wnid]))
    least = min(wnids, key=lambda wnid: len(listing[wnid]))
    if len(listing[least]) < len(listing[most]):  # published with 500 each: a copy that broke off has fewer
        raise RelgraphError(
            f"{folder / 'train'}: expected as many images in every class, found {len(listing[most])} in {most} and "
            f"{len(listing[least])} in {least}"
        )
    files = [os.fsdecode(file) for wnid in wnids for file in listing[wnid]]
    return files, [label for label, wnid in enumerate(wnids) for _ in listing[wnid]]


def list_val(folder: Path, wnids: Sequence[str]) -> Labelled:
    """Return the validation images, in the order of their annotations.

    Raises:
        RelgraphError: if an annotation is malformed, or names an unknown class or a missing image; or an image has
            none.
    """
    annotations, label_of = folder / "val" / "val_annotations.txt", {wnid: i for i, wnid in enumerate(wnids)}
    images = folder / "val" / "images"
    there = {file.name for file in images.iterdir() if file.suffix == ".JPEG"} if images.is_dir() else set()
    files, labels = [], []
    for number, line in enumerate(_lines(annotations), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]  # what follows is a bounding box
        if wnid not in label_of:
            raise RelgraphError(f"{annotations}, line {number}: expected an image and a class, found {line[:60]!r}")
        if name not in there:
            raise RelgraphError(f"{annotations}, line {number}: {images / name} is missing or named twice")
        there.remove(name)
        files.append(name)
        labels.append(label_of[wnid])
    if there:
        raise RelgraphError(f"{annotations}: expected every image of {images}, {sorted(there)[0]} has no class")
    return files, labels


def _class_names(folder: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return the first synonym of every class, with the WordNet number behind it where two classes share it."""
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    for wnid in wnids:
        if wnid not in words:
            raise RelgraphError(f"{folder / 'words.txt'}: expected a name for {wnid}, found none")
    names = [words[wnid].split(",")[0].strip() for wnid in wnids]
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise RelgraphError(f"{file}: expected a list of Tiny-ImageNet ({reason})") from error
