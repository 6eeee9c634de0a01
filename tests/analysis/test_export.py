"""Export: every attribute of every node and edge, read back by networkx and PyG from each format."""

import csv
import json
import pickle
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.loader import DataLoader, RandomNodeLoader

from relgraph.analysis import export, graph_tables
from relgraph.analysis.colours import NO_CLASS, class_colours, rgb
from relgraph.analysis.export import (
    FORMATS,
    TABLES,
    check_format,
    read_pair,
    to_networkx,
    write_graph,
)  # fmt: skip
from relgraph.analysis.graph_tables import BETWEEN_CLASSES, EDGE_COLOURS, Side
from relgraph.analysis.nodes import ATTRIBUTES, titles_of
from relgraph.analysis.split_graph import difference_pair
from relgraph.errors import RelgraphError
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, Texts, adjacency, graph_pair
from relgraph.graph.topology import ALL_PAIRS, Nearest
from tests.analysis.conftest import assert_same_pair
from tests.checks import Intruder, assert_refused_like, case

CLASSES = ["Überschall-Möwe 鸥 🐦", "\"quoted\" & 'so'", "<script>alert(1)</script>]]>", "tab\tand\nline", "", " "]
SIDE_NAMES: tuple[Side, ...] = ("teacher", "student", "pair")
TEXT_FORMATS = ("graphml", "gexf", "json")


def make_pair(sparse: bool, metadata: bool = True) -> HeteroData:
    teacher = torch.randn(9, 5)
    teacher[4] = 0.5  # no variance: all its weights are exactly 0
    pair = graph_pair(teacher + torch.randn(9, 5), teacher, topology=Nearest(3) if sparse else ALL_PAIRS)
    return describe(pair) if metadata else pair


def describe(pair: HeteroData) -> HeteroData:
    """Tell a pair classes, labels and predictions."""
    pair.classes, pair.split, index = list(CLASSES), "test", torch.randperm(1000)[:9]
    for side in ("student", "teacher"):
        pair[side].image_id, pair[side].y = index, torch.tensor([0, 1, 2, 3, 4, 5, 0, -1, 1])
        pair[side].prediction = torch.randint(0, 6, (9,))
        pair[side].correct = pair[side].prediction == pair[side].y
    return pair


def make_difference() -> HeteroData:
    """Return a difference pair that knows all that can be known of its nodes."""
    teacher = torch.randn(9, 5)
    pair = describe(difference_pair(teacher + torch.randn(9, 5), teacher, k=3))
    for number, side in enumerate(("student", "teacher")):
        pair[side].community, pair[side].overlap = torch.arange(9) // (number + 2), torch.arange(9) / 9
        pair[side].position, pair[side].image = torch.randn(9, 2), Texts(f"a & b/{i}.png" for i in range(9))
        pair[side].file = Texts(f'"a" & b/{i}\udcff.png' for i in range(9))  # of bytes that are no UTF-8
        for name in ("train_mask", "val_mask", "test_mask"):
            pair[side][name] = torch.arange(9) % 3 == len(name) % 3
    return pair


def read(path: Path) -> "nx.Graph[str]":
    """Open a file as a user of networkx does."""
    if path.suffix == ".graphml":
        return nx.read_graphml(path, node_type=str)
    if path.suffix == ".gexf":
        return nx.read_gexf(path)
    return nx.node_link_graph(json.loads(path.read_text(encoding="utf-8")), edges="edges")


def content(graph: "nx.Graph[str]") -> tuple[dict[str, Any], dict[Any, Any]]:
    """Return all attributes with the type of each value, whatever the order of undirected ends."""
    ends = tuple if graph.is_directed() else frozenset

    def typed(attributes: dict[str, Any]) -> dict[str, tuple[type, Any]]:
        return {name: (type(value), value) for name, value in attributes.items()}

    nodes = {node: typed(attributes) for node, attributes in graph.nodes(data=True)}
    return nodes, {ends((u, v)): typed(attributes) for u, v, attributes in graph.edges(data=True)}


