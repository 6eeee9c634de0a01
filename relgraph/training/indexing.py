"""The transform of an index, fitted to the rows of a store of embeddings."""

from pathlib import Path

from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.index_transform import read_transform, write_transform
from relgraph.errors import RelgraphError
from relgraph.graph.alignment import VectorTransform
from relgraph.names.index import DEFAULT, index_transform


def fit_index(path: Path, spelling: str | None = None) -> str:
    """Give the finished store at `path` the transform of an index, and return its spelling.

    It is fitted to the first view of all images, read a block at a time; rows stay as they are.

    Args:
        path: Directory of the store.
        spelling: `centre`, `pca:D` or `none`; if not given what the store has, or `centre` where it has none.

    Raises:
        RelgraphError: for another spelling, more directions than the rows vary in, or files that cannot be read or
            written.
    """
    try:
        found = read_transform(path)
    except RelgraphError:  # damaged: written again
        found = None
    if found is not None and spelling in (None, found[1]):
        return found[1]
    wanted = spelling or DEFAULT
    fitting = index_transform(wanted)
    transform = VectorTransform.fit(EmbeddingStore(path).view(0), pca=fitting.pca, centre=fitting.centre)
    write_transform(path, transform, wanted)
    return wanted
