"""The image files below a folder: each real file once, and everything that is left out counted.

Files that no link leads to come first; a link adds those that are nowhere else. Hidden files and folders do not count,
nor do directories that relgraph writes, whose pictures are no data.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from relgraph.data.manifest import FORMAT
from relgraph.errors import RelgraphError
from relgraph.files import reading

# Each is of a format in `images.FORMATS`; of an animation the first frame counts.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif",
)  # fmt: skip
THUMBNAILS = "_thumbnails"  # what relgraph export adds to the name of the graph
EXPORTED = (".graphml", ".gexf", ".json", ".pt")  # the graph beside it
THERE_ALREADY = "links to what is there already"
NOWHERE = "links that lead nowhere"
NO_FILES = "pipes, sockets or devices"
OWN_OUTPUT = "directories that relgraph wrote"
NO_CLASS = "images outside of a class folder"
TAKEN = "images that the data set has already"

Inode = tuple[int, int]  # device and number, by which a file is known whatever its name


@dataclass
class LeftOut:
    """What is left out of a folder of images.

    Attributes:
        skip: Whether images that cannot be read are skipped; otherwise the first of them is an error.
        counts: What else is left out, by its reason.
        formats: Files that have no suffix of an image, by their suffix.
        skipped: Why an image is skipped, by its file.
        notes: What else a user should know of the folder.
    """

    skip: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self, name: str) -> list[str]:
        """Return lines about a data set of this name for the user, none if nothing was left out."""
        found = list(self.notes)
        if counted := self.counted():
            found.append(f"left out {counted}")
        if self.skipped:
            file, reason = next(iter(self.skipped.items()))
            word = "image" if len(self.skipped) == 1 else "images"
            found.append(f"skipped {len(self.skipped):,} {word} that cannot be read, the first is {file}: {reason}")
        return [f"{name}: {line}" for line in found]

    def counted(self) -> str:
        """Return what is left out but for skipped images, with its numbers."""
        parts = [f"{reason} ({count:,})" for reason, count in self.counts.items()]
        if self.formats:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in self.formats.most_common(5))
            more = ", ..." if len(self.formats) > 5 else ""
            parts.append(f"files of other formats ({kinds}{more})")
        return "; ".join(parts)


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def class_folders(folder: Path, left_out: LeftOut) -> dict[str, list[str]]:
    """Return the names of the folders of each class: one, or two where a name is there in two forms of Unicode.

    A class has its name in the composed form (NFC), so that a copy on another system has the same classes.

    Raises:
        RelgraphError: if there are fewer than two classes, or the folder cannot be read.
    """
    found: dict[str, list[str]] = {}
    with reading(folder):
        there = sorted(folder.iterdir()) if folder.is_dir() else []
    for entry in there:
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if entry.is_symlink() and not entry.exists():
                left_out.counts[NOWHERE] += 1
            elif is_image(entry.name):
                left_out.counts[NO_CLASS] += 1
        elif folder.resolve().is_relative_to(entry.resolve()):  # a link to where the classes are
            left_out.counts[THERE_ALREADY] += 1
        elif is_output(str(entry)) or holds_output_alone(str(entry)):
            left_out.counts[OWN_OUTPUT] += 1
        else:
            found.setdefault(unicodedata.normalize("NFC", entry.name), []).append(entry.name)
    if len(found) < 2:
        words = f"found {next(iter(found))}" if found else "found none"
        raise RelgraphError(f"{folder}: expected one folder for each of at least 2 classes, {words}")
    for title, names in found.items():
        if len(names) > 1:
            left_out.notes.append(f"{len(names)} folders in {folder} spell the class {title!r}, and are taken as one")
    return dict(sorted(found.items()))


def find_images(
    root: Path, places: Sequence[tuple[Path, str]], left_out: LeftOut, taken: Set[Inode] = frozenset()
) -> list[list[str]]:
    """Return, for each place `(folder, name)` below `root`, the image files at any depth of `folder / name`.

    They are paths within `folder`, in alphabetical order. A file that several links lead to belongs to the place that
    holds it without one, else to the first, and files that are `taken` to none; what is left out is added to
    `left_out`.

    Raises:
        RelgraphError: if a folder cannot be read.
    """
    tops = {os.path.realpath(folder) for folder in (root, *(folder for folder, _ in places))}
    finder, linked, here = _Finder(tops, [[] for _ in places], left_out, taken), [], os.path.realpath(root)
    for number, (folder, name) in enumerate(places):
        path = os.path.join(folder, name)
        real = os.path.realpath(path)
        if real == os.path.normpath(os.path.join(here, os.path.relpath(path, root))):
            finder.walk(number, name, real)
        else:
            linked.append((number, name, path))
    finder.follow(linked)
    # Strings rather than Paths, which are slow to make and to sort by the million.
    return [sorted(files, key=lambda file: file.split(os.sep)) for files in finder.found]


class _Finder:
    """Finds the images of some places; `found` are those of each, as paths within its folder.

    `tops` are the real paths of these folders and of the root: no link to or above one of them is followed.
    """

    def __init__(self, tops: set[str], found: list[list[str]], left_out: LeftOut, taken: Set[Inode]) -> None:
        self.tops, self.found, self.left_out, self.taken = tops, found, left_out, taken
        self._folders = set[str]()  # real paths of the folders whose images are all found
        self._files = set[str | Inode]()  # of single files, where their folder does not tell
        self._links: list[tuple[int, str, str]] = []

    def walk(self, number: int, inside: str, folder: str) -> None:
        """Add the images in the real folder `folder`, at any depth, and remember the links for later."""
        stack = [(inside, folder)]
        while stack:
            inside, folder = stack.pop()
            if folder in self._folders:
                self.left_out.counts[THERE_ALREADY] += 1
                continue
            self._folders.add(folder)
            if is_output(folder):
                self.left_out.counts[OWN_OUTPUT] += 1
                continue
            with reading(Path(folder)), os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{inside}{os.sep}{entry.name}" if inside else entry.name
                if entry.is_symlink():
                    self._links.append((number, path, entry.path))
                elif entry.is_dir():
                    stack.append((path, entry.path))
                else:
                    self._add(number, path, entry)

    def follow(self, linked: Sequence[tuple[int, str, str]]) -> None:
        """Add what links alone lead to: those given and those that were found on the way."""
        links, files = [*linked, *self._links], []
        while links:
            self._links = []
            for number, inside, path in links:
                real = os.path.realpath(path)
                if not os.path.isdir(real):
                    files.append((number, inside, real))
                elif real in self._folders or any(Path(top).is_relative_to(real) for top in self.tops):
                    self.left_out.counts[THERE_ALREADY] += 1
                else:
                    self.walk(number, inside, real)
            links = self._links
        for number, inside, real in files:
            self._add_linked(number, inside, real)

    def _add(self, number: int, inside: str, entry: os.DirEntry[str]) -> None:
        """Add a file that is there without a link; of hard links the first."""
        if not entry.is_file():
            self.left_out.counts[NO_FILES] += 1
        elif not is_image(entry.name):
            self._count_format(entry.name)
        else:
            status = entry.stat()
            file = status.st_dev, status.st_ino
            if self._counts_as_known(file):
                return
            if status.st_nlink > 1:
                self._files.add(file)
            self.found[number].append(inside)

    def _add_linked(self, number: int, inside: str, real: str) -> None:
        """Add the file `real` that a link leads to, if it is not there."""
        folder, name = os.path.split(real)
        if not os.path.exists(real):
            self.left_out.counts[NOWHERE] += 1
        elif not os.path.isfile(real):
            self.left_out.counts[NO_FILES] += 1
        elif not is_image(inside):
            self._count_format(inside)
        elif folder in self._folders and is_image(name):
            self.left_out.counts[THERE_ALREADY] += 1
        elif not self._counts_as_known(real, inode(real)):
            self._files |= {real, inode(real)}
            self.found[number].append(inside)

    def _counts_as_known(self, *keys: str | Inode) -> bool:
        """Return whether a file is known by one of these, and count it then."""
        if not self.taken.isdisjoint(keys):
            self.left_out.counts[TAKEN] += 1
        elif not self._files.isdisjoint(keys):
            self.left_out.counts[THERE_ALREADY] += 1
        else:
            return False
        return True

    def _count_format(self, name: str) -> None:
        self.left_out.formats[os.path.splitext(name)[1].lower() or "without a suffix"] += 1


def inode(file: str) -> Inode:
    """Return the inode of a file.

    Raises:
        OSError: if it is not there.
    """
    status = os.stat(file)
    return status.st_dev, status.st_ino


def holds_output_alone(folder: str) -> bool:
    """Return whether there are directories that relgraph wrote in a folder, and nothing else that is not hidden."""
    with reading(Path(folder)), os.scandir(folder) as listed:
        entries = [entry for entry in listed if not entry.name.startswith(".")]
    return bool(entries) and all(entry.is_dir(follow_symlinks=False) and is_output(entry.path) for entry in entries)


def is_output(folder: str) -> bool:
    """Return whether a folder is a run, a store of embeddings, or the thumbnails of an export beside their graph."""

    def holds(*names: str) -> bool:
        return any(os.path.isfile(os.path.join(folder, name)) for name in names)

    if holds("recipe.yaml") and holds("inputs.json", "environment.json"):
        return True
    if holds("manifest.json"):
        manifest = Path(folder, "manifest.json")
        with reading(manifest), manifest.open("rb") as stream:
            return f'"{FORMAT}"'.encode() in stream.read(200)  # it is the first entry
    graph = folder.removesuffix(THUMBNAILS)
    return graph != folder and any(os.path.isfile(graph + suffix) for suffix in EXPORTED)
