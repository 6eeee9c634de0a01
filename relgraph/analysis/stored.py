"""The nodes of a teacher without a student: of a store of its embeddings, or of a table of vectors."""

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from relgraph.analysis.node_set import Nodes, NodeSet
from relgraph.analysis.run_loading import IMAGES_AT_ONCE, empty_rows
from relgraph.deploy.index import open_index
from relgraph.printing import no_bar


def stored_nodes(path: Path, data: Any = None, first: int | None = None) -> NodeSet:
    """Return the vectors in a store of `relgraph embed`, of each image itself, or in a table, as the teacher's nodes.

    Args:
        path: Directory of the store, or the table, `.npy` or `.parquet`.
        data: The data set of its images, which gives labels and images: of a store by default that which it names, if
            it is where it was; a table in Parquet may have classes itself.
        first: How many images; all if `None`.

    Raises:
        RelgraphError: if it cannot be read, or its images are none of `data`.
    """
    index = open_index(path, data=data)
    count = min(len(index.rows), first or len(index.rows))
    x, parts = empty_rows(count, index.rows.shape[1]), torch.split(torch.arange(count), IMAGES_AT_ONCE)
    for part in tqdm(parts, f"read {path}", leave=False, disable=no_bar()):
        x[part] = index.rows[part].float()
    found = index.describe(count)
    return NodeSet(
        "store", path, found.dataset, found.split, found.classes, torch.arange(count), found.labels,
        {"teacher": Nodes(x)}, "teacher", images=found.images, names=found.names,
    )  # fmt: skip
