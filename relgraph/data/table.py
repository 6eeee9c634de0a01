"""A table of images: a CSV file with the columns path, label and, where splits are given, split."""

import csv
import io
import os
import unicodedata
from collections.abc import Iterator
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

COLUMNS = ("path", "label")


@dataclass(frozen=True)
class Row:
    """A row of the table: its line, an image's path within the folder of the table, its class or "", and its split."""

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
    rows = _kept(file, list(_rows(file)), left_out)
    if not any(row.split == "train" for row in rows):
        raise RelgraphError(f"{file}: expected a training image, found none")
    classes = sorted({row.label for row in rows if row.split == "train"} - {""})
    number = {"": -1, **{name: label for label, name in enumerate(classes)}}
    for row in rows:
        if row.split != "train" and number.get(row.label, -1) < 0:
            told = f"the class {row.label!r} has no training image" if row.label else "expected a label, found none"
            raise RelgraphError(f"{file}, line {row.line}: a {row.split} image: {told}")
    if len(classes) == 1:
        raise RelgraphError(f"{file}: expected at least 2 classes, or no labels at all, found {classes[0]!r} alone")
    found = {row.split for row in rows}
    names = {split: "test" if split == "val" and "test" not in found else split for split in found}
    listings = {}
    for split in SPLITS:
        chosen = [row for row in rows if names[row.split] == split]
        if chosen or split == "test":
            labels = torch.tensor([number[row.label] for row in chosen], dtype=torch.int64)
            listings[split] = Listed(file.parent, names_in_one([row.path for row in chosen]), labels)
    return tuple(classes), listings


def _rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a table, each checked by itself."""
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) not in (sorted(COLUMNS), sorted([*COLUMNS, "split"])):
            told = f"expected the columns path,label or path,label,split, found {','.join(header)[:100]!r}"
            raise RelgraphError(f"{file}, line 1: {told}")
        for cells in reader:
            if cells:
                yield _row(f"{file}, line {reader.line_num}", reader.line_num, header, cells)
    except csv.Error as error:
        told = f"expected cells with commas between them ({first_line(error)[:200]})"
        raise RelgraphError(f"{file}, line {reader.line_num}: {told}") from error


def _text(file: Path) -> str:
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
    return Row(line, path, unicodedata.normalize("NFC", cell["label"]), split)


def _kept(file: Path, rows: list[Row], left_out: LeftOut) -> list[Row]:
    """Return the rows whose images are there, each image once."""
    first: dict[tuple[int, int], int] = {}
    kept, written = [], cache(_is_output)
    for row in rows:
        where, path, status = f"{file}, line {row.line}", *_found(file.parent, row.path)
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


def _found(folder: Path, path: str) -> tuple[str, os.stat_result | None]:
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
