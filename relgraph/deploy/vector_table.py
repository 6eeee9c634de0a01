"""The vectors of images by any network as a table for other programs: Parquet, CSV, or NumPy with a file of names."""

import csv
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from relgraph.data.datasets import DataSet
from relgraph.data.file_sources import FileSource
from relgraph.data.folders import SPLITS
from relgraph.data.images import ImageSet
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.files import check_new, parquet_packages, replacing
from relgraph.graph.refine import NodeRefinement
from relgraph.names import dataset
from relgraph.networks.teachers import Teacher
from relgraph.networks.vectors import NAMES
from relgraph.printing import no_bar
from relgraph.processes import ProcessGroup
from relgraph.training.building import load_data, open_fabric, open_teacher
from relgraph.training.recipe import Recipe
from relgraph.training.stores import try_threads, whole_splits

AT_ONCE = 2**13  # images of a block, which is a row group in Parquet: 64 MiB of vectors of width 2,048
COLUMNS = ("name", "split", "label")  # before the vector
FIXED = {"views": 1, "dtype": "float32", "seed": 0, "index_transform": None}  # options of stores, and what a table has
OTHERS = (".h5", ".hdf5", ".bz2", ".7z")  # suffixes of files with digits, as names of networks and versions have them
Splits = Literal["train", "val", "test", "all"]


class VectorTable(NamedTuple):
    """A table that was written.

    Attributes:
        path: The file.
        images: Number of its rows.
        width: Length of a vector.
        seconds: How long that took.
        precision: In which the network computed.
    """

    path: Path
    images: int
    width: int
    seconds: float
    precision: str


class Block(NamedTuple):
    """Some rows of a table, of one split: names, classes or "", and vectors `(N, D)` float32, refined ones as well."""

    split: str
    names: list[str]
    labels: list[str]
    vectors: NDArray[np.float32]
    refined: NDArray[np.float32] | None = None


Write = Callable[[Block], None]


def is_table(path: str | Path | None, split: Splits | None, **options: Any) -> bool:
    """Return whether a path is that of a table, by its suffix; without one a store is meant.

    The name of a store's directory may have a dot, as `store.v2` has. What looks like the suffix of another file, one
    of letters alone or of `OTHERS`, is taken for a mistake, but of a directory that is there, or a path that ends with
    `/`.

    Raises:
        RelgraphError: for the suffix of another file, if a store is given a split, or a table another value of an
            option than `FIXED` has.
    """
    if path is None or (suffix := Path(path).suffix.lower()) not in FORMATS:
        if path is not None and (suffix[1:].isalpha() or suffix in OTHERS) and not _is_folder(path):
            told = "expected a table, FILE.parquet, .csv or .npy, or the directory of a store"
            raise RelgraphError(f"{told}, got {path}: a directory of this name is {path}{os.sep}")
        if split is not None:
            raise RelgraphError(f"a split is of a table, FILE.parquet, .csv or .npy; a store has train, got {split}")
        return False
    for name, value in options.items():
        if value != FIXED[name]:
            expected = "none to be given" if FIXED[name] is None else FIXED[name]
            raise RelgraphError(f"{name} is of a store: expected {expected} for the table {path}, got {value}")
    return True


def _is_folder(path: str | Path) -> bool:
    return str(path).endswith(("/", os.sep)) or Path(path).is_dir()


def write_vectors(recipe: Recipe, path: Path, *, split: Splits = "all", batch_size: int = 256) -> VectorTable:
    """Write the vectors of images by the recipe's teacher, with the name, split and class of each image.

    Images are those of the whole original splits. Image files are read a batch at a time and resized to the teacher's
    size, if the recipe has none; their names are paths within the folder of the data, in it those of further images
    are absolute. Other images have their position in the original split as the name.

    Of a student that was trained with a refinement, Parquet and CSV hold `refined` beside its vectors: these moved by
    their k nearest among all images of the table. All vectors are held in memory then.

    Args:
        recipe: Of which the options of `relgraph embed` count.
        path: File to write, `.parquet`, `.csv` or `.npy` with the names beside it.
        split: Whose images.
        batch_size: Images at a time.

    Raises:
        RelgraphError: if data, weights or images cannot be read, vectors are not finite, something is at `path`, or it
            cannot be written.
    """
    if batch_size < 1:
        raise RelgraphError(f"batch_size must be at least 1, got {batch_size}")
    if (count := ProcessGroup.launched().count) > 1:
        raise RelgraphError(f"a table of vectors is written by one process, got {count}: a store takes several")
    suffix = path.suffix.lower()
    check_new(path, *([path.with_suffix(NAMES)] if suffix == ".npy" else []))
    fabric = open_fabric(recipe)
    precision = str(fabric.strategy.precision.precision)
    teacher = open_teacher(recipe).to(fabric.device).hold(precision)
    recipe = whole_splits(recipe)
    if isinstance(dataset(recipe.dataset), FileSource):
        recipe = replace(recipe, images="stream", image_size=recipe.image_size or teacher.input_size)
    data = load_data(recipe)
    sets = {name: getattr(data, name) for name in SPLITS if split in (name, "all") and len(getattr(data, name))}
    if not sets:
        raise RelgraphError(f"the split {split!r} of {recipe.dataset} has no images: expected another --split")
    embed = _embedder(teacher, fabric.device)
    if fabric.device.type == "cpu":
        recipe = try_threads(recipe, next(iter(sets.values())), lambda images, _: embed(images), batch_size)
    start, count = time.perf_counter(), sum(map(len, sets.values()))
    refinement = None if suffix == ".npy" else teacher.refinement
    blocks = _blocks(sets, data, embed, batch_size, recipe.processes)
    with (
        replacing(path) as part,
        FORMATS[suffix](part, path, count, teacher.width, refinement is not None) as write,
    ):
        for block in blocks if refinement is None else _refined(blocks, refinement):
            write(block)
    return VectorTable(path, count, teacher.width, time.perf_counter() - start, precision)


