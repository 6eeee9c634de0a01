"""Tables of nodes and edges as files, written a block of rows at a time: GraphML, GEXF, CSV and Parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, repeat
from typing import IO, Any
from xml.sax.saxutils import escape

from relgraph.analysis.graph_tables import Table, types_of
from relgraph.files import parquet_packages

HEAD = "<?xml version='1.0' encoding='utf-8'?>\n<{0} xmlns=\"{1}\" {2} xsi:schemaLocation=\"{1} {1}/{3}\""
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
GRAPHML, GEXF = "http://graphml.graphdrawing.org/xmlns", "http://www.gexf.net/1.2draft"
TYPES = {str: "string", float: "double", int: "long", bool: "boolean"}  # in both formats, as networkx has them
# What is no attribute: the names of rows, and in GEXF what it has a place of its own for.
ENDS = {"id", "source", "target"}
DRAWN = {"node": {*ENDS, *"rgbxy", "label"}, "edge": {*ENDS, *"rgb", "weight"}}
IN_QUOTES = {'"': "&quot;", "\n": "&#10;", "\t": "&#09;"}  # or readers take line breaks for spaces

Tables = Sequence[Table]
Keys = dict[str, dict[str, str]]  # of node and edge: each attribute's name, and how it is called in rows


def write_graphml(
    nodes: Tables, edges: Tables, directed: bool, stream: IO[bytes], about: Mapping[str, str] | None = None
) -> None:
    """Write a graph as GraphML; what it says `about` itself are its attributes.

    Gephi takes a key with the id d3 for the title of a node and d7 for that of an edge, as yEd has them, whatever their
    names are: a weight in d7, as networkx numbers keys, would be lost. So no id here begins with a d.
    """
    scopes = {"node": nodes, "edge": edges}
    keys = _keys(scopes, "key{}", {"node": ENDS, "edge": ENDS})
    stream.write(HEAD.format("graphml", GRAPHML, XSI, "1.0/graphml.xsd").encode() + b">")
    for scope, tables in scopes.items():
        types = types_of(tables)
        for name, key in keys[scope].items():
            told = f'<key id="{key}" for="{scope}" attr.name="{name}" attr.type="{TYPES[types[name]]}" />\n'
            stream.write(told.encode())
    own = [(f"graph{number}", name, text) for number, (name, text) in enumerate((about or {}).items())]
    for key, name, _ in own:
        stream.write(f'<key id="{key}" for="graph" attr.name="{name}" attr.type="string" />\n'.encode())
    stream.write(f'<graph edgedefault="{_direction(directed)}">\n'.encode())
    stream.write("".join(f'<data key="{key}">{escape(text)}</data>\n' for key, _, text in own).encode())
    for scope, tables in scopes.items():
        for table in tables:
            for block in table.blocks():
                cells = _cells(table, block, keys[scope], '<data key="{}">', "</data>", escape)
                _write_rows(stream, _ends(block), repeat(">"), *cells, repeat(f"</{scope}>\n"))
    stream.write(b"</graph></graphml>\n")


def write_gexf(
    nodes: Tables, edges: Tables, directed: bool, stream: IO[bytes], about: Mapping[str, str] | None = None
) -> None:
    """Write a graph as GEXF 1.2: title, colour, position and weight in their own places, the rest as attributes.

    Of what it says `about` itself the `name` is its description, and its name, which networkx reads.
    """
    scopes = {"node": nodes, "edge": edges}
    keys, number = _keys(scopes, "{}", DRAWN), count()
    stream.write(HEAD.format("gexf", GEXF, f'xmlns:viz="{GEXF}/viz" {XSI}', "gexf.xsd").encode())
    name = (about or {}).get("name", "")
    stream.write(f' version="1.2"><meta><description>{escape(name)}</description></meta>\n'.encode())
    stream.write(f'<graph defaultedgetype="{_direction(directed)}" mode="static" name="{_quoted(name)}">\n'.encode())
    for scope, tables in scopes.items():
        types = types_of(tables)
        each = (f'<attribute id="{key}" title="{name}" type="{TYPES[types[name]]}" />' for name, key in
                keys[scope].items())  # fmt: skip
        stream.write(f'<attributes mode="static" class="{scope}">{"".join(each)}</attributes>\n'.encode())
    for scope, tables in scopes.items():
        stream.write(f"<{scope}s>\n".encode())
        for table in tables:
            for block in table.blocks():
                cells = _cells(table, block, keys[scope], '<attvalue for="{}" value="', '" />', _quoted)
                own = _labels(block) if scope == "node" else _weights(block, number)
                ending = repeat(f"</attvalues></{scope}>\n")
                _write_rows(stream, _ends(block), *own, *_drawn(block), repeat("<attvalues>"), *cells, ending)
        stream.write(f"</{scope}s>\n".encode())
    stream.write(b"</graph></gexf>\n")


def _direction(directed: bool) -> str:
    return "directed" if directed else "undirected"


def _quoted(text: str) -> str:
    return escape(text, IN_QUOTES)


def _keys(scopes: Mapping[str, Tables], form: str, apart: Mapping[str, set[str]]) -> Keys:
    number = count()
    return {
        scope: {name: form.format(next(number)) for name in types_of(tables) if name not in apart[scope]}
        for scope, tables in scopes.items()
    }


def _write_rows(stream: IO[bytes], *columns: Iterable[str]) -> None:
    """Write what the columns have in each row; those that repeat one text have no end."""
    stream.write("".join(map("".join, zip(*columns, strict=False))).encode())


def _ends(block: dict[str, list[Any]]) -> list[str]:
    """Return the beginning of each row's element."""
    if "id" in block:
        return [f'<node id="{name}"' for name in block["id"]]
    return [f'<edge source="{a}" target="{b}"' for a, b in zip(block["source"], block["target"], strict=True)]


