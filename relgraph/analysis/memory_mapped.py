"""Embeddings of a whole split that need not fit memory: large ones are memory-mapped from a temporary file."""

import os
from tempfile import NamedTemporaryFile, gettempdir

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.files import first_line

# Bytes of a network's embeddings in memory, at most: those of 1,281,167 images are in a file from width 210 on.
MEMORY_LIMIT = 2**30


def empty_rows(count: int, width: int) -> Tensor:
    """Return rows `(N, D)` float32 to be filled, in memory or, where that is too much, in a file.

    The file is in the folder of temporary files (`TMPDIR`), which is best none that itself lies in memory, and is
    mapped: the system keeps in memory what there is room for. It has no name any more once it is mapped, and is gone
    with the tensor.

    Raises:
        RelgraphError: if the temporary file cannot be opened, or the disk has no room for it.

    >>> empty_rows(3, 2).shape
    torch.Size([3, 2])
    """
    if 4 * count * width <= MEMORY_LIMIT:
        return torch.empty(count, width)
    try:
        with NamedTemporaryFile(prefix="relgraph-") as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be noticed by a signal that ends the program
                os.posix_fallocate(file.fileno(), 0, 4 * count * width)
            return torch.from_file(file.name, shared=True, size=count * width).view(count, width)
    except OSError as error:
        raise RelgraphError(f"a temporary file in {gettempdir()} cannot be written: {first_line(error)}") from error
