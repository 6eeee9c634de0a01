"""The graph of a pair as tables of nodes and edges: what every format but that of PyG is written from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from relgraph.analysis.colours import NO_CLASS, TEN, rgb
from relgraph.analysis.nodes import columns_of, titles_of
from relgraph.analysis.sources import title
from relgraph.errors import RelgraphError, unknown
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, EdgeType, Pair, adjacency, weights

Side = Literal["teacher", "student", "pair", "difference"]
# Nodes and edges of each side, by PyG's names.
SIDES: dict[str, tuple[tuple[str, ...], tuple[EdgeType, ...]]] = {
    "teacher": (("teacher",), (TEACHER,)),
    "student": (("student",), (STUDENT,)),
    "pair": (("teacher", "student"), (TEACHER, STUDENT, MATCHES)),
    "difference": (("student", "teacher"), (STUDENT, TEACHER)),
}
# The smallest normal float32: the weight of an exact 0. It is not 0 for programs that read single precision either.
NO_WEIGHT = torch.finfo(torch.float32).tiny
# Of the edges of one network alone, in Gephi: blue is the teacher's, orange the student's.
EDGE_COLOURS = {"teacher": "#0072b2", "student": "#d55e00"}
BETWEEN_CLASSES = "#000000"  # no class has it, and Gephi's page is white
SAME_CLASS = (None, False, True)  # where a class is unknown, nothing is said
ROWS = 2**14  # of a block: the plain values of 16,384 edges take some 10 MB


class Column(NamedTuple):
    """One attribute of nodes or edges: its type, and its plain values, of rows from one to another, `None` for none."""

    kind: type
    read: Callable[[slice], list[Any]]

    @classmethod
    def of(cls, values: list[Any] | Tensor) -> "Column":
        """Return the column of a list, or of a tensor `(N,)`."""
        if isinstance(values, Tensor):
            kind = float if values.is_floating_point() else bool if values.dtype == torch.bool else int
            return cls(kind, lambda rows: values[rows].tolist())
        return cls(type(next((value for value in values if value is not None), "")), values.__getitem__)

    @classmethod
    def named(cls, numbers: Tensor, name: Callable[[int], Any], kind: type = str) -> "Column":
        """Return what a function makes of numbers `(N,)`."""
        return cls(kind, lambda rows: list(map(name, numbers[rows].tolist())))


@dataclass(frozen=True)
class Table:
    """Nodes or edges of one kind, by column: `id` of a node, `source` and `target` of an edge, then attributes."""

    rows: int
    columns: dict[str, Column]

    def blocks(self) -> Iterator[dict[str, list[Any]]]:
        """Yield the plain values of each column, 16,384 rows at a time."""
        for start in range(0, self.rows, ROWS):
            rows = slice(start, min(start + ROWS, self.rows))
            yield {name: column.read(rows) for name, column in self.columns.items()}


def types_of(tables: Sequence[Table]) -> dict[str, type]:
    """Return the columns that any of the tables has, with their types."""
    return {name: column.kind for table in tables for name, column in table.columns.items()}


def parts_of(side: str) -> tuple[tuple[str, ...], tuple[EdgeType, ...]]:
    """Return the kinds of nodes and of edges of a side.

    Raises:
        RelgraphError: for an unknown one.
    """
    if side not in SIDES:
        raise unknown("side", side, SIDES)
    return SIDES[side]


def about(pair: Pair, side: Side) -> dict[str, str]:
    """Return what the graph of a side says of itself, where the pair knows it.

    `source` is whose vectors the nodes are of, of both networks' those of the teacher's, and `name` says it in words.
    """
    if not hasattr(pair, "source"):
        return {}
    source = "student" if side == "student" else pair.source
    both = len(SIDES[side][0]) > 1
    return {"source": source, "name": f"{title('student')} and {title(source)}" if both else title(source)}


def with_source(tables: Sequence[Table], pair: Pair, side: Side) -> Sequence[Table]:
    """Return tables whose rows say whose vectors the graph is of, as `graph_source`, where the pair knows it."""
    if "source" not in (told := about(pair, side)):
        return tables
    said = Column(str, lambda rows: [told["source"]] * (rows.stop - rows.start))
    return [replace(table, columns={**table.columns, "graph_source": said}) for table in tables]


def with_neighbours(nodes: Table, pair: Pair, side: Side) -> Table:
    """Return the nodes of one network with the neighbours of each, in the form that embedding-atlas reads.

    `neighbors` holds `ids`, their rows in this table, and `distances`, 1 less the correlations.
    """
    ends, found = _listed(pair, SIDES[side][1][0])
    order = ends[1].argsort(stable=True)
    ids, distances = ends[0][order], 1 - found[order]
    first = [0, *ends[1].bincount(minlength=nodes.rows).cumsum(0).tolist()]

    def read(rows: slice) -> list[Any]:
        places = pairwise(first[rows.start : rows.stop + 1])
        return [{"ids": ids[a:b].tolist(), "distances": distances[a:b].tolist()} for a, b in places]

    return replace(nodes, columns={**nodes.columns, "neighbors": Column(dict, read)})


def node_tables(pair: Pair, side: Side, attributes: Sequence[str] | None = None, *, gephi: bool = False) -> list[Table]:
    """Return the nodes of a side, a table for each network; see `to_networkx`.

    For Gephi the title of a node is its `label` and the number of its class `class`, and `r`, `g` and `b` its colour.

    Raises:
        RelgraphError: for an unknown attribute, or metadata of the wrong shape.
    """
    kinds, tables = SIDES[side][0], []
    for kind, columns in columns_of(pair, SIDES[side][0], attributes, merged=side == "difference").items():
        if gephi:
            titles = titles_of(pair, kind if kind in kinds else kinds[0])
            columns = {"class" if name == "label" else name: values for name, values in columns.items()}
            painted = zip(*(rgb(colour) for _, colour in titles), strict=True)
            columns |= {"label": [title for title, _ in titles], **dict(zip("rgb", map(list, painted), strict=True))}
        count = len(pair[kind if kind in kinds else kinds[0]].x)  # those of a part may differ
        known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
        ids = [f"{kind[0]}{position}" for position in range(count)]
        tables.append(Table(count, {name: Column.of(values) for name, values in {"id": ids, **known}.items()}))
    return tables


def edge_tables(pair: Pair, side: Side, *, gephi: bool = False) -> list[Table]:
    """Return the edges of a side, a table for each type of them; see `to_networkx`.

    For Gephi `r`, `g` and `b` are an edge's colour: that of its class if it joins two images of one class, black if it
    joins two classes, grey if one of them is unknown; in the difference that of its network.

    Raises:
        RelgraphError: for the side `difference` of a pair that is no `difference_pair`.
    """
    return [_edges(pair, kind, side == "difference", gephi) for kind in SIDES[side][1]]


def _edges(pair: Pair, edge_type: EdgeType, difference: bool, gephi: bool) -> Table:
    source, _, target = edge_type
    ends, found = _listed(pair, edge_type)
    letters, numbers = (source[0], target[0]), {"correlation": found}
    if difference:
        if "other_weight" not in pair[edge_type]:
            raise RelgraphError("the side 'difference' takes a pair of difference_pair, got another graph pair")
        other = pair[edge_type].other_weight.detach().cpu()
        student, teacher = (found, other) if source == "student" else (other, found)
        found, letters = student - teacher, ("n", "n")
        numbers = {"student_correlation": student, "teacher_correlation": teacher, "difference": found}
    numbers = {"weight": found.abs().clamp_min(NO_WEIGHT), "sign": found.sign().long(), **numbers}
    columns = {name: Column.named(end, f"{letter}{{}}".format) for name, end, letter in
               zip(("source", "target"), ends, letters, strict=True)}  # fmt: skip
    columns |= {name: Column.of(values) for name, values in numbers.items()}
    kind = "match" if edge_type == MATCHES else source
    columns["only" if difference else "kind"] = Column(str, lambda rows: [kind] * (rows.stop - rows.start))
    same, label = _classes(pair, edge_type, ends)
    if bool(same.any()):
        columns["same_class"] = Column.named(same, SAME_CLASS.__getitem__, bool)
    if gephi:
        listed = [NO_CLASS, BETWEEN_CLASSES, *TEN]
        palette = torch.tensor([rgb(colour) for colour in ([EDGE_COLOURS[kind]] if difference else listed)])
        painted = torch.zeros_like(label) if difference else torch.where(same == 2, label % len(TEN) + 2, same)
        columns |= {part: Column.of(palette[painted, place]) for place, part in enumerate("rgb")}
    return Table(len(found), columns)


def _listed(pair: Pair, edge_type: EdgeType) -> tuple[Tensor, Tensor]:
    """Return the edges (2, E), source above target, and their weights (E,), on the CPU; of all pairs each once."""
    if pair.graph == "sparse":
        return pair[edge_type].edge_index.cpu(), weights(pair, edge_type).detach().cpu()
    # Of one network's matrix the upper triangle.
    adj = adjacency(pair, edge_type).detach().cpu()
    chosen = torch.ones_like(adj, dtype=torch.bool).triu(-len(adj) if edge_type == MATCHES else 1)
    return chosen.nonzero().T, adj[chosen]


def _classes(pair: Pair, edge_type: EdgeType, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place in `SAME_CLASS` of each edge `(E,)`, and the class of its source."""
    stores = (pair[edge_type[end]] for end in (0, 2))
    labels = (torch.as_tensor(store.get("y", torch.full((len(store.x),), -1))).cpu() for store in stores)
    source, target = (of_node[end] for of_node, end in zip(labels, ends, strict=True))
    known = (source >= 0) & (target >= 0)
    return known.long() + (known & (source == target)), source
