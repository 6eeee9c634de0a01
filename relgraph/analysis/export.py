"""The graph pair for other programs: networkx, GraphML and GEXF (Gephi, Cytoscape), node-link JSON (d3), and PyG."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor

from relgraph.analysis.graph_files import write_csv, write_gexf, write_graphml, write_parquet
from relgraph.analysis.graph_tables import Side as Side
from relgraph.analysis.graph_tables import (
    Table,
    about,
    edge_tables,
    node_tables,
    parts_of,
    with_neighbours,
    with_source,
)
from relgraph.analysis.nodes import check_attributes, columns_of
from relgraph.errors import RelgraphError, unknown
from relgraph.files import replacing, torch_load, torch_save
from relgraph.graph.pair import MATCHES, EdgeType, Pair, Texts, check_one, weights
from relgraph.processes import SINGLE_PROCESS

if TYPE_CHECKING:
    import networkx as nx

Names = Sequence[str] | None
HELD = ("held_by", "squares")  # what a factored pair holds beside its nodes: found again, and no plain values
EDGE_LIMIT = 1_000_000  # of networkx, in which an edge takes about 1 kB; the formats that are streamed have none


def to_networkx(pair: Pair, side: Side = "pair", attributes: Sequence[str] | None = None) -> "nx.Graph[str]":
    """Return the teacher's graph, the student's, both with the cross graph between them, or their difference.

    All pairs become an undirected `Graph`, each pair once and no node with itself; an edge list becomes a `DiGraph`
    from neighbour to anchor.

    Nodes are named `t0`, `t1`, ... and `s0`, `s1`, ... by their position in the pair. Attributes of a node: `kind`
    (`teacher` or `student`), `index` (in the data set where known, else the position) and, where the pair has them,
    `label`, `class_name`, `split`, `prediction`, `correct` and `labelled`, or instead those of `attributes`, which
    may name `degenerate`, `community` and `overlap` as well (see `nodes.measure`). They are read from `image_id`, `y`,
    `prediction` and their like of the pair's nodes, from `pair.classes` and from `pair.split`. A negative label is an
    unknown one: it is left out, and `correct` with it. Nodes with a `position` (see `layout.place`) have `x` and `y`.

    Attributes of an edge: `correlation`, the exact weight in the pair; `sign` of it (1, 0 or -1); `weight`, its
    magnitude, because layouts and shortest paths take neither negative weights nor 0 (an exact 0 weighs 1.2e-38, the
    smallest normal float32); `kind` (`teacher`, `student` or `match`); and `same_class`, whether it joins two images of
    one class, where both are known. Characters in names that XML cannot hold become U+FFFD.

    The side `difference`, of a `difference_pair`, has one node `n0`, `n1`, ... for an image; `student_` and `teacher_`
    stand before `prediction`, `correct`, `degenerate` and `community`. Its edges are those of one network alone, named
    by `only`, with `student_correlation`, `teacher_correlation`, `difference` (the student's less the teacher's), its
    `sign`, and its magnitude as `weight`.

    Attributes of the graph, of a pair with a `source`: `source`, whose vectors the nodes are of (see
    `relgraph.analysis.sources.title`), of both networks' the teacher's, and `name`, which says it in words.

    Raises:
        RelgraphError: for a batch of pairs, an unknown side or attribute, if the pair lacks its edges or an attribute,
            if there are more than 1,000,000 edges, if a weight is not finite, or if metadata are not one value for each
            node.

    >>> import torch
    >>> from relgraph.graph.pair import graph_pair
    >>> graph = to_networkx(graph_pair(torch.eye(3), torch.eye(3)))
    >>> graph.edges["t0", "s1"]
    {'weight': 0.5, 'sign': -1, 'correlation': -0.5, 'kind': 'match'}
    """
    import networkx as nx

    check_pair(pair, side, attributes)
    graph: nx.Graph[str] = nx.Graph() if pair.graph == "dense" else nx.DiGraph()
    graph.graph.update(about(pair, side))
    for table in node_tables(pair, side, attributes):
        for node, *values in _rows(table):
            graph.add_node(node, **_named(table, values, 1))
    for table in edge_tables(pair, side):
        for source, target, *values in _rows(table):
            graph.add_edge(source, target, **_named(table, values, 2))
    return graph


def _rows(table: Table) -> Iterator[tuple[Any, ...]]:
    for block in table.blocks():
        yield from zip(*block.values(), strict=True)


def _named(table: Table, values: list[Any], first: int) -> dict[str, Any]:
    """Return the attributes of a row by name, without those that it lacks."""
    names = [*table.columns][first:]
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def write_graph(
    pair: Pair, path: str | Path, format: str | None = None, side: Side = "pair", attributes: Names = None
) -> None:
    """Write a pair, whole or not at all; what was at the path is replaced.

    `graphml`, `gexf`, node-link `json`, `csv` and `parquet` hold what `to_networkx` returns, `pt` the pair itself, both
    sides of it and all it holds, for `read_pair`. Without a format the suffix of the path names it. All but `json` and
    `pt` are written a block of rows at a time, however many edges there are.

    A table, `csv` or `parquet`, holds the edges from `source` to `target`; the nodes, by their `id`, are in a second
    one beside it (see `nodes_file`). What the graph's attribute `source` is elsewhere, `graph_source` is in each row.
    Of one network's sparse graph the nodes in `parquet` have their `neighbors`, for embedding-atlas.

    In GraphML and GEXF nodes have what Gephi draws: a title, the name of the class or else the index; a colour by
    class; and a position, if the pair has one. The title is called `label` in both, so the number of the class is
    the attribute `class`. An edge between two images of one class has its colour, one between two classes is black,
    and grey where one is unknown; edges of the difference are blue if they are the teacher's alone and orange if the
    student's.

    Raises:
        RelgraphError: for an unknown format, side or attribute, if the file cannot be written, if a weight is not
            finite, where `to_networkx` raises it, and for `parquet` if pyarrow is not installed.
    """
    path = Path(path)
    name = check_format(path, format)
    parts_of(side)
    check_attributes(attributes or ())
    with replacing(path) as part, part.open("wb") as stream:
        if name not in TABLES:
            FORMATS[name](pair, stream, side, attributes)
            return
        check_pair(pair, side, attributes, name)
        nodes = node_tables(pair, side, attributes)
        if name == "parquet" and side in ("teacher", "student") and pair.graph == "sparse":
            nodes = [with_neighbours(nodes[0], pair, side)]
        with replacing(nodes_file(path)) as other, other.open("wb") as beside:
            TABLES[name](with_source(nodes, pair, side), beside)
            TABLES[name](with_source(edge_tables(pair, side), pair, side), stream)


def nodes_file(path: Path) -> Path:
    """Return where the nodes of a table of edges are: its name with "nodes" for "edges", or with "_nodes" added.

    >>> nodes_file(Path("edges.csv")).name, nodes_file(Path("graph.parquet")).name
    ('nodes.csv', 'graph_nodes.parquet')
    """
    stem = path.stem.replace("edges", "nodes") if "edges" in path.stem else f"{path.stem}_nodes"
    return path.with_name(stem + path.suffix)


def check_pair(pair: Pair, side: Side, attributes: Names = None, format: str = "json") -> None:
    """Raise the RelgraphError that `write_graph` would raise, before work is done on the pair."""
    kinds, edges = parts_of(side)
    check_one(pair)
    _check_edges(pair, edges, limited=format == "json")
    columns_of(pair, kinds, attributes)


def check_format(path: Path, format: str | None = None) -> str:
    """Return the name of the format to write, the one given or else the one that the path's suffix names.

    Raises:
        RelgraphError: for an unknown format.

    >>> check_format(Path("graph.GEXF"))
    'gexf'
    """
    name = format if format is not None else path.suffix.removeprefix(".").lower()
    if name not in FORMATS and name not in TABLES:
        raise unknown("graph format", name, [*FORMATS, *TABLES])
    return name


def read_pair(path: str | Path) -> Pair:
    """Return the pair that `write_graph` wrote as `pt`; nothing but tensors and plain values is unpickled.

    Raises:
        RelgraphError: if the file is missing, truncated, another program's, or holds anything else.
    """
    from relgraph.graph.pyg import HeteroData

    path = Path(path)
    if path.is_file() and not zipfile.is_zipfile(path):  # torch would take it for a pickle of its early days
        raise RelgraphError(f"cannot read the graph pair {path}: the file is truncated, or not one of torch.save")
    try:
        stored = torch_load(path)
    except ValueError as error:
        raise RelgraphError(f"cannot read the graph pair {path}: {error}") from error
    stores = stored if isinstance(stored, dict) else {}
    named = all(isinstance(store, dict) and all(isinstance(name, str) for name in store) for store in stores.values())
    if not (named and {"student", "teacher"} & stores.keys() and "graph" in stores.get("_global_store", ())):
        told = "must hold a graph pair of student and teacher, or the graph of one"
        raise RelgraphError(f"{path} {told}, got {type(stored).__name__}")
    if stores["_global_store"].get("form") == "factored":
        stores["_global_store"]["held_by"] = SINGLE_PROCESS
    for name, store in stores.items():
        for key, value in store.items() if name != "_global_store" else ():
            if isinstance(value, list):
                store[key] = Texts(value)
    return HeteroData.from_dict(stored)


def _check_edges(pair: Pair, edges: tuple[EdgeType, ...], limited: bool) -> None:
    count = 0
    for edge_type in edges:
        if edge_type not in pair.edge_types:
            raise RelgraphError(f"the pair must hold the edges {' '.join(edge_type)}, got {pair.edge_types}")
        found = weights(pair, edge_type)
        if not bool(found.isfinite().all()):
            raise RelgraphError(f"weights must be finite, got NaN or infinity among the edges {' '.join(edge_type)}")
        pairs_once = pair.graph == "dense" and edge_type != MATCHES
        count += len(found) * (len(found) - 1) // 2 if pairs_once else found.numel()
    if limited and count > EDGE_LIMIT:
        advice = "take fewer nodes, one side or a sparse graph, or another format than json"
        raise RelgraphError(f"a graph for networkx takes at most {EDGE_LIMIT:,} edges, got {count:,}: {advice}")


def _in_xml(write: Callable[..., None]) -> "Writer":
    """Return the writer of a format that Gephi draws."""

    def writer(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
        check_pair(pair, side, attributes, "xml")
        nodes, edges = node_tables(pair, side, attributes, gephi=True), edge_tables(pair, side, gephi=True)
        write(nodes, edges, pair.graph != "dense", stream, about(pair, side))

    return writer


def _write_json(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
    import networkx as nx

    data = nx.node_link_data(to_networkx(pair, side, attributes), edges="edges")
    stream.write(json.dumps(data, ensure_ascii=False, allow_nan=False).encode())


def _write_pt(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
    check_one(pair)
    stores = pair.to_dict()
    for name in HELD:
        stores["_global_store"].pop(name, None)
    for store in stores.values():
        for name, value in store.items():
            if isinstance(value, Texts):
                store[name] = list(value)
            elif isinstance(value, Tensor):
                kept = value.detach().cpu()
                # torch saves all of a tensor's storage; one that fills its own may lie in a file and is not copied.
                store[name] = kept if kept.untyped_storage().nbytes() == kept.nbytes else kept.clone()
    torch_save(stores, stream)


Writer = Callable[[Pair, IO[bytes], Side, Names], None]
FORMATS: dict[str, Writer] = {
    "graphml": _in_xml(write_graphml), "gexf": _in_xml(write_gexf), "json": _write_json, "pt": _write_pt
}  # fmt: skip
TABLES = {"csv": write_csv, "parquet": write_parquet}
