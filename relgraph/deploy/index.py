"""An index that a student asks: a store of embeddings or a table of vectors, and the images that are in it."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from relgraph.analysis.pictures import thumbnails
from relgraph.data.datasets import DataSet, joined
from relgraph.data.decoding import BadImage, quiet, read_image
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.file_sources import FileSource
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.index_transform import read_transform
from relgraph.data.manifest import manifest_file
from relgraph.errors import RelgraphError
from relgraph.graph.alignment import VectorTransform
from relgraph.graph.gallery import Search, nearest_in_gallery
from relgraph.graph.search import Rows, fitting, has_faiss
from relgraph.names import dataset
from relgraph.networks.vectors import VectorFile
from relgraph.printing import tell
from relgraph.training.building import load_data
from relgraph.training.recipe import Recipe
from relgraph.training.stores import whole_splits
from relgraph.training.vectors import rows_of

TABLES = (".npy", ".parquet")
FAISS_NUMBERS = 2**30  # of a gallery that is copied into faiss, 4 GiB; a larger one is read in blocks


@dataclass(frozen=True, eq=False)
class Transformed:
    """The rows `(M, d)` of an index as it compares them, transformed each time they are read."""

    rows: Rows
    transform: VectorTransform

    @property
    def shape(self) -> tuple[int, ...]:
        """`(M, d)`."""
        return len(self.rows), self.transform.dimensions

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return some rows."""
        found: Tensor = self.transform(self.rows[index].float())
        return found


class Described(NamedTuple):
    """What is known of the images of an index.

    Attributes:
        dataset: Name of their data set, or else of the table.
        split: Of which split they are; "" where that is not known.
        labels: Their classes `(N,)`, -1 where unknown.
        classes: Names of the classes.
        images: The images, where they are at hand.
        files: Paths of their files, within the folder of the data set where it has one; `None` where there are none.
    """

    dataset: str
    split: str
    labels: Tensor
    classes: tuple[str, ...] = ()
    images: ImageSet | None = None
    files: list[str] | None = None


@dataclass(eq=False)
class Index(ABC):
    """Vectors `(M, D)` of images, by a network, and what is done with a vector before it is compared.

    Attributes:
        path: Where it is.
        rows: The vectors.
        transform: Its own, `None` where it has none.
        network: Name and fingerprint of the network; `None` where they are not known.
    """

    path: Path
    rows: Rows
    transform: VectorTransform | None
    network: tuple[str, str] | None

    @abstractmethod
    def describe(self) -> Described:
        """Return what is known of the images.

        Raises:
            RelgraphError: if they are none of the data set that was given.
        """

    @abstractmethod
    def names(self, positions: Sequence[int]) -> list[str]:
        """Return how images are called."""

    @abstractmethod
    def pictures(self, positions: Sequence[int], side: int) -> list[Image.Image | None]:
        """Return small pictures of images, `None` of one that cannot be had."""

    def check_k(self, k: int) -> None:
        """Raise RelgraphError unless there are k images."""
        if not 1 <= k <= len(self.rows):
            found = f"{len(self.rows)}, got {k}"
            raise RelgraphError(f"k must be between 1 and the number of images in {self.path}, {found}")

    def nearest(self, queries: Tensor, k: int, transform: VectorTransform) -> tuple[Tensor, Tensor]:
        """Return the positions of the k nearest images and their cosines, `(Q, d) -> (Q, k), (Q, k)`, nearest first.

        Queries are as the index compares them, its rows are still brought to the transform. Exact: by faiss where it is
        installed and the index fits into memory, else in blocks. Where rounding makes two images equally near, their
        order is faiss's own.

        Raises:
            RelgraphError: if there are fewer than k images.
        """
        asked, gallery = queries.float().cpu(), Transformed(self.rows, transform)
        self.check_k(k)
        if has_faiss() and len(gallery) * gallery.shape[1] <= FAISS_NUMBERS:
            return _by_faiss(asked, gallery, k)
        return nearest_in_gallery(Search(asked, gallery, progress="search"), k)


