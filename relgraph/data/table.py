"""A table of images: a CSV file with the columns path, label or mask and, where splits are given, split."""

import csv
import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from stat import S_ISREG

import torch

from relgraph.data.folders import SPLITS, Listed, Listings
from relgraph.data.images import names_in_one
from relgraph.data.listing import LeftOut, is_output
from relgraph.errors import RelgraphError
from relgraph.files import first_line, reading

LABEL, MASK = "label", "mask"  # the column of classes, or of files with labels of pixels


@dataclass(frozen=True)
class Row:
    """A row: its line, an image's path within the folder of the table, its class or mask or "", and its split."""

    line: int
    path: str
    label: str
    split: str


def list_table(file: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
    """Return the classes and the image files of each split that a CSV file lists.

    The header names the columns path, label and, if splits are given, split. A path is absolute or within the folder of
    the file; a label is the name of a class, and empty where a training image has none; a split is train, val or test.
    Images are in the order of the rows, and classes in the order of their names. As in a folder, `val` alone is the
    test split. A table without test images has an empty one.

    Images that are not there are added to `left_out` if it skips what cannot be read.

    Raises:
        RelgraphError: if the file cannot be read, or a row is wrong; the message names its line.
    """
    rows = list_rows(file, left_out)
    classes = sorted({row.label for row in rows if row.split == "train"} - {""})
    number = {"": -1, **{name: label for label, name in enumerate(classes)}}
    for row in rows:
        if row.split != "train" and number.get(row.label, -1) < 0:
            told = f"the class {row.label!r} has no training image" if row.label else "expected a label, found none"
            raise RelgraphError(f"{file}, line {row.line}: a {row.split} image: {told}")
    if len(classes) == 1:
        raise RelgraphError(f"{file}: expected at least 2 classes, or no labels at all, found {classes[0]!r} alone")
    listings = {}
    for split, chosen in by_split(rows).items():
        labels = torch.tensor([number[row.label] for row in chosen], dtype=torch.int64)
        listings[split] = Listed(file.parent, names_in_one([row.path for row in chosen]), labels)
    return tuple(classes), listings


def has_masks(file: Path) -> bool:
    """Return whether a table has the column mask.

    Raises:
        RelgraphError: if it cannot be read.
    """
    header = next(csv.reader([text_of(file).partition("\n")[0]]), [])
    return MASK in [name.strip() for name in header]


def list_rows(file: Path, left_out: LeftOut) -> list[Row]:
    """Return the rows of a table whose images are there.

    Raises:
        RelgraphError: as `list_table` does, or if there is no training image.
    """
    rows = _kept(file, list(_rows(file)), left_out)
    if not any(row.split == "train" for row in rows):
        raise RelgraphError(f"{file}: expected a training image, found none")
    return rows


def by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each split that there is, train first; val alone is the test split, which may be empty."""
    found = {row.split for row in rows}
    names = {split: "test" if split == "val" and "test" not in found else split for split in found}
    chosen = {split: [row for row in rows if names[row.split] == split] for split in SPLITS}
    return {split: rows for split, rows in chosen.items() if rows or split == "test"}


def _rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a table, each checked by itself."""
    reader = csv.reader(io.StringIO(text_of(file), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted({*header} - {"split"}) not in (["label", "path"], ["mask", "path"]) or len({*header}) < len(header):
            found = ",".join(header)[:100]
            told = f"expected the columns path,label or path,label,split (or mask for label), found {found!r}"
            raise RelgraphError(f"{file}, line 1: {told}")
        for cells in reader:
            if cells:
                yield _row(f"{file}, line {reader.line_num}", reader.line_num, header, cells)
    except csv.Error as error:
        told = f"expected cells with commas between them ({first_line(error)[:200]})"
        raise RelgraphError(f"{file}, line {reader.line_num}: {told}") from error


def text_of(file: Path) -> str:
    """Return the text in a file.

    Raises:
        RelgraphError: if it cannot be read, or is not UTF-8; the message names the line.
    """
    with reading(file):
        content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RelgraphError(f"{file}, line {line}: expected text in UTF-8, found other bytes") from error


def _row(where: str, line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise RelgraphError(f"{where}: expected {len(header)} cells as in the header, found {len(cells)}")
    cell = {name: text.strip() for name, text in zip(header, cells, strict=True)}
    if not cell["path"] or "\0" in cell["path"]:
        raise RelgraphError(f"{where}: expected the path of an image, found {cell['path'][:100]!r}")
    split = cell.get("split", "train")
    if split not in SPLITS:
        raise RelgraphError(f"{where}: expected a split of {', '.join(SPLITS)}, found {split[:100]!r}")
    # As one path: two leading slashes stand for the same folder as one, but not in every system's joins.
    path = os.path.normpath(cell["path"])
    path = f"/{path.lstrip('/')}" if path.startswith("//") else path
    return Row(line, path, cell[MASK] if MASK in cell else unicodedata.normalize("NFC", cell[LABEL]), split)


def _kept(file: Path, rows: list[Row], left_out: LeftOut) -> list[Row]:
    """Return the rows whose images are there, each image once."""
    first: dict[tuple[int, int], int] = {}
    kept, written = [], cache(_is_output)
    for row in rows:
        where, path, status = f"{file}, line {row.line}", *find_file(file.parent, row.path)
        if status is None or not S_ISREG(status.st_mode):
            if not left_out.skip:
                raise RelgraphError(f"{where}: expected an image, found no file {file.parent / row.path}")
            left_out.skipped[str(file.parent / row.path)] = "no such file"
            continue
        if written(os.path.dirname(os.path.abspath(file.parent / path))):
            raise RelgraphError(f"{where}: {row.path} is in a directory that relgraph wrote, whose images are no data")
        same = first.setdefault((status.st_dev, status.st_ino), row.line)
        if same != row.line:
            raise RelgraphError(f"{where}: expected each image once, {row.path} is the file of line {same}")
        kept.append(Row(row.line, path, row.label, row.split))
    return kept


def find_file(folder: Path, path: str) -> tuple[str, os.stat_result | None]:
    """Return a path as the file has it, whose name may be in another form of Unicode, and the file's status."""
    for name in (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path)):
        try:
            return name, os.stat(folder / name)
        except OSError:
            continue
    return path, None


def _is_output(folder: str) -> bool:
    """Return whether a folder is, or lies in, a directory that relgraph wrote."""
    return any(is_output(str(part)) for part in (Path(folder), *Path(folder).parents))
