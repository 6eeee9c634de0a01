"""Embeddings of a whole split that need not fit memory: large ones are memory-mapped from a temporary file."""

from tempfile import NamedTemporaryFile
from typing import IO

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.files import first_line

# Bytes of a network's embeddings in memory, at most: those of 1,281,167 images are in a file from width 210 on.
MEMORY_LIMIT = 2**30


class RowTable:
    """Rows `(N, D)` float32 that arrive a part at a time, held in memory or, where that is too much, in a file.

    The file is in the folder of temporary files (`TMPDIR`), which is best none that itself lies in memory, and is
    mapped: the system keeps in memory what there is room for. It has no name any more once it is mapped, and is gone
    with the tensor.

    >>> rows = RowTable(3)
    >>> rows.add(torch.eye(2)), rows.add(torch.ones(1, 2))
    (None, None)
    >>> rows.tensor().shape
    torch.Size([3, 2])
    """

    def __init__(self, count: int) -> None:
        """Begin with none of `count` rows."""
        self._count, self._filled = count, 0
        self._table = torch.empty(0)
        self._file: IO[bytes] | None = None

    def add(self, part: Tensor) -> None:
        """Append rows, `(B, D)`.

        Raises:
            RelgraphError: if the temporary file cannot be written.
        """
        part = part.detach().float().cpu()
        if self._filled == 0:
            self._allocate(part.shape[1])
        if self._file is None:
            self._table[self._filled : self._filled + len(part)] = part
        else:
            remaining = part.contiguous().numpy().data.cast("B")
            try:
                while remaining:
                    remaining = remaining[self._file.write(remaining) :]
            except OSError as error:
                self._file.close()
                raise RelgraphError(f"{self._file.name} cannot be written: {first_line(error)}") from error
        self._filled += len(part)

    def tensor(self) -> Tensor:
        """Return all rows once they are there, `(N, D)`."""
        if self._file is None:
            return self._table
        with self._file as file:
            width = file.tell() // (4 * self._count)
            table = torch.from_file(file.name, shared=True, size=self._count * width)
        return table.view(self._count, width)

    def _allocate(self, width: int) -> None:
        if 4 * self._count * width <= MEMORY_LIMIT:
            self._table = torch.empty(self._count, width)
            return
        try:
            self._file = NamedTemporaryFile(prefix="relgraph-", buffering=0)  # noqa: SIM115 (closed in the end)
        except OSError as error:
            raise RelgraphError(f"a temporary file cannot be opened: {first_line(error)}") from error
