"""Folders and tables of images with a label for each pixel, in files beside them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from relgraph.data.decoding import ImageSize
from relgraph.data.folders import Listed, looked_for
from relgraph.data.images import SPLITS, ImageSet, names_in_one
from relgraph.data.label_files import MOST, LabelFiles, meanings
from relgraph.data.label_maps import IGNORED, LabelMaps
from relgraph.data.listing import LeftOut, find_images, is_image
from relgraph.data.sources import OriginalSplits, read_files
from relgraph.data.table import Row, by_split, find_file, has_masks, list_rows, text_of
from relgraph.errors import RelgraphError

SUFFIX = ".png"  # of labels: what JPEG changes a little is another class
CLASSES = "classes.txt"  # names of the classes, one a line


@dataclass(frozen=True, eq=False)
class PixelFiles:
    """The image files of each split and those of their labels.

    Attributes:
        images: Of each split, train first, with a test split that may be empty; a label is 0 where there is a file of
            labels, else -1.
        labels: The paths of these, `(N,)` for each split, empty where there is none.
        classes: Names of the classes; `None` numbers them by what the labels hold.
        meaning: The class of each number in a label, `(256,)`, 255 for none.
    """

    images: dict[str, Listed]
    labels: dict[str, NDArray[np.bytes_]]
    classes: tuple[str, ...] | None
    meaning: NDArray[np.uint8]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The number of each class in a label."""
        return tuple(str(number) for number, label in enumerate(self.meaning.tolist()) if label != IGNORED)

    @classmethod
    def of(
        cls, folder: Path, pairs: Mapping[str, Sequence[tuple[str, str]]], classes: tuple[str, ...] | None,
        meaning: NDArray[np.uint8],
    ) -> "PixelFiles":  # fmt: skip
        """Return the files of pairs of an image within a folder and the path of its label, "" for none."""
        images, labels = {}, {}
        for split in SPLITS:
            if split in pairs or split == "test":
                names, paths = zip(*pairs[split], strict=True) if pairs.get(split) else ((), ())
                known = torch.tensor([0 if path else -1 for path in paths], dtype=torch.int64)
                images[split], labels[split] = Listed(folder, names_in_one(names), known), names_in_one(paths)
        return cls(images, labels, classes, meaning)


def read_pixels(
    files: PixelFiles, image_size: ImageSize | None, mode: str, left_out: LeftOut, pool: Path | None = None
) -> OriginalSplits:
    """Return the original splits with their label maps, which are decoded now; the pool is that of `read_files`.

    Raises:
        RelgraphError: as `read_files` and `LabelFiles.load` do, or if there are fewer than two classes, or labels of
            training images have fewer.
    """
    original = read_files(("with labels",), files.images, image_size, mode, left_out, pool)
    known = MOST if files.classes is None else len(files.classes)
    sets = {found.split: found for found in (original.train, original.val, original.test) if found is not None}
    decoded = {split: _maps(found, files, known) for split, found in sets.items()}
    maps = {split: found for split, (found, _) in decoded.items()}
    present = torch.from_numpy(np.stack([found for _, found in decoded.values()]))
    there = present[:, :IGNORED]
    count = int(there.any(0).nonzero().max()) + 1 if there.any() else 0
    classes = files.numbers[:count] if files.classes is None else files.classes
    taught = int(there[0].sum())
    if len(classes) < 2 or (taught < 2 and bool(present[0].any())):
        beside = " beside 255 and numbers of --ignore, which stand for no class: save masks of 0 and 255 as 0 and 1"
        told = f"expected labels of at least 2 classes for training, found {taught}{beside * bool(present[0, IGNORED])}"
        raise RelgraphError(f"{files.images['train'].folder}: {told}")
    if bool(present[-1].any()) and not there[-1].any():
        left_out.notes.append("no pixel of a test image has a class")
    absent = [name for name, found in zip(classes, there[0].tolist(), strict=False) if not found]
    if absent:
        word = f"class {absent[0]}" if len(absent) == 1 else f"{len(absent)} classes: {', '.join(absent[:5])}"
        told = f"no training image has the {word}{', ...' * (len(absent) > 5)}"
        # A number far above the others is often one for pixels that are to be ignored.
        high = f": give --ignore {classes[-1]} if that stands for no class" if len(absent) > taught else ""
        left_out.notes.append(told + high * (files.classes is None))
    sets = {split: replace(found, classes=classes, maps=maps[split]) for split, found in sets.items()}
    return replace(original, train=sets["train"], test=sets["test"], val=sets.get("val"))


def _maps(images: ImageSet, files: PixelFiles, classes: int) -> tuple[LabelMaps, NDArray[np.bool_]]:
    """Return the label maps of a split's images, of which some may have been left out, and which classes they have."""
    assert images.files is not None  # it was read from files
    of = dict(zip(files.images[images.split].names.tolist(), files.labels[images.split].tolist(), strict=True))
    known = images.labels >= 0
    labelled = images.files[known]
    found = LabelFiles(labelled, np.array([of[name] for name in labelled.names.tolist()], np.bytes_), files.meaning,
                       classes)  # fmt: skip
    loaded, present = found.load(f"decode labels of {images.split}")
    return LabelMaps.of(loaded, found, images.labels), present


