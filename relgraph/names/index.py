"""Names of the transforms of an index: `centre`, `pca:D` and `none`."""

from typing import NamedTuple

from relgraph.errors import RelgraphError

DEFAULT = "centre"
SPELLINGS = "centre, pca:D or none"


class Fitting(NamedTuple):
    """What `VectorTransform.fit` is asked for.

    Attributes:
        pca: Number of principal directions; `None` for all as they are.
        centre: Whether the mean is subtracted.
    """

    pca: int | None
    centre: bool


def index_transform(spelling: str) -> Fitting:
    """Return what a spelling of an index's transform stands for, whose vectors are of length 1 before and after it.

    `centre` subtracts the mean of the training vectors, `pca:D` keeps their D principal directions then, and `none`
    does neither.

    Raises:
        RelgraphError: for another spelling.

    >>> index_transform("pca:64"), index_transform("none")
    (Fitting(pca=64, centre=True), Fitting(pca=None, centre=False))
    """
    name, colon, number = spelling.partition(":")
    if name == "pca" and number.isdecimal() and int(number) > 0:
        return Fitting(int(number), True)
    if colon or name not in ("centre", "none"):
        raise RelgraphError(f"the transform of an index is {SPELLINGS}, with a number D of directions, got {spelling}")
    return Fitting(None, name == "centre")