def _by_faiss(queries: Tensor, gallery: Transformed, k: int) -> tuple[Tensor, Tensor]:
    import faiss  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from torch.nn.functional import normalize

    flat, block = faiss.IndexFlatIP(gallery.shape[1]), fitting(None, 2**14, gallery)
    for first in range(0, len(gallery), block):
        flat.add(normalize(gallery[first : first + block]).numpy())
    weights, positions = flat.search(normalize(queries).numpy(), k)
    return torch.from_numpy(positions), torch.from_numpy(weights)


class StoredIndex(Index):
    """A store of `relgraph embed`, whose images are those of the training split of a data set."""

    def __init__(self, path: Path, recipe: Recipe | None, data: Any = None) -> None:
        """Open a store; `recipe` is that of the run that asks, which may know where the data are.

        `data` is the data set, if it is not called as it was when the store was made.

        Raises:
            RelgraphError: if it cannot be read.
        """
        self.store = EmbeddingStore(path)
        found, contents = read_transform(path), self.store.contents
        if data is not None or recipe is None or str(recipe.dataset) != contents.dataset:
            recipe = Recipe(dataset=data or contents.dataset, method="none")
        self.recipe = recipe
        self._data: DataSet | None = None
        network = contents.teacher, contents.fingerprint
        super().__init__(path, self.store.view(0), None if found is None else found[0], network)

    @cached_property
    def images(self) -> ImageSet | None:
        """Its images, files where the data are files; `None` where the data cannot be found."""
        contents, recipe = self.store.contents, self.recipe
        told, (_, height, width) = "they are other ones there", contents.image_shape
        sizes = dict.fromkeys([recipe.image_size, None, width if height == width else (height, width)])
        held_out = dict.fromkeys([None, recipe.holdout_classes])  # a run leaves classes out, its teacher's store none
        for unseen, size in product(held_out, sizes):
            try:
                self._data = load_data(_undecoded(replace(recipe, image_size=size, holdout_classes=unseen)))
                found = joined(self._data) if self._data.unseen else self._data.train
                if len(found) == contents.images and self._changed(found.select(torch.arange(1))) is None:
                    return found
            except RelgraphError as error:
                told = str(error)
        self._lost(told)
        return None

    def _changed(self, images: ImageSet) -> int | None:
        """Return the position of the first image that is no longer the one that was embedded."""
        if isinstance(images.images, ImageFiles) and not self.store.contents.streamed:
            images = replace(images, images=images.images.load("read"))
        return self.store.first_changed(images)

    def _lost(self, told: str) -> None:
        where = f"the images of {self.path} are told by their positions in {self.store.contents.dataset}"
        tell(f"{where}: {told}", stream=sys.stderr)

    def known(self, positions: Sequence[int]) -> ImageSet | None:
        """Return images at positions; `None` where they cannot be had, which a line on standard error tells."""
        if self.images is None:
            return None
        found = self.images.select(torch.tensor(positions, dtype=torch.long))
        try:
            changed = self._changed(found)
        except RelgraphError as error:  # a file is gone
            self._lost(str(error))
        else:
            if changed is None:
                return found
            self._lost(f"image {int(found.index[changed])} is no longer the one that was embedded")
        self.images = None
        return None

    def describe(self) -> Described:
        """Return what is known of the images."""
        contents = self.store.contents
        found = self.known(range(contents.images))
        if found is None or self._data is None:
            return Described(contents.dataset, "train", torch.full((contents.images,), -1))
        files = self._data.file_names(found)
        return Described(contents.dataset, "train", found.true_labels, found.classes, found, files)

    def names(self, positions: Sequence[int]) -> list[str]:
        """Return the paths of the images, or their positions in the original training split where they are no files."""
        found = self.known(positions)
        if found is None or not isinstance(found.images, ImageFiles):
            return [str(position) for position in positions]
        return [found.images.path(number) for number in range(len(found))]

    def pictures(self, positions: Sequence[int], side: int) -> list[Image.Image | None]:
        """Return small pictures of the images."""
        found = self.known(positions)
        return [None] * len(positions) if found is None else [*thumbnails(found, side)]


