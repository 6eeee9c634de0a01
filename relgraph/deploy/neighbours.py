"""How many of their nearest neighbours two networks have in common, on the images of a split."""

from torch import Tensor

from relgraph.analysis.analysis import BLOCKS
from relgraph.analysis.neighbourhoods import neighbour_overlap
from relgraph.errors import RelgraphError

NEIGHBOURS, IMAGES = 10, 10_000  # k, and of how many images at most


def neighbours_among(images: int) -> int:
    """Return the number of neighbours that are compared among so many images.

    Raises:
        RelgraphError: for fewer than three, of which each would have all others.
    """
    if images < 3:
        raise RelgraphError(f"neighbours are compared among three images or more, got {images}")
    return min(NEIGHBOURS, images - 2)


def nearest(vectors: Tensor, k: int) -> Tensor:
    """Return each image's k nearest others by correlation, `(N, D) -> (N, k)`, as `analyse` finds them."""
    return BLOCKS(vectors.float(), k)[0]


def overlap(student: Tensor, teacher: Tensor) -> float:
    """Return the mean share of neighbours on which two tables `(N, k)` agree, 0 to 1."""
    return float(neighbour_overlap(student, teacher).mean())
