"""A teacher's vectors, each matched with its training image: by the order of the images, or by their names."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.sources import NoFiles
from relgraph.errors import RelgraphError
from relgraph.networks.vectors import VectorFile, VectorTeacher
from relgraph.training.building import read_data
from relgraph.training.recipe import Recipe


def vector_file(recipe: Recipe) -> VectorFile:
    """Return the file of the recipe's teacher `vectors:FILE`.

    Raises:
        RelgraphError: if it cannot be read.
    """
    return VectorFile.read(Path(str(recipe.teacher).removeprefix("vectors:")).expanduser())


def open_vectors(
    recipe: Recipe, data: DataSet, images: ImageSet | None = None, file: VectorFile | None = None
) -> VectorTeacher:
    """Return the recipe's teacher `vectors:FILE` for its training images, or other `images` that it knows.

    The `file` is read if it is not at hand.

    Without names, vectors are in the order of the original training split, images without labels that were added
    behind it, and there are as many. With names, paths of files within the folder of the training images or the one
    above it, each training image must have one; others may be there as well. Names that are all numbers are positions
    in the original training split.

    Raises:
        RelgraphError: if the file cannot be read, or its vectors are not those of the training images.
    """
    images = data.train if images is None else images
    file = vector_file(recipe) if file is None else file
    if file.names is not None:
        named, places = names_of(file.path, file.names, recipe, images)
        row = rows_by_name(file, named, places)
        missing = (row < 0).nonzero().flatten()
        if len(missing):
            told = f"{len(missing)} of {len(row)} have none, the first is {named[int(missing[0])]}"
            raise RelgraphError(
                f"{file.path}: expected the vectors of all {images.split} images by their names, {told}"
            )
        return VectorTeacher(file, row)
    expected = original_size(data)
    if len(file.rows) != expected:
        told = f"expected a vector for each of {expected} training images of {recipe.dataset}, in their order"
        raise RelgraphError(f"{file.path}: {told}, found {len(file.rows)}")
    return VectorTeacher(file, images.index.cpu())


def vectors_of(recipe: Recipe, data: DataSet, images: ImageSet, file: VectorFile) -> VectorTeacher | None:
    """Return the recipe's teacher `vectors:FILE` for the images of a split; `None` where its file does not know them.

    Those of the original training split it must know (see `open_vectors`); others it does if it names all of them.

    Raises:
        RelgraphError: as `open_vectors`.
    """
    if in_original(data, images):
        return open_vectors(recipe, data, images, file)
    row = rows_of(file, recipe, data, images)
    return VectorTeacher(file, row) if bool((row >= 0).all()) else None


def original_size(data: DataSet) -> int:
    """Return the size of the original training split, of which other images may have been drawn."""
    return sum(len(images) for images in (data.train, data.val, data.test) if in_original(data, images))


def in_original(data: DataSet, images: ImageSet) -> bool:
    """Return whether the images of a split were drawn from the data set's original training split.

    Their `index` is then their position in it.
    """
    if images.split == "train" or data.unseen:
        return True
    return images.split == "val" and not set(data.train.index.tolist()) & set(data.val.index.tolist())


def names_of(path: Path, names: Sequence[str], recipe: Recipe, images: ImageSet) -> tuple[list[str], list[str | Path]]:
    """Return how each image is called, and the folders within which the names of a file are paths.

    Images are called by their files, of images in memory listed once more, or where all names are numbers by those.

    Raises:
        RelgraphError: if there are names, and images have no files.
    """
    named = next((name for name in names if not name.isdecimal()), None)
    if named is None:  # no image file has such a name
        return [str(number) for number in images.index.tolist()], [""]
    files = images.images
    if not isinstance(files, ImageFiles):
        try:
            whole: ImageSet = getattr(read_data(recipe, "stream"), images.split)
        except RelgraphError as error:
            reason = f"{recipe.dataset} has no names of files" if isinstance(error, NoFiles) else error
            told = "expected positions in the training split, since images cannot be listed by their names"
            raise RelgraphError(f"{path}: {told} ({reason}), found {named!r}") from error
        files = whole.select(torch.searchsorted(whole.index, images.index.cpu())).images
    assert isinstance(files, ImageFiles)  # others refuse to be streamed
    pool = [] if files.pool is None else [files.pool]
    return [files.path(number) for number in range(len(files))], [files.folder, files.folder.parent, *pool]


def rows_of(file: VectorFile, recipe: Recipe, data: DataSet, part: ImageSet) -> Tensor:
    """Return the row of each image of a split of the data in a file, by order or by name, `(N,)`; -1 where it has none.

    Raises:
        RelgraphError: if two rows are of one image.
    """
    none, cut = torch.full((len(part),), -1), in_original(data, part)
    if file.names is None:
        return part.index.cpu() if cut and len(file.rows) == original_size(data) else none
    if all(name.isdecimal() for name in file.names) and not cut:
        return none  # they number the original training split
    return rows_by_name(file, *names_of(file.path, file.names, recipe, part))


def rows_by_name(file: VectorFile, images: Sequence[str], places: Sequence[str | Path]) -> Tensor:
    """Return the row of each image, by what it is called, `(N,)`; -1 of one that is not there.

    Raises:
        RelgraphError: if two rows are of one image.
    """
    position = {image_key(image): number for number, image in enumerate(images)}
    found = np.full(len(images), -1)
    assert file.names is not None
    for row, name in enumerate(file.names):
        for number in {position.get(image_key(os.path.join(place, name))) for place in places} - {None}:
            assert number is not None
            if found[number] >= 0:
                told = f"rows {found[number]} and {row} are both of {images[number]}"
                if name.isdecimal():
                    told += ", a position in one split: relgraph embed --split train writes those of the training split"
                raise RelgraphError(f"{file.path}: expected one vector an image, {told}")
            found[number] = row
    return torch.from_numpy(found)


def image_key(path: str) -> str:
    """Return the one form of the path of an image, by which two ways to write it are compared."""
    return unicodedata.normalize("NFC", os.path.abspath(path))