def colour_of(edge: dict[str, Any], label: int | None) -> tuple[int, int, int]:
    """Return what Gephi draws an edge in."""
    if "only" in edge:
        return rgb(EDGE_COLOURS[edge["only"]])
    if "same_class" not in edge:
        return rgb(NO_CLASS)
    return rgb(class_colours(6)[label or 0] if edge["same_class"] else BETWEEN_CLASSES)


def by_networkx(pair: HeteroData, path: Path, side: Side, names: list[str] | None) -> None:
    """Write what `write_graph` writes for Gephi by networkx, as an oracle."""
    graph = to_networkx(pair, side, names)
    labels = to_networkx(pair, side, ["label"]).nodes if "y" in pair["student"] else {node: {} for node in graph}
    kinds = ["student"] if side in ("student", "difference") else ["teacher", "student"][: 1 + (side == "pair")]
    titles = [title for kind in kinds for title in titles_of(pair, kind)]
    for data, (title, colour) in zip(graph.nodes.values(), titles, strict=True):
        data.update({"class": data.pop("label")} if "label" in data else {})
        data.update(zip(("label", *"rgb"), (title, *rgb(colour)), strict=True))
    for source, _, data in graph.edges(data=True):
        data.update(zip("rgb", colour_of(data, labels[source].get("label")), strict=True))
    if path.suffix == ".graphml":
        nx.write_graphml_xml(graph, path)
        return
    for data in (*graph.nodes.values(), *(data for *_, data in graph.edges(data=True))):
        data["viz"] = {"color": {**{part: data.pop(part) for part in "rgb"}, "a": 1.0}}
        if "x" in data:
            data["viz"]["position"] = {"x": data.pop("x"), "y": data.pop("y"), "z": 0.0}
    nx.write_gexf(graph, path)


def without_ids(graph: "nx.Graph[str]") -> int:
    """Take away the ids of edges, which GEXF wants in any order, and return how many there were."""
    return len({data.pop("id") for *_, data in graph.edges(data=True)})


def each_graph() -> list[tuple[HeteroData, Side, list[str] | None]]:
    """Return pairs, sides and attributes: sparse and of all pairs, with and without metadata, and a difference."""
    attributes = [name for name in ATTRIBUTES if name not in ("split", "labelled")]
    return [
        *((make_pair(sparse, metadata), side, None)
          for sparse, metadata, side in product((True, False), (True, False), SIDE_NAMES)),
        (make_difference(), "difference", attributes),
    ]  # fmt: skip


def test_files_hold_what_networkx_would_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_tables, "ROWS", 5)  # several blocks
    for name, (pair, side, names) in product(("graphml", "gexf", "json"), each_graph()):
        path, other = tmp_path / f"graph.{name}", tmp_path / f"other.{name}"
        write_graph(pair, path, side=side, attributes=names)
        if name == "json":
            expected = to_networkx(pair, side, names)
        else:
            by_networkx(pair, other, side, names)
            expected = read(other)
            other.unlink()
        found = read(path)
        with case(name, side, pair.graph):
            assert name != "gexf" or without_ids(found) == without_ids(expected) == found.number_of_edges()
            assert found.is_directed() is (pair.graph == "sparse")
            assert not found.is_multigraph() and found.number_of_edges() > 0
            assert content(found) == content(expected)
            assert [*tmp_path.iterdir()] == [path]
            path.unlink()


