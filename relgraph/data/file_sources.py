"""Data sets of one's own image files: folders of them, with classes or without, and tables that list them."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from relgraph.data.folders import Listings, list_classes, list_folder
from relgraph.data.listing import LeftOut
from relgraph.data.sources import OriginalSplits, Source, read_files
from relgraph.data.table import list_table


class FileSource(Source):
    """Image files at a path, in memory or streamed.

    Attributes:
        kind: What its name begins with.
    """

    kind: ClassVar[str]

    def __init__(self, path: Path | str, *, skip: bool = False, pool: Path | None = None) -> None:
        """Take a path, in which `~` stands for the home directory.

        `skip` leaves out what cannot be read, and `pool` is a folder of further images without labels.
        """
        self.path, self.skip, self.pool = Path(path), skip, pool
        self.name = f"{self.kind}:{path}"

    def skipping(self) -> Self:
        """Return the data set without image files that cannot be read."""
        return type(self)(self.path, skip=True, pool=self.pool)

    def beside(self, pool: Path) -> Self:
        """Return the data set with further images from a folder."""
        return type(self)(self.path, skip=self.skip, pool=pool)

    def read(self, root: Path, image_size: int | None, mode: str) -> OriginalSplits:
        """Return the splits that are there; `root` plays no part.

        Raises:
            RelgraphError: if a file, a folder or a class is missing, or an image that is decoded is unreadable.
        """
        left_out = LeftOut(self.skip)
        return read_files(*self.list(self.path.expanduser(), left_out), image_size, mode, left_out, self.pool)

    @abstractmethod
    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and the image files of each split."""


class Folder(FileSource):
    """A folder of splits with classes, or of images without labels (`folders.read_folder`)."""

    kind = "folder"

    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and the image files of each split."""
        return list_folder(path, left_out)


class ClassFolders(FileSource):
    """A folder that holds a folder for each class, of which a share becomes the test split."""

    kind = "classes"

    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and their image files."""
        return list_classes(path, left_out)


class Table(FileSource):
    """A CSV file that lists images with their labels and splits (`table.list_table`)."""

    kind = "csv"

    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and the image files of each split."""
        return list_table(path, left_out)
