import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from relgraph.data import sealed_rows
from relgraph.data.sealed_rows import SealedRows, write_rows
from tests.checks import assert_refused_like, case

SHAPE, START = (4, 2), 2**32 - 3  # the fourth row's CRC-32 begins at 0 again


def rows_of(dtype: str, width: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(-9, 9, (*SHAPE, width)).astype(dtype)


def test_rows_come_back_in_any_order_and_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_rows, "BLOCK", 3)
    for dtype, width in (("float32", 5), ("float16", 3), ("int64", 1)):
        rows = rows_of(dtype, width)
        write_rows(tmp_path / "rows.npy", rows, START)
        found = SealedRows(tmp_path / "rows.npy", SHAPE, width, dtype, START)
        order = np.array([7, 0, 3, 3])
        with case(dtype):
            assert len(found) == 8 and found.read(order).dtype == rows.dtype
            np.testing.assert_array_equal(found.read(order), rows.reshape(8, width)[order])
            assert found.read(order[:0]).shape == (0, width)
            blocks = list(found.blocks())
            assert [block for block, _ in blocks] == [slice(0, 3), slice(3, 6), slice(6, 8)]
            np.testing.assert_array_equal(np.concatenate([part for _, part in blocks]), rows.reshape(8, width))


def test_each_row_has_its_own_crc(tmp_path: Path) -> None:
    rows = rows_of("float16", 3)
    write_rows(tmp_path / "rows.npy", rows, START)
    table = np.load(tmp_path / "rows.npy").reshape(-1)
    expected = [zlib.crc32(row.tobytes(), (START + i) % 2**32) for i, row in enumerate(rows.reshape(8, 3))]
    assert table["crc32"].tolist() == expected


def test_other_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    write_rows(file, rows_of("float16", 3), START)
    of_header, of_row = "its header is another one", r"the CRC-32 of its row 0 is another one"

    def read(shape: tuple[int, ...] = SHAPE, width: int = 3, dtype: str = "float16", start: int = START) -> object:
        return SealedRows(file, shape, width, dtype, start).read(np.arange(8))

    assert_refused_like(
        (partial(read, shape=(2, 4)), of_header),
        (partial(read, width=4), of_header),
        (partial(read, dtype="int16"), of_header),
        (partial(read, start=START + 1), of_row),
    )
    np.save(file, np.zeros(0, dtype=object), allow_pickle=True)
    assert_refused_like((read, r"rows\.npy cannot be read \(.*\): the same relgraph embed command writes it again"))
    file.unlink()
    assert_refused_like((read, r"rows\.npy is missing: the same relgraph embed command writes it again"))
