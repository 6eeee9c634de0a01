"""Data sets of one's own image files: folders of them, with classes or without, and tables that list them."""

from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from relgraph.data.decoding import ImageSize
from relgraph.data.folders import Listings, list_classes, list_folder
from relgraph.data.listing import LeftOut
from relgraph.data.pixel_files import PixelFiles, list_pixel_folder, list_pixel_table, read_pixels
from relgraph.data.sources import OriginalSplits, Source, read_files
from relgraph.data.table import list_table
from relgraph.errors import RelgraphError


class FileSource(Source):
    """Image files at a path, in memory or streamed.

    Attributes:
        kind: What its name begins with.
    """

    kind: ClassVar[str]

    def __init__(
        self, path: Path | str, *, skip: bool = False, pool: Path | None = None, ignore: tuple[int, ...] = ()
    ) -> None:
        """Take a path, in which `~` stands for the home directory.

        `skip` leaves out what cannot be read, `pool` is a folder of further images without labels, and the numbers
        `ignore` stand for no class in labels of pixels.
        """
        self.path, self.skip, self.pool, self.ignore = Path(path), skip, pool, ignore
        self.name = f"{self.kind}:{path}"

    def skipping(self) -> Self:
        """Return the data set without image files that cannot be read."""
        return type(self)(self.path, skip=True, pool=self.pool, ignore=self.ignore)

    def beside(self, pool: Path) -> Self:
        """Return the data set with further images from a folder."""
        return type(self)(self.path, skip=self.skip, pool=pool, ignore=self.ignore)

    def ignoring(self, numbers: tuple[int, ...]) -> Self:
        """Return the data set with these numbers in its labels of pixels read as 255, a pixel without a class."""
        return type(self)(self.path, skip=self.skip, pool=self.pool, ignore=numbers)

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits that are there; `root` plays no part.

        Raises:
            RelgraphError: if a file, a folder or a class is missing, an image that is decoded is unreadable, or numbers
                are to be ignored where pixels have no labels.
        """
        left_out, path = LeftOut(self.skip), self.path.expanduser()
        pixels = self.list_pixels(path, left_out)
        if pixels is not None:
            return read_pixels(pixels, image_size, mode, left_out, self.pool)
        if self.ignore:
            super().ignoring(self.ignore)
        return read_files(*self.list(path, left_out), image_size, mode, left_out, self.pool)

    @property
    def preset(self) -> str:
        """The preset of a training that names none: that of labels of pixels, where there are some."""
        with suppress(RelgraphError, OSError):  # which are told when the data are read
            if self.list_pixels(self.path.expanduser(), LeftOut(self.skip)) is not None:
                return "pixels"
        return "none"

    def list_pixels(self, path: Path, left_out: LeftOut) -> PixelFiles | None:
        """Return the image files of each split and those of the labels of their pixels; `None` if there are none."""
        return None

    @abstractmethod
    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and the image files of each split."""


class Folder(FileSource):
    """A folder of splits with classes, of images without labels (`folders.read_folder`), or with labels of pixels."""

    kind = "folder"

    def list_pixels(self, path: Path, left_out: LeftOut) -> PixelFiles | None:
        """Return the image files of each split and those of the labels of their pixels; `None` if there are none."""
        return list_pixel_folder(path, left_out, self.ignore)

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
    """A CSV file that lists images with their labels, or those of their pixels, and splits (`table.list_table`)."""

    kind = "csv"

    def list_pixels(self, path: Path, left_out: LeftOut) -> PixelFiles | None:
        """Return the image files of each split and those of the labels of their pixels; `None` if there are none."""
        return list_pixel_table(path, left_out, self.ignore)

    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and the image files of each split."""
        return list_table(path, left_out)