def test_tables_hold_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(graph_tables, "ROWS", 5)
    for number, (pair, side, names) in enumerate(each_graph()):
        source = "student" if side == "student" else "projection"
        if number % 2:
            pair.source = "projection"
        expected = to_networkx(pair, side, names)
        rows = {"nodes": [{"id": node, **data} for node, data in expected.nodes(data=True)],
                "edges": [{"source": a, "target": b, **data} for a, b, data in expected.edges(data=True)]}  # fmt: skip
        for kind in TABLES:
            write_graph(pair, tmp_path / f"edges.{kind}", side=side, attributes=names)
        for what, wanted in rows.items():
            columns = {*chain.from_iterable(wanted)}
            said = {"graph_source": source} if number % 2 else {}
            wanted = [{**{name: row.get(name) for name in columns}, **said} for row in wanted]
            with case(what, side, pair.graph):
                found = parquet.read_table(tmp_path / f"{what}.parquet").to_pylist()
                near = [row.pop("neighbors", None) for row in found]
                of_one = what == "nodes" and pair.graph == "sparse" and side in ("teacher", "student")
                assert (near[0] is not None) is of_one
                for row, one in zip(found, near, strict=True) if of_one else ():
                    edges = [(f"{side[0]}{i}", row["id"]) for i in one["ids"]]
                    assert sorted(edges) == sorted(edge for edge in expected.edges if edge[1] == row["id"])
                    far = [1 - expected.edges[edge]["correlation"] for edge in edges]
                    assert one["distances"] == pytest.approx(far, abs=1e-6)
                assert by_ends(found) == by_ends(wanted)
                with (tmp_path / f"{what}.csv").open(encoding="utf-8", newline="") as file:
                    texts = [{n: "" if v is None else str(v) for n, v in row.items()} for row in wanted]
                    assert by_ends(csv.DictReader(file)) == by_ends(texts)


