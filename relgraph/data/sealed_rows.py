"""Rows in a file, each with its CRC-32, which is compared whenever the row is read."""

import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relgraph.errors import RelgraphError
from relgraph.files import first_line, replacing

BLOCK = 4096  # rows that are read at a time where all of a file are
# Rows of an even number of bytes up to this have their CRC-32 from tables, many rows at a time: for the 24 bytes of an
# image's record that takes a sixth of what a call of zlib a row does. The tables take 128 KiB a byte.
NARROW = 32


class SealedRows:
    """Rows in a `.npy` file, mapped into memory: an array of records with the fields `row` and `crc32`.

    The CRC-32 of a row begins with a number that no row of the same store has, nor, but for chance, one of another
    store: a row that was moved or comes from elsewhere is noticed like one with another bit.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], width: int, dtype: str, start: int) -> None:
        """Open the rows `(*shape, width)` in a file; the CRC-32 of the first one begins with `start`.

        Raises:
            RelgraphError: if it is missing, or holds other rows.
        """
        self.file, self.dtype, self._start = file, np.dtype(dtype), start
        record = record_type(self.dtype, width)
        try:
            with warnings.catch_warnings(action="error"):  # numpy warns where it repairs a header
                found = np.lib.format.open_memmap(file, mode="r")
        except FileNotFoundError:
            raise self._fault("is missing") from None
        except Exception as error:  # a damaged header makes numpy raise nearly anything
            raise self._fault(f"cannot be read ({first_line(error)[:200]})") from error
        if (found.dtype, found.shape) != (record, shape):
            raise self._fault(f"is damaged: expected {shape} rows of {width}, its header is another one")
        whole, size = found.offset + found.nbytes, file.stat().st_size
        if size != whole:
            raise self._fault(f"is damaged: expected {whole:,} bytes, it has {size:,}")
        self._bytes = _bytes(np.asarray(found))  # of a memmap, each slice would be one again

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._bytes)

    def read(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return copies of rows by their numbers, `(B, width)`, of which each is contiguous.

        Raises:
            RelgraphError: if one is not as it was written.
        """
        records = self._bytes[numbers]
        found = records[:, -4:].view("<u4")[:, 0]
        wrong = (found != _checksums(records, self._start + numbers)).nonzero()[0]
        if len(wrong):
            raise self._fault(f"is damaged: the CRC-32 of its row {numbers[wrong[0]]} is another one than was written")
        return records[:, :-4].view(self.dtype)

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield all rows, some at a time, each time with their numbers.

        Raises:
            RelgraphError: if one is not as it was written.
        """
        for first in range(0, len(self), BLOCK):
            block = slice(first, min(first + BLOCK, len(self)))
            yield block, self.read(np.arange(block.start, block.stop))

    def _fault(self, what: str) -> RelgraphError:
        return RelgraphError(f"{self.file} {what}: the same relgraph embed command writes it again")


def write_rows(file: Path, rows: NDArray[Any], start: int) -> None:
    """Write rows `(..., width)` as `SealedRows` reads them, whole or not at all.

    Raises:
        RelgraphError: if the file cannot be written.
    """
    table = np.empty(rows.shape[:-1], record_type(rows.dtype, rows.shape[-1]))
    table["row"] = rows
    flat = table.reshape(-1)
    flat["crc32"] = _checksums(_bytes(table), start + np.arange(len(flat)))
    with replacing(file) as part, part.open("wb") as stream:
        np.save(stream, table, allow_pickle=False)


def record_type(dtype: np.dtype[Any], width: int) -> np.dtype[Any]:
    """Return the type of a row in a file: `width` numbers and their CRC-32."""
    return np.dtype([("row", dtype.newbyteorder("<"), (width,)), ("crc32", "<u4")])


def _bytes(table: NDArray[Any]) -> NDArray[np.uint8]:
    """Return records as their bytes `(records, bytes)`, of which the last four are the CRC-32."""
    return table.reshape(-1).view(np.uint8).reshape(table.size, table.itemsize)


def _checksums(records: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint32]:
    width = records.shape[1] - 4
    if 4 <= width <= NARROW and width % 2 == 0:
        return _narrow_checksums(records, starts)
    pairs = zip(records, (starts % 2**32).tolist(), strict=True)
    return np.fromiter((zlib.crc32(record[:-4], start) for record, start in pairs), np.uint32, len(records))


def _narrow_checksums(records: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row by tables.

    A CRC is linear: what it begins with is added to (XOR) the first four bytes, and it is the sum of what each two
    bytes of the row come to by themselves, with zeros around them.
    """
    words = np.ascontiguousarray(records).view("<u2").T
    begin = ~starts.astype(np.uint32)
    found = np.full(len(records), 2**32 - 1, np.uint32)
    for number, table in enumerate(_tables(records.shape[1] - 4)):
        word = words[number]
        if number < 2:
            word = word ^ (begin >> 16 * number).astype(np.uint16)
        found ^= table[word]
    return found


@cache
def _tables(width: int) -> list[NDArray[np.uint32]]:
    """Return for each two bytes of a row what they add to its CRC-32, by their value."""
    byte = np.array([zlib.crc32(bytes([value])) ^ zlib.crc32(b"\0") for value in range(256)], np.uint32)
    of_bytes = [byte]
    while len(of_bytes) < width:  # by one zero behind them more
        of_bytes.append(byte[of_bytes[-1] & 255] ^ of_bytes[-1] >> 8)
    value = np.arange(2**16)
    return [of_bytes[i][value & 255] ^ of_bytes[i - 1][value >> 8] for i in range(width - 1, 0, -2)]