def _undecoded(recipe: Recipe) -> Recipe:
    """Return the recipe of the original splits, of images in files without reading them."""
    files = isinstance(dataset(recipe.dataset), FileSource)
    return replace(whole_splits(recipe), images="stream" if files else "auto")


class TableIndex(Index):
    """A table of vectors, `.npy` or `.parquet`, with or without names of the images' files."""

    def __init__(self, path: Path, folders: Sequence[Path], data: Any = None) -> None:
        """Open a table; names are looked for as they are, and within folders. `data` is the data set of its images.

        Raises:
            RelgraphError: if it cannot be read.
        """
        self.file = VectorFile.read(path)
        self.folders, self.data = folders, data
        super().__init__(path, torch.from_numpy(self.file.rows), None, (f"vectors:{path}", self.file.sha256))

    def describe(self) -> Described:
        """Return what is known of the images: by the data set, or else by the classes in the table.

        Raises:
            RelgraphError: if the table has none of the data set's images.
        """
        given = self.file.labels or [""] * len(self.rows)
        classes = tuple(sorted({*given} - {""}))
        numbers = {name: number for number, name in enumerate(classes)}
        labels, names = torch.tensor([numbers.get(name, -1) for name in given]), self.file.names
        if self.data is not None:
            labels, classes = self._of_data()
        files = None if names is None or all(name.isdecimal() for name in names) else list(names)
        return Described(str(self.data or self.path), "", labels, classes, None, files)

    def _of_data(self) -> tuple[Tensor, tuple[str, ...]]:
        recipe = _undecoded(Recipe(dataset=self.data, method="none"))
        data, labels, found = load_data(recipe), torch.full((len(self.rows),), -1), 0
        for part in (data.train, data.val, data.test):
            row = rows_of(self.file, recipe, data, part)
            labels[row[row >= 0]] = part.true_labels[row >= 0]
            found += int((row >= 0).sum())
        if not found:
            raise RelgraphError(f"{self.path}: expected vectors of images of {self.data}, found none by name or order")
        return labels, data.train.classes

    def names(self, positions: Sequence[int]) -> list[str]:
        """Return the names of the images, or their positions where it has none."""
        known = self.file.names
        return [str(position) if known is None else known[position] for position in positions]

    def pictures(self, positions: Sequence[int], side: int) -> list[Image.Image | None]:
        """Return small pictures of the images whose names are those of files."""
        return [self._picture(name, side) for name in self.names(positions)]

    def _picture(self, name: str, side: int) -> Image.Image | None:
        for folder in (Path(), *self.folders):
            path = folder / name
            if path.is_file():
                return picture_of(path, side)
        return None


def picture_of(path: Path, side: int) -> Image.Image | None:
    """Return a picture of an image file that is no larger than `side` pixels; `None` if it cannot be read."""
    with quiet(), suppress(BadImage):
        image = read_image(path, None)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image
    return None


def is_index(path: Path) -> bool:
    """Return whether a path is that of a store of embeddings, or of a table of vectors."""
    return manifest_file(path).is_file() or path.suffix.lower() in TABLES


def open_index(path: Path, recipe: Recipe | None = None, folders: Sequence[Path] = (), data: Any = None) -> Index:
    """Return the index at a path: the directory of a store, or a table `.npy` or `.parquet`.

    Args:
        path: The store or the table.
        recipe: That of the run that asks, by which the images of a store may be found.
        folders: Within which the names of a table are paths.
        data: The data set of its images, where it is not known by its name in a store.

    Raises:
        RelgraphError: if it is neither, or cannot be read.
    """
    if manifest_file(path).is_file():
        return StoredIndex(path, recipe, data)
    if path.suffix.lower() in TABLES:
        return TableIndex(path, folders, data)
    raise RelgraphError(f"expected an index, a store of relgraph embed or a table .npy or .parquet, got {path}")
