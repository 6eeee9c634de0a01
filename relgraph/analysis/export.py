"""The graph pair for other programs: networkx, GraphML and GEXF (Gephi, Cytoscape), node-link JSON (d3), and PyG."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from relgraph.analysis.colours import rgb
from relgraph.analysis.nodes import check_attributes, columns_of, nodes_of, titles_of
from relgraph.errors import RelgraphError, unknown
from relgraph.files import replacing, torch_load, torch_save
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, EdgeType, Pair, adjacency, weights

if TYPE_CHECKING:
    import networkx as nx

Side = Literal["teacher", "student", "pair", "difference"]
Names = Sequence[str] | None
# Nodes and edges of each side, by PyG's names.
SIDES: dict[str, tuple[tuple[str, ...], tuple[EdgeType, ...]]] = {
    "teacher": (("teacher",), (TEACHER,)),
    "student": (("student",), (STUDENT,)),
    "pair": (("teacher", "student"), (TEACHER, STUDENT, MATCHES)),
    "difference": (("student", "teacher"), (STUDENT, TEACHER)),
}
# The smallest normal float32: the weight of an exact 0. It is not 0 for programs that read single precision either.
NO_WEIGHT = torch.finfo(torch.float32).tiny
# An edge takes about 1 kB in networkx and 2 kB more while its GraphML or GEXF is written.
EDGE_LIMIT = 1_000_000
# Of the edges of one network alone, in Gephi: blue is the teacher's, orange the student's.
EDGE_COLOURS = {"teacher": "#0072b2", "student": "#d55e00"}


def parts_of(side: str) -> tuple[tuple[str, ...], tuple[EdgeType, ...]]:
    """Return the kinds of nodes and of edges of a side.

    Raises:
        RelgraphError: for an unknown one.
    """
    if side not in SIDES:
        raise unknown("side", side, SIDES)
    return SIDES[side]


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
    smallest normal float32); and `kind` (`teacher`, `student` or `match`). Characters in names that XML cannot hold
    become U+FFFD.

    The side `difference`, of a `difference_pair`, has one node `n0`, `n1`, ... for an image; `student_` and `teacher_`
    stand before `prediction`, `correct`, `degenerate` and `community`. Its edges are those of one network alone, named
    by `only`, with `student_correlation`, `teacher_correlation`, `difference` (the student's less the teacher's), its
    `sign`, and its magnitude as `weight`.

    Raises:
        RelgraphError: for an unknown side or attribute, if the pair lacks its edges or an attribute, if there are more
            than 1,000,000 edges, if a weight is not finite, or if metadata are not one number for each node.

    >>> from relgraph.graph.pair import graph_pair
    >>> graph = to_networkx(graph_pair(torch.eye(3), torch.eye(3)))
    >>> graph.edges["t0", "s1"]
    {'weight': 0.5, 'sign': -1, 'correlation': -0.5, 'kind': 'match'}
    """
    import networkx as nx

    kinds, edges = parts_of(side)
    _check_edges(pair, edges)
    graph: nx.Graph[str] = nx.Graph() if pair.graph == "dense" else nx.DiGraph()
    difference = side == "difference"
    graph.add_nodes_from(nodes_of(pair, kinds, attributes, merged=difference))
    graph.add_edges_from(chain.from_iterable(_edges(pair, kind, difference) for kind in edges))
    return graph


def write_graph(
    pair: Pair, path: str | Path, format: str | None = None, side: Side = "pair", attributes: Names = None
) -> None:
    """Write a pair, whole or not at all.

    `graphml`, `gexf` and node-link `json` hold what `to_networkx` returns, `pt` the pair itself, both sides of it and
    all it holds, for `read_pair`. Without a format the suffix of the path names it.

    In GraphML and GEXF nodes have what Gephi draws: a title, the name of the class or else the index; a colour by
    class; and a position, if the pair has one. The title is called `label` in both, so the number of the class is
    the attribute `class`. Edges of the difference are blue if they are the teacher's alone and orange if the student's.

    Raises:
        RelgraphError: for an unknown format, side or attribute, if the file cannot be written, and where `to_networkx`
            raises it.
    """
    path = Path(path)
    name = check_format(path, format)
    parts_of(side)
    check_attributes(attributes or ())
    with replacing(path) as part, part.open("wb") as stream:
        FORMATS[name](pair, stream, side, attributes)


def check_pair(pair: Pair, side: Side, attributes: Sequence[str] | None = None) -> None:
    """Raise the RelgraphError that `to_networkx` would raise, before work is done on the pair."""
    kinds, edges = SIDES[side]
    _check_edges(pair, edges)
    columns_of(pair, kinds, attributes)


def check_format(path: Path, format: str | None = None) -> str:
    """Return the name of the format to write, the one given or else the one that the path's suffix names.

    Raises:
        RelgraphError: for an unknown format.

    >>> check_format(Path("graph.GEXF"))
    'gexf'
    """
    name = format if format is not None else path.suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise unknown("graph format", name, FORMATS)
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
    if not (named and {"student", "teacher"} <= stores.keys() and "graph" in stores.get("_global_store", ())):
        raise RelgraphError(f"{path} must hold a graph pair of student and teacher, got {type(stored).__name__}")
    return HeteroData.from_dict(stored)