def by_ends(rows: Iterable[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return rows by node, or by the two ends of an edge."""
    return {row.get("id") or (row["source"], row["target"]): row for row in rows}


def test_sparse_edges_run_from_neighbour_to_anchor_and_across() -> None:
    pair = make_pair(sparse=True)
    for side in ("teacher", "student"):
        store, graph = pair[side, "relates", side], to_networkx(pair, side)
        assert isinstance(graph, nx.DiGraph)
        ends = [(f"{side[0]}{source}", f"{side[0]}{target}") for source, target in store.edge_index.T.tolist()]
        found = nx.get_edge_attributes(graph, "correlation")
        assert found == dict(zip(ends, store.edge_weight.tolist(), strict=True))
        assert set(nx.get_edge_attributes(graph, "kind").values()) == {side}
        assert all(degree == 3 for _, degree in graph.in_degree())
    both = to_networkx(pair)
    expected = {(f"t{i}", f"s{j}") for i, j in pair["teacher", "matches", "student"].edge_index.T.tolist()}
    assert {ends for ends, kind in nx.get_edge_attributes(both, "kind").items() if kind == "match"} == expected
    assert {(f"t{i}", f"s{i}") for i in range(9)} <= expected and both.number_of_edges() == 3 * 27 + 9


def test_a_dense_pair_has_each_pair_once() -> None:
    pair = make_pair(sparse=False)
    graph = to_networkx(pair)
    assert type(graph) is nx.Graph
    assert nx.number_of_selfloops(graph) == 0
    kinds = list(nx.get_edge_attributes(graph, "kind").values())
    assert [kinds.count(kind) for kind in ("teacher", "student", "match")] == [36, 36, 81]
    across, teacher = adjacency(pair, MATCHES), adjacency(pair, TEACHER)
    for i in range(9):
        for j in range(9):
            assert graph.edges[f"t{i}", f"s{j}"]["correlation"] == across[i, j].item()
            if i < j:
                assert graph.edges[f"t{i}", f"t{j}"]["correlation"] == teacher[i, j].item()


def test_weights_are_positive_magnitudes_beside_the_exact_correlation() -> None:
    graph = to_networkx(make_pair(sparse=False))
    signs = set()
    for _, _, edge in graph.edges(data=True):
        assert edge["weight"] > 0
        assert torch.tensor(edge["weight"]) > 0  # in single precision too
        if edge["correlation"] == 0:
            assert (edge["sign"], edge["weight"]) == (0, torch.finfo(torch.float32).tiny)
        else:
            assert edge["sign"] * edge["weight"] == edge["correlation"]
        signs.add(edge["sign"])
    assert signs == {-1, 0, 1}
    assert all(edge["correlation"] == 0 for _, _, edge in graph.edges("t4", data=True))


def test_nodes_carry_what_the_pair_knows() -> None:
    pair = make_pair(sparse=True)
    nodes, store = to_networkx(pair).nodes, pair["student"]
    assert nodes["s2"] == {
        "kind": "student", "index": store["image_id"][2].item(), "label": 2, "class_name": CLASSES[2], "split": "test",
        "prediction": store.prediction[2].item(), "correct": bool(store.correct[2]),
    }  # fmt: skip
    assert nodes["t7"].keys() == {"kind", "index", "prediction", "split"}  # its label is -1, unknown
    graph = to_networkx(make_pair(sparse=False, metadata=False), "student")
    assert {node: graph.nodes[node] for node in graph} == {f"s{i}": {"kind": "student", "index": i} for i in range(9)}
    pair.classes = ["only one"]
    nodes = to_networkx(pair, "teacher").nodes
    assert nodes["t0"]["class_name"] == "only one" and "class_name" not in nodes["t1"]


def test_what_xml_cannot_hold_becomes_a_replacement_character(tmp_path: Path) -> None:
    pair = make_pair(sparse=True)
    pair.classes = ["bell\x07", "null\x00", "cr\r", "half \ud83d", "\ufffe", "\x0b\x1b"]
    for name in TEXT_FORMATS:
        path = tmp_path / f"graph.{name}"
        write_graph(pair, path)
        names = {data.get("class_name") for _, data in read(path).nodes(data=True)}
        assert names == {"bell\ufffd", "null\ufffd", "cr\ufffd", "half \ufffd", "\ufffd", "\ufffd\ufffd", None}, name


def test_float32_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    pair = make_pair(sparse=True)
    store = pair["teacher", "relates", "teacher"]
    store.edge_weight = torch.randint(1, 2**31 - 2**23, (27,), dtype=torch.int32).view(torch.float32)  # all magnitudes
    for name in TEXT_FORMATS:
        write_graph(pair, tmp_path / f"graph.{name}", side="teacher")
        graph = read(tmp_path / f"graph.{name}")
        found = [graph.edges[f"t{i}", f"t{j}"]["correlation"] for i, j in store.edge_index.T.tolist()]
        assert torch.equal(torch.tensor(found, dtype=torch.float64), store.edge_weight.double())


def test_pt_holds_the_pair_itself(tmp_path: Path) -> None:
    path = tmp_path / "pair.pt"
    sides: tuple[Side, ...] = ("pair", "pair", "difference")
    for pair, side in zip((make_pair(True), make_pair(False), make_difference()), sides, strict=True):
        pair["student"].x.requires_grad_()
        write_graph(pair, path, side=side)
        found = read_pair(path)
        assert found.to_dict()["_global_store"] == pair.to_dict()["_global_store"]
        assert content(to_networkx(found, side)) == content(to_networkx(pair, side))
        assert (
            pair["student"].x.requires_grad and not found["student"].x.requires_grad
        )  # the pair that was written is as it was
        for store in (*found.stores, *pair.stores):
            for paths in ("image", "file"):
                store.pop(paths, None)  # which the content holds
        assert_same_pair(found, pair, tolerance=0)


def test_pyg_selects_converts_and_batches_what_is_read(tmp_path: Path) -> None:
    """`file` as well, which is no tensor; the pair of photographs is read again."""
    pair = make_pair(sparse=True)
    for side in ("student", "teacher"):
        pair[side].file = Texts(f"{i}.png" for i in range(9))
        pair[side].train_mask = torch.arange(9) < 6
    write_graph(pair, tmp_path / "pair.pt")
    found = read_pair(tmp_path / "pair.pt")
    assert found.validate()
    for part in RandomNodeLoader(found, num_parts=3):
        assert part["student"].file == [pair["student"].file[i] for i in ids_of(found, part)]
        assert part.num_edges == sum(
            int((torch.isin(found[kind].edge_index[0], torch.tensor(ids_of(found, part, kind[0])))
                 & torch.isin(found[kind].edge_index[1], torch.tensor(ids_of(found, part, kind[2])))).sum())
            for kind in found.edge_types
        )  # fmt: skip
    whole = found.to_homogeneous()
    assert whole.num_nodes == 18 and whole.num_edges == found.num_edges and int(whole.train_mask.sum()) == 12
    batch = next(iter(DataLoader([found, found], batch_size=2)))
    assert batch.num_nodes == 36 and batch["student"].batch.bincount().tolist() == [9, 9]


def ids_of(whole: HeteroData, part: HeteroData, side: str = "student") -> list[int]:
    """Return which nodes of a pair a part of it has, by their vectors."""
    return [int((whole[side].x == x).all(1).nonzero()) for x in part[side].x]


def test_pt_does_not_store_the_memory_behind_a_view(tmp_path: Path) -> None:
    pair = make_pair(sparse=True)
    pair["student"].x = torch.zeros(1_000_000)[:45].view(9, 5)
    write_graph(pair, tmp_path / "pair.pt")
    assert (tmp_path / "pair.pt").stat().st_size < 100_000


def test_read_pair_runs_nothing_that_it_reads(tmp_path: Path) -> None:
    trap, trapped = tmp_path / "trap.pt", tmp_path / "trapped"
    torch.save({"_global_store": {}, "student": Intruder(trapped), "teacher": {}}, trap)
    for content in (trap.read_bytes(), pickle.dumps(Intruder(trapped))):
        trap.write_bytes(content)
        assert_refused_like((lambda: read_pair(trap), "cannot read the graph pair"))
    assert not trapped.exists()


def test_read_pair_tells_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "pair.pt"
    assert_refused_like((lambda: read_pair(path), r"cannot read the graph pair .*pair\.pt: .*No such file"))
    for other in ({"weights": torch.ones(2)}, torch.ones(2), {"_global_store": {}, "student": 1, "teacher": 2}):
        torch.save(other, path)
        assert_refused_like((lambda: read_pair(path), "must hold a graph pair of student and teacher"))
    write_graph(make_pair(sparse=True), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<gexf/>", b"\x80\x02garbage", whole[:100]):
        path.write_bytes(damaged)
        assert_refused_like((lambda: read_pair(path), "cannot read the graph pair"))


def test_the_format_is_given_or_read_from_the_suffix(tmp_path: Path) -> None:
    assert [check_format(Path(f"graph.{name}")) for name in FORMATS] == list(FORMATS)
    assert check_format(Path("graph.graphml"), "json") == "json"
    with pytest.raises(RelgraphError, match="unknown graph format 'graphlm': did you mean 'graphml'"):
        write_graph(make_pair(sparse=True), tmp_path / "graph.graphlm")
    write_graph(make_pair(sparse=True), tmp_path / "graph.xml", "graphml", "teacher")
    assert nx.read_graphml(tmp_path / "graph.xml").number_of_nodes() == 9
    write_graph(make_pair(sparse=True), tmp_path / "graph.gz", "graphml")  # a suffix by which networkx would compress
    assert (tmp_path / "graph.gz").read_bytes().startswith(b"<?xml")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pair: HeteroData, stream: Any, side: Side, attributes: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    pair, gone = make_pair(sparse=True), tmp_path / "none"
    for name in FORMATS:
        path = tmp_path / f"graph.{name}"
        path.write_text("old")
        assert_refused_like((partial(write_graph, pair, gone / path.name), "cannot write .*: No such file"))
        monkeypatch.setitem(FORMATS, name, fail)
        assert_refused_like((partial(write_graph, pair, path), f"cannot write .*graph.{name}: No space left"))
        assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
        path.unlink()


def test_labels_may_be_a_list_or_an_array() -> None:
    x, labels = torch.randn(4, 3), [0, 1, -1, 1]
    expected = to_networkx(graph_pair(x, x, y=torch.tensor(labels), image_id=torch.tensor([7, 8, 9, 3])))
    given: Any
    for given in (labels, np.array(labels)):
        pair = graph_pair(x, x, y=given, image_id=[7, 8, 9, 3])
        by_hand = graph_pair(x, x)
        for kind in ("student", "teacher"):
            by_hand[kind].y, by_hand[kind].image_id = given, [7, 8, 9, 3]
        for found in map(to_networkx, (pair, by_hand)):
            assert list(found.nodes(data=True)) == list(expected.nodes(data=True))
            assert list(found.edges(data=True)) == list(expected.edges(data=True))


def test_pairs_that_cannot_be_graphs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, sparse = make_pair(sparse=False), make_pair(sparse=True)

    def graph(side: Any = "student") -> Any:
        return to_networkx(pair, side)

    monkeypatch.setattr(export, "EDGE_LIMIT", 152)
    assert_refused_like(
        (lambda: graph("teachers"), "unknown side 'teachers': did you mean 'teacher'"),
        (lambda: graph("pair"), "at most 152 edges, got 153"),
        (lambda: to_networkx(sparse, "difference"), r"takes a pair of difference_pair, got another graph pair$"),
        (lambda: to_networkx(sparse, attributes=["labels"]), "unknown node attribute 'labels': did you mean 'label'"),
        (
            lambda: to_networkx(sparse, attributes=["community"]),
            "^no node of this pair has the attribute 'community': expected class_name",
        ),
    )
    assert graph("teacher").number_of_edges() == 36
    pair["teacher"].prediction = torch.ones(8)
    wrong = r"prediction must hold one value for each of 9 teacher nodes, got \(8,\)"
    assert_refused_like((lambda: graph("teacher"), wrong))
    adjacency(pair, STUDENT)[0, 1] = float("nan")
    assert_refused_like((graph, "NaN or infinity among the edges student relates student"))
    del pair["student", "relates", "student"]
    assert_refused_like((graph, "must hold the edges student relates student"))


XML = {"gexf": "{http://www.gexf.net/1.2draft}", "graphml": "{http://graphml.graphdrawing.org/xmlns}"}


def test_nodes_of_a_difference_are_images() -> None:
    pair = make_difference()
    graph = to_networkx(pair, "difference", ["index", "prediction", "community", "overlap"])
    student, teacher, (x, y) = pair["student"], pair["teacher"], pair["student"].position[5].tolist()
    assert list(graph) == [f"n{i}" for i in range(9)]
    assert graph.nodes["n5"] == {
        "index": student.image_id[5].item(), "overlap": student.overlap[5].item(), "x": x, "y": y,
        "student_prediction": student.prediction[5].item(), "student_community": 2, "image": "a & b/5.png",
        "teacher_prediction": teacher.prediction[5].item(), "teacher_community": 1,
    }  # fmt: skip


def test_attributes_are_chosen_by_name() -> None:
    pair = make_pair(sparse=True)
    pair["student"].overlap = pair["teacher"].overlap = torch.linspace(0, 1, 9)
    every = to_networkx(pair).nodes["s0"]
    assert {*every} >= {"label", "prediction"} and "overlap" not in every  # only where it is asked for
    assert {*to_networkx(pair, attributes=[]).nodes["s0"]} == {"kind"}
    chosen = to_networkx(pair, attributes=["overlap", "degenerate"])
    assert [chosen.nodes["t4"]["degenerate"], chosen.nodes["s8"]["overlap"]] == [True, 1.0]
    assert {*chosen.nodes["s0"]} == {"kind", "overlap", "degenerate"}
    del pair["teacher"].prediction
    nodes = to_networkx(pair, attributes=["prediction"]).nodes
    assert "prediction" in nodes["s0"] and "prediction" not in nodes["t0"]


def test_titles_and_colours_are_those_of_classes_whatever_the_attributes(tmp_path: Path) -> None:
    pair, bare = make_pair(sparse=True), make_pair(sparse=True, metadata=False)
    of_pair = list(zip(pair["student"].y.tolist(), pair["student"].image_id.tolist(), strict=True))
    for given, known in ((pair, of_pair), (bare, [(-1, index) for index in range(9)])):
        titles = [CLASSES[n] if 0 <= n < 4 else str(index) for n, index in known]
        colours = [rgb(class_colours(6)[n] if n >= 0 else NO_CLASS) for n, _ in known]
        for name, attributes in (("gexf", None), ("gexf", []), ("graphml", None), ("graphml", [])):
            write_graph(given, tmp_path / f"graph.{name}", side="student", attributes=attributes)
            nodes = [data for _, data in read(tmp_path / f"graph.{name}").nodes(data=True)]
            paints = [data["viz"]["color"] if name == "gexf" else data for data in nodes]
            assert [data["label"] for data in nodes] == titles
            assert [(paint["r"], paint["g"], paint["b"]) for paint in paints] == colours
            assert all(paint.get("a", 1) == 1 for paint in paints)


def test_gephi_finds_no_key_of_yed(tmp_path: Path) -> None:
    """Gephi takes a GraphML key with the id d3 or d7 for a title, whatever its name is."""
    write_graph(make_pair(sparse=True), tmp_path / "graph.graphml")
    root = ElementTree.parse(tmp_path / "graph.graphml").getroot()
    keys = {key.attrib["id"]: key for key in root.iter(f"{XML['graphml']}key")}
    assert len(keys) > 8 and not {"d3", "d7"} & keys.keys()
    used = {(data.attrib["key"], kind) for kind in ("node", "edge") for node in root.iter(f"{XML['graphml']}{kind}")
            for data in node}  # fmt: skip
    assert used == {(name, key.attrib["for"]) for name, key in keys.items()}
    types = {(key.attrib["for"], key.attrib["attr.name"]): key.attrib["attr.type"] for key in keys.values()}
    assert [types["node", name] for name in ("label", "r", "g", "b")] == ["string", "long", "long", "long"]
    assert types["edge", "weight"] == "double"


def test_edges_have_colours(tmp_path: Path) -> None:
    """Of their class or black, and in a difference of their network; GEXF, whose colours networkx skips, as GraphML."""
    cases: list[tuple[HeteroData, Side]] = [(make_difference(), "difference"), (make_pair(sparse=True), "student")]
    for pair, side in cases:
        for name in ("gexf", "graphml"):
            write_graph(pair, tmp_path / f"graph.{name}", side=side)
        edges = [*ElementTree.parse(tmp_path / "graph.gexf").getroot().iter(f"{XML['gexf']}edge")]
        colours = [[*edge.iter("{http://www.gexf.net/1.2draft/viz}color")] for edge in edges]
        drawn = {(edge.attrib["source"], edge.attrib["target"], *(int(colour.attrib[part]) for part in "rgb"))
                 for edge, (colour,) in zip(edges, colours, strict=True)}  # fmt: skip
        known = [*read(tmp_path / "graph.graphml").edges(data=True)]
        assert drawn == {(a, b, *map(edge.get, "rgb")) for a, b, edge in known}
        assert all(float(edge.attrib["weight"]) > 0 for edge in edges)
        painted = {(edge.get("only", edge.get("same_class")), *map(edge.get, "rgb")) for *_, edge in known}
        if side == "difference":
            assert painted == {("teacher", 0, 114, 178), ("student", 213, 94, 0)}
        else:
            assert painted >= {(False, 0, 0, 0), (None, *rgb(NO_CLASS))}
            assert {paint[1:] for paint in painted if paint[0]} <= set(map(rgb, class_colours(6)))
