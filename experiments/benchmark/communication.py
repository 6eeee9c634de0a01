"""Communication volume: the bytes that one process receives in a step where a batch is spread over W processes.

For a loss like EGA's, on two networks' embeddings of one width. All processes together hold W times the rows of one;
what a process receives it also sends. A sum over processes is counted as a ring has it: each of W parts of a tensor
goes round once to be summed and once to be distributed, `2 (W - 1) / W` of its bytes; so are the gradients of DDP.
"""

PRODUCT = 8  # bytes of a number of a product, float64
POSITION = 8  # bytes of an index, and of a label


def gather_bytes(rows: int, dim: int, processes: int, itemsize: int = 4) -> int:
    """Return the bytes of gathering: the others' rows of both networks, with index and label of each image.

    Args:
        rows: Images of one process, N / W.
        dim: Width D of the embeddings.
        processes: W.
        itemsize: Bytes of a number of the embeddings.

    >>> gather_bytes(64, 256, 1), gather_bytes(64, 256, 3)
    (0, 264192)
    """
    return (processes - 1) * rows * (2 * dim * itemsize + 2 * POSITION)


def product_bytes(dim: int, processes: int) -> float:
    """Return the bytes of the factored form: the sum of three products `(D, D)` in float64, whatever the batch.

    >>> product_bytes(256, 2)
    1572864.0
    """
    return _ring_bytes(3 * dim**2 * PRODUCT, processes)


def gradient_bytes(parameters: int, processes: int, itemsize: int = 4) -> float:
    """Return the bytes of averaging the gradients of so many parameters, with any loss.

    >>> gradient_bytes(1_000_000, 4)
    6000000.0
    """
    return _ring_bytes(parameters * itemsize, processes)


def _ring_bytes(size: int, processes: int) -> float:
    return 2 * (processes - 1) / processes * size
