"""Files of edges over images: a table of both ends and weights, or tensors as PyTorch Geometric has them."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.files import read_parquet, reading, replacing, torch_load, torch_save

COLUMNS = ("source", "target")
OF_EXPORT = "graph_source"  # a column of the tables that `relgraph export` writes


class EdgeList(NamedTuple):
    """Edges as a file names them: neighbours and anchors, both as positions or both as names, and their weights."""

    sources: Sequence[int] | Sequence[str]
    targets: Sequence[int] | Sequence[str]
    weights: Tensor | None


def read_edges(path: Path) -> EdgeList:
    """Return the edges of a file.

    A table, `.csv` or `.parquet`, has the columns `source` (the neighbour), `target` (the anchor) and, if it likes,
    `weight`; further ones are left alone. A `.pt` file holds a tensor `edge_index` (2, E), as PyTorch Geometric has it,
    or a dict of it and `edge_weight` (E,).

    Raises:
        RelgraphError: if the file cannot be read, holds no edge, or a weight that is no finite number.
    """
    readers = {".csv": _of_csv, ".parquet": _of_parquet, ".pt": _of_torch}
    if path.suffix not in readers:
        raise RelgraphError(f"expected edges in a file {', '.join(readers)}, got {path}")
    found = readers[path.suffix](path)
    if not len(found.sources):
        raise RelgraphError(f"{path}: expected at least one edge, found none")
    if found.weights is not None and not bool(found.weights.isfinite().all()):
        edge = int((~found.weights.isfinite()).nonzero()[0])
        raise RelgraphError(f"{path}: expected finite weights, found {float(found.weights[edge])} of edge {edge}")
    return found


def write_edges(path: Path, edge_index: Tensor, weights: Tensor | None = None) -> None:
    """Write edges (2, E) to a `.pt` file, as `read_edges` reads them."""
    content = {"edge_index": edge_index.int()} | ({} if weights is None else {"edge_weight": weights})
    with replacing(path) as part, part.open("wb") as stream:
        torch_save(content, stream)


def _of_csv(path: Path) -> EdgeList:
    with reading(path):
        text = path.read_bytes()
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text.decode("utf-8-sig")), strict=True) if row]
        columns = {name.strip(): [row[at].strip() for row in rows] for at, name in enumerate(header)}
    except (UnicodeDecodeError, csv.Error, ValueError, IndexError) as error:
        told = "expected rows of as many cells as the header has, in UTF-8 with commas between them"
        raise RelgraphError(f"{path}: {told}") from error
    content = dict[str, list[Any]](columns)
    if all(text.isdecimal() for name in COLUMNS for text in columns.get(name, ())):
        content |= {name: [int(text) for text in columns[name]] for name in COLUMNS if name in columns}
    try:
        content |= {"weight": [float(text) for text in columns["weight"]]} if "weight" in columns else {}
    except ValueError as error:
        raise RelgraphError(f"{path}: expected a number as the weight of each edge ({error})") from error
    return _of_columns(path, content)


def _of_parquet(path: Path) -> EdgeList:
    table = read_parquet(path)
    names = [name for name in (*COLUMNS, "weight", OF_EXPORT) if name in table.column_names]
    return _of_columns(path, {name: table[name].to_pylist() for name in names})


def _of_columns(path: Path, columns: Mapping[str, list[Any]]) -> EdgeList:
    if not columns.keys() >= set(COLUMNS):
        found = ", ".join(columns)[:100] or "others"
        raise RelgraphError(f"{path}: expected the columns source, target and, if given, weight, found {found}")
    sources, targets = (columns[name] for name in COLUMNS)
    ends = (*sources, *targets)
    if {type(end) for end in ends} not in ({int}, {str}, set()) or "" in ends:
        raise RelgraphError(f"{path}: expected source and target as positions or as names alike, without empty cells")
    if OF_EXPORT in columns and isinstance(next(iter(sources), None), str):
        told = "as `relgraph export` writes them, with the nodes beside it"
        raise RelgraphError(f"{path} has edges {told}: expected each end's `index` there in place of its `id`")
    weights = columns.get("weight")
    if weights is not None and not all(isinstance(weight, int | float) for weight in weights):
        raise RelgraphError(f"{path}: expected a number as the weight of each edge")
    return EdgeList(sources, targets, None if weights is None else torch.tensor(weights, dtype=torch.float32))


def _of_torch(path: Path) -> EdgeList:
    with reading(path):
        path.open("rb").close()
    try:
        content = torch_load(path)
    except ValueError as error:
        raise RelgraphError(f"{path}: expected tensors that torch saved: {error}") from error
    content = content if isinstance(content, dict) else {"edge_index": content}
    index, weights = content.get("edge_index"), content.get("edge_weight")
    if not isinstance(index, Tensor) or index.ndim != 2 or len(index) != 2 or index.is_floating_point():
        raise RelgraphError(f"{path}: expected edge_index, a tensor (2, E) of integers, alone or in a dict")
    if weights is not None and (not isinstance(weights, Tensor) or weights.shape != index.shape[1:]):
        raise RelgraphError(f"{path}: expected edge_weight, a tensor of {index.shape[1]} numbers")
    sources, targets = index.tolist()
    return EdgeList(sources, targets, None if weights is None else weights.float())
