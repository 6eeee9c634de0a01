"""A teacher that is known only by its vectors of the training images: a file, and no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.files import file_digest, first_line, read_parquet, reading
from relgraph.networks.sources import Arguments, Pretrained, TeacherSource
from relgraph.networks.teachers import Teacher
from relgraph.outputs import Output

NAMES = ".names.txt"  # in place of .npy
AT_ONCE = 2**16  # rows that are checked at a time
FLOATS = [np.dtype(name) for name in ("float16", "float32", "float64")]  # that torch has, in the order of its bytes


@dataclass(frozen=True)
class VectorSource(TeacherSource):
    """The spelling `vectors:FILE`, of which no network can be loaded."""

    file: Path

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Raise RelgraphError, since there is no network."""
        raise no_network(f"vectors:{self.file}")


def no_network(name: str) -> RelgraphError:
    """Return the error for a use of a teacher that needs its network."""
    told = "holds a teacher's vectors of the training images, where its network is needed"
    return RelgraphError(f"{name} {told}: give another teacher")


@dataclass(frozen=True, eq=False)
class VectorFile:
    """The vectors `(N, D)` of a file, the names of their images if it has them, and the SHA-256 of what it holds.

    `labels` are the images' classes, "" where unknown, if it has them.
    """

    path: Path
    rows: NDArray[Any]
    names: Sequence[str] | None
    sha256: str
    labels: Sequence[str] | None = None

    @classmethod
    def read(cls, path: Path) -> "VectorFile":
        """Return the vectors of a NumPy file `(N, D)`, or of a Parquet file with names.

        Names of the images of `vectors.npy` are the lines of `vectors.names.txt`, if that is beside it. A Parquet file
        has one column of vectors, and one of names or several with one called `name`; one called `label` has classes.

        Raises:
            RelgraphError: if it cannot be read, is of another shape or type than float16, float32 or float64, or holds
                what is no finite number.
        """
        parquet = path.suffix.lower() == ".parquet"
        rows, names, labels = _read_parquet(path) if parquet else _read_numpy(path)
        beside = path.with_suffix(NAMES)
        files = [path, beside] if names is not None and not parquet else [path]
        if rows.ndim != 2 or rows.dtype not in FLOATS or 0 in rows.shape:
            told = "expected vectors (N, D) of float16, float32 or float64"
            raise RelgraphError(f"{path}: {told}, found {rows.shape} of {rows.dtype}")
        if names is not None and len(names) != len(rows):
            raise RelgraphError(f"{path}: expected a name for each of {len(rows)} vectors, found {len(names)}")
        for start in range(0, len(rows), AT_ONCE):
            finite = np.isfinite(rows[start : start + AT_ONCE]).all(axis=1)
            if not finite.all():
                raise RelgraphError(
                    f"{path}: expected finite numbers, found others in row {start + int(finite.argmin())}"
                )
        return cls(path, rows, names, file_digest(*files), labels)


def _read_numpy(path: Path) -> tuple[NDArray[Any], list[str] | None, None]:
    if path.suffix.lower() != ".npy":
        raise RelgraphError(f"expected vectors:FILE.npy or FILE.parquet, got {path}")
    try:
        with reading(path):
            rows = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        if isinstance(error, RelgraphError):
            raise
        raise RelgraphError(f"{path}: expected an array of NumPy ({first_line(error)[:200]})") from error
    names = path.with_suffix(NAMES)
    if not names.is_file():
        return rows, None, None
    try:
        with reading(names):
            return rows, names.read_text(encoding="utf-8").splitlines(), None
    except UnicodeDecodeError as error:
        raise RelgraphError(f"{names}: expected a name a line in UTF-8, found other bytes") from error


def _read_parquet(path: Path) -> tuple[NDArray[Any], list[str], list[str] | None]:
    table = read_parquet(path, "an .npy file")
    from pyarrow import compute

    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    names = [name for name, kind in kinds.items() if kind in ("string", "large_string", "string_view")]
    labels = [label or "" for label in table["label"].to_pylist()] if {"name", "label"} <= {*names} else None
    names = ["name"] if "name" in names else names  # beside split and label, as `relgraph embed` writes them
    vectors = [name for name, kind in kinds.items() if "list<" in kind]
    if len(names) != 1 or len(vectors) != 1 or any(table[name].null_count for name in (*names, *vectors)):
        told = "expected one column of names and one of lists of numbers, without nulls"
        raise RelgraphError(f"{path}: {told}, found {', '.join(f'{name} ({kind})' for name, kind in kinds.items())}")
    lengths = compute.list_value_length(table[vectors[0]]).unique().to_pylist()
    if len(lengths) != 1:
        raise RelgraphError(f"{path}: expected vectors of one length, found {len(lengths)} lengths")
    values = table[vectors[0]].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    # A copy, since torch wants an array that could be written.
    return np.array(values).reshape(len(table), lengths[0]), table[names[0]].to_pylist(), labels


class VectorTeacher(Teacher):
    """A frozen teacher without a network: it knows one vector of each training image.

    Attributes:
        width: Length of a vector.
        file: The file of its vectors.
    """

    def __init__(self, file: VectorFile, row: Tensor) -> None:
        """Take the vectors, and the row `(N,)` of each training image, or of each image of another split."""
        nn.Module.__init__(self)
        self.file = file
        self.name, self.width = f"vectors:{file.path}", file.rows.shape[1]
        self._table, self._row, self._sha256 = torch.from_numpy(file.rows), row, file.sha256

    def rows(self, index: Tensor) -> Tensor:
        """Return the vectors `(B, width)` float32 of training images at positions `(B,)`, on the CPU."""
        return self._table[self._row[index.cpu()]].float()

    def features(self, images: Tensor, *, maps: bool = True) -> Output:
        """Raise RelgraphError, since there is no network."""
        raise no_network(self.name)

    def map_shapes(self, side: int | tuple[int, int] = 0) -> tuple[tuple[int, int, int], ...]:
        """Return `()`: there are no stage maps."""
        return ()

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file, and of the names beside it."""
        return self._sha256