def _embedder(teacher: Teacher, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the map from images `(B, C, H, W)` to vectors `(B, width)` on the CPU."""
    prepare = Normalise(teacher.mean, teacher.std, size=teacher.input_size, device=device)
    return lambda images: teacher(prepare(images.to(device))).cpu()


def _blocks(
    sets: Mapping[str, ImageSet], data: DataSet, embed: Callable[[Tensor], Tensor], batch_size: int, workers: int
) -> Iterator[Block]:
    """Yield the rows of each split, at least `AT_ONCE` at a time but for the last."""
    with tqdm(desc="embed", total=sum(map(len, sets.values())), unit="img", disable=no_bar()) as bar:
        for split, images in sets.items():
            rows, first, parts = list[Tensor](), 0, torch.split(torch.arange(len(images)), batch_size)
            with closing(images.batches(parts, workers)) as batches:
                for part, pixels in zip(parts, batches, strict=True):
                    rows.append(embed(pixels))
                    bar.update(len(part))
                    after = int(part[-1]) + 1
                    if after - first >= AT_ONCE or after == len(images):
                        yield _block(split, images.select(torch.arange(first, after)), torch.cat(rows), data)
                        rows, first = [], after


def _refined(blocks: Iterable[Block], refinement: NodeRefinement) -> Iterator[Block]:
    """Yield the rows with the vectors that a refinement makes of all of them."""
    held = list(blocks)
    moved = refinement(torch.cat([torch.from_numpy(block.vectors) for block in held])).float()
    for block, rows in zip(held, torch.split(moved, [len(block.vectors) for block in held]), strict=True):
        yield block._replace(refined=rows.numpy())


def _block(split: str, images: ImageSet, vectors: Tensor, data: DataSet) -> Block:
    names, finite = _names(images, data), vectors.isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = names[int((~finite).nonzero()[0])]
        raise RelgraphError(f"expected vectors of finite numbers, found others for {bad} of {split}")
    labels = [images.classes[label] if label >= 0 else "" for label in images.true_labels.tolist()]
    return Block(split, names, labels, vectors.numpy())


def _names(images: ImageSet, data: DataSet) -> list[str]:
    """Return how each image is called in a table."""
    names = data.file_names(images)
    if names is None:
        return [str(number) for number in images.index.tolist()]
    for name in names:
        if name.encode(errors="ignore") != os.fsencode(name):
            raise RelgraphError(f"expected names of files in UTF-8, found {name!a}")
    return names


@contextmanager
def _write_numpy(part: Path, path: Path, count: int, width: int, refined: bool) -> Iterator[Write]:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": (count, width)}
    # Not mapped into memory: of a full disk a map is told by a signal that ends the process.
    with (
        replacing(path.with_suffix(NAMES)) as named,
        named.open("w", encoding="utf-8") as names,
        part.open("wb") as rows,
    ):
        np.lib.format.write_array_header_1_0(rows, header)

        def write(block: Block) -> None:
            for name in block.names:
                if name.splitlines() != [name]:
                    told = f"expected names of files without line breaks, found {name!a}"
                    raise RelgraphError(f"{told}: write a .parquet or .csv file")
            names.writelines(f"{name}\n" for name in block.names)
            rows.write(block.vectors.astype("<f4").tobytes())

        yield write


@contextmanager
def _write_csv(part: Path, path: Path, count: int, width: int, refined: bool) -> Iterator[Write]:
    with part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            (*COLUMNS, *(f"{kind}{number}" for kind in ("vr" if refined else "v") for number in range(width)))
        )

        def write(block: Block) -> None:
            vectors = block.vectors if block.refined is None else np.concatenate([block.vectors, block.refined], axis=1)
            numbers = vectors.astype(str).tolist()  # the shortest text that reads as the same float32
            for name, label, row in zip(block.names, block.labels, numbers, strict=True):
                writer.writerow((name, block.split, label, *row))

        yield write


@contextmanager
def _write_parquet(part: Path, path: Path, count: int, width: int, refined: bool) -> Iterator[Write]:
    pyarrow, parquet = parquet_packages(path)
    vector = pyarrow.list_(pyarrow.float32(), width)
    kinds = [(name, vector) for name in (["vector", "refined"] if refined else ["vector"])]
    schema = pyarrow.schema([*((name, pyarrow.string()) for name in COLUMNS), *kinds])
    with parquet.ParquetWriter(part, schema) as writer:

        def write(block: Block) -> None:
            split = [block.split] * len(block.names)
            listed = (rows for rows in (block.vectors, block.refined) if rows is not None)
            rows = [pyarrow.FixedSizeListArray.from_arrays(each.ravel(), type=vector) for each in listed]
            writer.write_table(pyarrow.table([block.names, split, block.labels, *rows], schema=schema))

        yield write


FORMATS: dict[str, Callable[[Path, Path, int, int, bool], AbstractContextManager[Write]]] = {
    ".parquet": _write_parquet, ".csv": _write_csv, ".npy": _write_numpy
}  # fmt: skip
