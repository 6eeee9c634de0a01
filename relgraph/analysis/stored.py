"""The nodes of a teacher without a student: of a store of its embeddings, or of a table of vectors."""

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from relgraph.analysis.node_set import Nodes, NodeSet
from relgraph.analysis.run_loading import IMAGES_AT_ONCE, empty_rows
from relgraph.data.images import evenly
from relgraph.deploy.index import open_index
from relgraph.printing import no_bar


def stored_nodes(path: Path, data: Any = None, first: int | None = None) -> NodeSet:
    """Return the vectors in a store of `relgraph embed`, of each image itself, or in a table, as the teacher's nodes.

    Args:
        path: Directory of the store, or the table, `.npy` or `.parquet`.
        data: The data set of its images, which gives labels and images: of a store by default that which it names, if
            it is where it was; a table in Parquet may have classes itself.
        first: How many images, drawn evenly over the classes; all if `None`.

    Raises:
        RelgraphError: if it cannot be read, or its images are none of `data`.
    """
    index = open_index(path, data=data)
    known, every = index.describe(), torch.arange(len(index.rows))
    chosen = every if first is None or first >= len(every) else evenly(known.labels, first)
    x = empty_rows(len(chosen), index.rows.shape[1])
    for part in tqdm(torch.split(every[: len(x)], IMAGES_AT_ONCE), f"read {path}", leave=False, disable=no_bar()):
        x[part] = index.rows[chosen[part]].float()
    return NodeSet(
        "store", path, known.dataset, known.split, known.classes, chosen, known.labels[chosen],
        {"teacher": Nodes(x)}, "teacher", None if known.images is None else known.images.select(chosen),
        None if known.files is None else [known.files[place] for place in chosen.tolist()],
    )  # fmt: skip