def _check_edges(pair: Pair, edges: tuple[EdgeType, ...]) -> None:
    count = 0
    for edge_type in edges:
        if edge_type not in pair.edge_types:
            raise RelgraphError(f"the pair must hold the edges {' '.join(edge_type)}, got {pair.edge_types}")
        found = weights(pair, edge_type)
        if not bool(found.isfinite().all()):
            raise RelgraphError(f"weights must be finite, got NaN or infinity among the edges {' '.join(edge_type)}")
        pairs_once = pair.graph == "dense" and edge_type != MATCHES
        count += len(found) * (len(found) - 1) // 2 if pairs_once else found.numel()
    if count > EDGE_LIMIT:
        advice = "take fewer nodes, one side or a sparse graph, or the format pt"
        raise RelgraphError(f"a graph for networkx takes at most {EDGE_LIMIT:,} edges, got {count:,}: {advice}")


def _edges(pair: Pair, edge_type: EdgeType, difference: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    source, _, target = edge_type
    if pair.graph == "sparse":
        ends, found = pair[edge_type].edge_index, weights(pair, edge_type).detach()
    else:  # of one network's matrix the upper triangle
        adj = adjacency(pair, edge_type).detach()
        chosen = torch.ones_like(adj, dtype=torch.bool).triu(-len(adj) if edge_type == MATCHES else 1)
        ends, found = chosen.nonzero().T, adj[chosen]
    names, columns = (source[0], target[0]), {"correlation": found}
    if difference:
        if "other_weight" not in pair[edge_type]:
            raise RelgraphError("the side 'difference' takes a pair of difference_pair, got another graph pair")
        other = pair[edge_type].other_weight.detach()
        student, teacher = (found, other) if source == "student" else (other, found)
        found, names = student - teacher, ("n", "n")
        columns = {"student_correlation": student, "teacher_correlation": teacher, "difference": found}
    kind = {"only": source} if difference else {"kind": "match" if edge_type == MATCHES else source}
    listed = (found.abs().clamp_min(NO_WEIGHT), found.sign().long(), *columns.values())
    for tail, head, weight, sign, *values in zip(*ends.tolist(), *(column.tolist() for column in listed), strict=True):
        attributes = {"weight": weight, "sign": sign, **dict(zip(columns, values, strict=True)), **kind}
        yield f"{names[0]}{tail}", f"{names[1]}{head}", attributes


def _for_gephi(pair: Pair, side: Side, attributes: Names) -> "nx.Graph[str]":
    """Return the graph with a title, `label`, for each node, the number of its class as `class`, and colours."""
    graph, kinds = to_networkx(pair, side, attributes), SIDES[side][0]
    titles = [title for kind in (kinds[:1] if side == "difference" else kinds) for title in titles_of(pair, kind)]
    for data, (title, colour) in zip(graph.nodes.values(), titles, strict=True):
        if "label" in data:
            data["class"] = data.pop("label")
        data.update(zip(("label", *"rgb"), (title, *rgb(colour)), strict=True))
    for *_, edge in graph.edges(data=True):
        if "only" in edge:
            edge.update(zip("rgb", rgb(EDGE_COLOURS[edge["only"]]), strict=True))
    return graph


def _write_graphml(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
    import networkx as nx

    writer: Any = nx.GraphMLWriter(prettyprint=False)
    writer.add_graph_element(_for_gephi(pair, side, attributes))
    # networkx numbers its keys d0, d1, ..., but Gephi takes a key d3 for the title of a node and d7 for that of an
    # edge, as yEd has them, whatever their names are: a weight in d7 would be lost.
    for element in writer.xml.iter():
        name = {"key": "id", "data": "key"}.get(element.tag)
        if name is not None:
            element.set(name, element.get(name).replace("d", "key"))
    writer.dump(stream)


def _write_gexf(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
    import networkx as nx

    graph = _for_gephi(pair, side, attributes)
    for data in chain(graph.nodes.values(), graph.edges.values()):
        if "r" in data:
            data["viz"] = {"color": {**{part: data.pop(part) for part in "rgb"}, "a": 1.0}}
        if "x" in data:
            data["viz"]["position"] = {"x": data.pop("x"), "y": data.pop("y"), "z": 0.0}
    nx.write_gexf(graph, stream, prettyprint=False)


def _write_json(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
    import networkx as nx

    data = nx.node_link_data(to_networkx(pair, side, attributes), edges="edges")
    stream.write(json.dumps(data, ensure_ascii=False, allow_nan=False).encode())


def _write_pt(pair: Pair, stream: IO[bytes], side: Side, attributes: Names) -> None:
    stores = pair.to_dict()
    for store in stores.values():
        for name, value in store.items():
            if isinstance(value, Tensor):
                kept = value.detach().cpu()
                # torch saves all of a tensor's storage; one that fills its own may lie in a file and is not copied.
                store[name] = kept if kept.untyped_storage().nbytes() == kept.nbytes else kept.clone()
    torch_save(stores, stream)


Writer = Callable[[Pair, IO[bytes], Side, Names], None]
FORMATS: dict[str, Writer] = {"graphml": _write_graphml, "gexf": _write_gexf, "json": _write_json, "pt": _write_pt}
