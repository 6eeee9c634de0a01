"""How many bytes one process receives in a step where a batch is spread over W processes.

For a loss like EGA's, on two networks' embeddings of one width. All processes together hold W times the rows of one;
what a process receives it also sends. A sum over processes is counted as a ring has it: each of W parts of a tensor
goes round once to be summed and once to be known, `2 (W - 1) / W` of its bytes; so are the gradients of DDP.
"""

PRODUCT = 8  # bytes of a number of a product, float64
POSITION = 8  # bytes of an index, and of a label


def gathered(rows: int, dim: int, processes: int, itemsize: int = 4) -> int:
    """Return what gathering takes: the others' rows of both networks, with index and label of each image.

    Args:
        rows: Images of one process, N / W.
        dim: Width D of the embeddings.
        processes: W.
        itemsize: Bytes of a number of the embeddings.

    >>> gathered(64, 256, 1), gathered(64, 256, 3)
    (0, 264192)
    """
    return (processes - 1) * rows * (2 * dim * itemsize + 2 * POSITION)


def summed(dim: int, processes: int) -> float:
    """Return what the factored form takes: the sum of three products `(D, D)` in float64, whatever the batch.

    >>> summed(256, 2)
    1572864.0
    """
    return _ring(3 * dim**2 * PRODUCT, processes)


def averaged(parameters: int, processes: int, itemsize: int = 4) -> float:
    """Return what averaging the gradients of so many parameters takes, with any loss.

    >>> averaged(1_000_000, 4)
    6000000.0
    """
    return _ring(parameters * itemsize, processes)


def _ring(size: int, processes: int) -> float:
    return 2 * (processes - 1) / processes * size
