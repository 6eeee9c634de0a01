"""A teacher's vectors, each matched with its training image: by the order of the images, or by their names."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageFiles
from relgraph.errors import RelgraphError
from relgraph.networks.vectors import VectorFile, VectorTeacher
from relgraph.training.building import read_data
from relgraph.training.recipe import Recipe


def open_vectors(recipe: Recipe, data: DataSet) -> VectorTeacher:
    """Return the recipe's teacher `vectors:FILE` for its data.

    Without names, vectors are in the order of the original training split, images without labels that were added
    behind it, and there are as many. With names, paths of files within the folder of the training images or the one
    above it, each training image must have one; others may be there as well. Names that are all numbers are positions
    in the original training split.

    Raises:
        RelgraphError: if the file cannot be read, or its vectors are not those of the training images.
    """
    file = VectorFile.read(Path(str(recipe.teacher).removeprefix("vectors:")).expanduser())
    if file.names is not None:
        return VectorTeacher(file, _by_name(file, *_named(file.names, recipe, data)))
    expected = _original_size(data)
    if len(file.rows) != expected:
        told = f"expected a vector for each of {expected} training images of {recipe.dataset}, in their order"
        raise RelgraphError(f"{file.path}: {told}, found {len(file.rows)}")
    return VectorTeacher(file, data.train.index.cpu())


def _original_size(data: DataSet) -> int:
    """Return the size of the original training split, of which validation images may have been drawn."""
    train, val = (split.index.tolist() for split in (data.train, data.val))
    return len(train) if set(train) & set(val) else len(train) + len(val)


def _named(names: Sequence[str], recipe: Recipe, data: DataSet) -> tuple[list[str], list[str | Path]]:
    """Return how each training image is called, and the folders within which names are paths.

    Images are called by their files, of images in memory listed once more, or where all names are numbers by those.
    """
    if all(name.isdecimal() for name in names):  # no image file has such a name
        return [str(number) for number in data.train.index.tolist()], [""]
    files = data.train.images
    if not isinstance(files, ImageFiles):
        files = read_data(recipe, "stream").train.images
    assert isinstance(files, ImageFiles)  # others refuse to be streamed
    pool = [] if files.pool is None else [files.pool]
    return [files.path(number) for number in range(len(files))], [files.folder, files.folder.parent, *pool]


def _by_name(file: VectorFile, images: Sequence[str], places: Sequence[str | Path]) -> Tensor:
    """Return the row of each image, by what it is called."""
    position = {_key(image): number for number, image in enumerate(images)}
    found = np.full(len(images), -1)
    assert file.names is not None
    for row, name in enumerate(file.names):
        for number in {position.get(_key(os.path.join(place, name))) for place in places} - {None}:
            assert number is not None
            if found[number] >= 0:
                told = f"rows {found[number]} and {row} are both of {images[number]}"
                raise RelgraphError(f"{file.path}: expected one vector an image, {told}")
            found[number] = row
    missing = np.flatnonzero(found < 0)
    if len(missing):
        told = f"{len(missing)} of {len(found)} have none, the first is {images[int(missing[0])]}"
        raise RelgraphError(f"{file.path}: expected the vectors of all training images by their names, {told}")
    return torch.from_numpy(found)


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", os.path.abspath(path))