def list_pixel_folder(path: Path, left_out: LeftOut, ignore: tuple[int, ...]) -> PixelFiles | None:
    """Return the files of a folder of images with labels of pixels, `None` of another folder.

    It holds `images/SPLIT` and `labels/SPLIT`, or SegNet's `SPLIT` and `SPLITannot`, where SPLIT is train, val and
    test; or `images` and `labels` without splits. A label is a PNG with the name of its image. `classes.txt` names the
    classes, one a line. A split without its folder of labels is left out, and `val` alone is the test split.

    Raises:
        RelgraphError: if training images, their labels, or one label of an image are missing, or two images have one.
    """
    places = _places(path)
    if not places:
        return None
    found = [split for split, (images, _) in places.items() if images.is_dir()]
    for split in [split for split in found if not places[split][1].is_dir()]:
        images, labels = places[split]
        if split == "train":
            raise RelgraphError(f"{labels}: expected a folder with the labels of {images}, found none")
        left_out.notes.append(f"left out {images}, which has no {labels}")
        found.remove(split)
    if "train" not in found:
        raise RelgraphError(f"{places['train'][0]}: expected a folder of training images, found none")
    listed = find_images(path, [(places[split][0], "") for split in found], left_out)
    pairs = {}
    for split, names in zip(found, listed, strict=True):
        pairs[split] = _paired(path, *places[split], names, left_out)
    if "test" not in pairs and "val" in pairs:
        pairs["test"] = pairs.pop("val")
    return PixelFiles.of(path, pairs, class_names(path, ignore), meanings(ignore))


def _places(path: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of labels that splits have in the layout of a folder; {} if it is another."""
    if any((path / f"{split}annot").is_dir() for split in SPLITS):
        return {split: (path / split, path / f"{split}annot") for split in SPLITS}
    images, labels = path / "images", path / "labels"
    forgotten = (path / CLASSES).is_file() and not labels.is_dir()
    if not images.is_dir() or not (forgotten or any(is_image(name) for *_, names in os.walk(labels) for name in names)):
        return {}
    if any((images / split).is_dir() for split in SPLITS):
        return {split: (images / split, labels / split) for split in SPLITS}
    return {"train": (images, labels)}


def _paired(path: Path, images: Path, labels: Path, names: Sequence[str], left_out: LeftOut) -> list[tuple[str, str]]:
    """Return each image of a split within the folder `path`, and the file of its label.

    Raises:
        RelgraphError: if there is none, an image has no label, or two have the same.
    """
    if not names:
        raise RelgraphError(f"{images}: expected images, found none ({looked_for(left_out)})")
    of = dict[str, str]()
    for name in names:
        label = _label(images, labels, name)
        if label in of:
            raise RelgraphError(f"{label}: expected the label of one image, found {of[label]} and {name} in {images}")
        of[label] = name
    further = [file for file in _images(labels) if file.lower().endswith(SUFFIX) and file not in of]
    if further:
        others = (
            f"{len(further)} labels without an image in {images}" if len(further) > 1 else "a label without an image"
        )
        left_out.notes.append(f"left out {others}: {further[0]}{', ...' * (len(further) > 1)}")
    return [(os.path.relpath(images / name, path), label) for label, name in of.items()]


def _images(folder: Path) -> list[str]:
    """Return the paths of all image files of a folder, at any depth, in order."""
    return sorted(os.path.join(inner, name) for inner, _, names in os.walk(folder) for name in names if is_image(name))


def _label(images: Path, labels: Path, name: str) -> str:
    stem = os.path.join(labels, os.path.splitext(name)[0])
    for suffix in (SUFFIX, SUFFIX.upper()):
        if os.path.isfile(stem + suffix):
            return stem + suffix
    told = f"{stem}{SUFFIX}: expected the label of {images / name}, a PNG of its name, found"
    near = [file for file in _images(Path(stem).parent) if file.startswith(stem)]
    if near:
        advice = "save labels as PNG files with the names of their images, or name them in the column mask of a table"
        raise RelgraphError(f"{told} {near[0]}: {advice}")
    advice = "put images without labels in a folder of their own, and give it as --unlabelled"
    raise RelgraphError(f"{told} none: {advice}")


def list_pixel_table(file: Path, left_out: LeftOut, ignore: tuple[int, ...]) -> PixelFiles | None:
    """Return the files of a table with the column mask, the path of a label of pixels; `None` of another table.

    It is empty where a training image has none. `classes.txt` in the folder of the table names the classes.

    Raises:
        RelgraphError: as `table.list_table` does, or if a file of labels is missing.
    """
    if not has_masks(file):
        return None
    pairs = {split: [(row.path, _mask(file, row)) for row in rows]
             for split, rows in by_split(list_rows(file, left_out)).items()}  # fmt: skip
    return PixelFiles.of(file.parent, pairs, class_names(file.parent, ignore), meanings(ignore))


def _mask(file: Path, row: Row) -> str:
    where = f"{file}, line {row.line}"
    if not row.label:
        if row.split != "train":
            raise RelgraphError(f"{where}: a {row.split} image: expected a label, found none")
        return ""
    path, status = find_file(file.parent, row.label)
    if status is None:
        raise RelgraphError(f"{where}: expected the label of {row.path}, found no file {file.parent / row.label}")
    return os.path.join(file.parent, path)


def class_names(folder: Path, ignored: tuple[int, ...]) -> tuple[str, ...] | None:
    """Return the lines of `classes.txt` in a folder, but those of numbers that are ignored; `None` without it.

    Raises:
        RelgraphError: if it cannot be read, names a class twice, or has fewer than 2 or more than 255 lines.
    """
    file = folder / CLASSES
    if not file.is_file():
        return None
    names = [line.strip() for line in text_of(file).splitlines() if line.strip()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not 2 <= len(names) <= MOST:
        told = f"{len(names)} lines" if twice is None else f"{twice!r} twice"
        raise RelgraphError(f"{file}: expected the names of 2 to {MOST} classes, one a line, found {told}")
    return without_ignored(names, ignored)


def without_ignored(names: Sequence[str], ignored: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the classes that `meanings` leaves.

    >>> without_ignored(("void", "road", "sky"), (0, 11))
    ('road', 'sky')
    """
    return tuple(name for number, name in enumerate(names) if number not in ignored)