def _labels(block: dict[str, list[Any]]) -> list[list[str]]:
    return [[f' label="{_quoted(title)}">' for title in block["label"]]]


def _weights(block: dict[str, list[Any]], number: Iterable[int]) -> list[list[str]]:
    return [[f' id="{i}" weight="{weight!r}">' for weight, i in zip(block["weight"], number, strict=False)]]


def _drawn(block: dict[str, list[Any]]) -> list[list[str]]:
    """Return the elements of colour and, if rows have one, of position."""
    rgb = zip(*(block[part] for part in "rgb"), strict=True)
    found = [[f'<viz:color r="{r}" g="{g}" b="{b}" a="1.0" />' for r, g, b in rgb]]
    if "x" in block:
        places = zip(block["x"], block["y"], strict=True)
        found.append([f'<viz:position x="{x!r}" y="{y!r}" z="0.0" />' for x, y in places])
    return found


def _cells(
    table: Table, block: dict[str, list[Any]], keys: Mapping[str, str], before: str, after: str,
    as_text: Callable[[str], str],
) -> list[list[str]]:  # fmt: skip
    """Return the element of each attribute in each row; a float is the shortest text that reads as the same number."""
    found = []
    for name in (name for name in block if name in keys):
        text: Callable[[Any], str]
        text = {str: as_text, bool: lambda value: str(value).lower()}.get(table.columns[name].kind, repr)
        begin = before.format(keys[name])
        found.append(["" if value is None else f"{begin}{text(value)}{after}" for value in block[name]])
    return found


def write_csv(tables: Tables, stream: IO[bytes]) -> None:
    """Write rows as CSV in UTF-8, the columns of all tables in each; what a row lacks is empty."""
    names = [*types_of(tables)]
    with io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="", write_through=True) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for table in tables:
            for block in table.blocks():
                empty = [None] * len(next(iter(block.values())))
                writer.writerows(zip(*(block.get(name, empty) for name in names), strict=True))


def write_parquet(tables: Tables, stream: IO[bytes]) -> None:
    """Write rows as Parquet, a group of rows for each block; what a row lacks is null.

    Raises:
        RelgraphError: if pyarrow is not installed.
    """
    pyarrow, parquet = parquet_packages(getattr(stream, "name", "a table"))
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64(), bool: pyarrow.bool_()}
    kinds[dict] = pyarrow.struct([("ids", pyarrow.list_(kinds[int])), ("distances", pyarrow.list_(kinds[float]))])
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in types_of(tables).items()])
    with parquet.ParquetWriter(stream, schema) as writer:
        for table in tables:
            for block in table.blocks():
                empty = [None] * len(next(iter(block.values())))
                rows = [block.get(name, empty) for name in schema.names]
                writer.write_table(pyarrow.table(rows, schema=schema))
