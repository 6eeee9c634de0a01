import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
import torch
from click.testing import Result

import relgraph

Program = Callable[..., Result]
Failing = Callable[..., str]
FIRST = 20

READERS: dict[str, Callable[[Path], "nx.Graph[str]"]] = {
    "graphml": nx.read_graphml,
    "gexf": nx.read_gexf,
    "json": lambda path: nx.node_link_graph(json.loads(path.read_text()), edges="edges"),
}


def export(program: Program, run: Path, name: str, *args: object) -> "nx.Graph[str]":
    told = program("export", run, "-o", name, "--first", FIRST, *args).stdout
    assert told.startswith(f"{name}: {FIRST} images, ")
    return READERS[name.split(".")[-1]](Path(name))


def kinds(graph: "nx.Graph[str]") -> dict[str, int]:
    found = [edge["kind"] for *_, edge in graph.edges(data=True)]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def test_formats_open_again_and_agree(program: Program, run: Path) -> None:
    graphs = {name: export(program, run, f"graph.{name}", "--k", 3) for name in READERS}
    for graph in graphs.values():
        assert graph.is_directed()
        assert kinds(graph) == {"match": FIRST * 4, "student": FIRST * 3, "teacher": FIRST * 3}
        for _, data in graph.nodes(data=True):
            assert {"index", "class_name", "split", "prediction", "correct", "kind"} <= data.keys()
            assert data["split"] == "test"
        for *_, edge in graph.edges(data=True):
            assert edge["correlation"] == pytest.approx(edge["sign"] * edge["weight"])
    exact = {(a, b): edge["correlation"] for a, b, edge in graphs["json"].edges(data=True)}
    for name in ("graphml", "gexf"):
        assert {(a, b): edge["correlation"] for a, b, edge in graphs[name].edges(data=True)} == exact


def test_the_pair_opens_in_python(program: Program, run: Path) -> None:
    program("export", run, "-o", "pair.pt", "--first", FIRST, "--k", 3)
    pair = relgraph.read_pair(Path("pair.pt"))
    assert pair["teacher", "relates", "teacher"].edge_index.shape == (2, FIRST * 3)
    assert pair["student"].y.shape == pair["teacher"].prediction.shape == (FIRST,)
    known = export(program, run, "graph.json", "--k", 3)
    assert [known.nodes[f"s{i}"]["prediction"] for i in range(FIRST)] == pair["student"].prediction.tolist()


@pytest.mark.parametrize(("side", "letter"), [("student", "s"), ("teacher", "t")])
def test_one_side(program: Program, run: Path, side: str, letter: str) -> None:
    graph = export(program, run, "graph.json", "--side", side, "--k", 2)
    assert set(graph) == {f"{letter}{i}" for i in range(FIRST)}
    assert kinds(graph) == {side: FIRST * 2}


def test_dense(program: Program, run: Path) -> None:
    graph = export(program, run, "graph.json", "--graph", "dense")
    pairs = FIRST * (FIRST - 1) // 2
    assert not graph.is_directed()
    assert kinds(graph) == {"match": FIRST**2, "student": pairs, "teacher": pairs}


def test_threshold_is_a_part_of_dense(program: Program, run: Path) -> None:
    dense = export(program, run, "dense.json", "--graph", "dense", "--side", "teacher")
    middle = sorted(edge["weight"] for *_, edge in dense.edges(data=True))[dense.number_of_edges() // 2] + 1e-4
    near = export(program, run, "near.json", "--graph", "threshold", "--threshold", middle, "--side", "teacher")
    above = {frozenset((a, b)) for a, b, edge in dense.edges(data=True) if edge["weight"] >= middle}
    assert 0 < len(above) < dense.number_of_edges()
    assert {frozenset(ends) for ends in near.edges} == above


@pytest.mark.parametrize("neighbours", ["student", "union", "mutual"])
def test_neighbours(program: Program, run: Path, neighbours: str) -> None:
    def edges(chooser: str) -> set[tuple[str, str]]:
        graph = export(program, run, "graph.json", "--side", "teacher", "--k", 3, "--neighbours", chooser)
        return set(graph.edges)

    teacher, student = edges("teacher"), edges("student")
    expected = {"student": student, "union": teacher | student, "mutual": teacher & student}
    assert edges(neighbours) == expected[neighbours]


def test_splits(program: Program, run: Path) -> None:
    counts = json.loads((run / "result.json").read_text())["images"]
    for split in ("train", "val"):
        told = program("export", run, "-o", "graph.pt", "--split", split, "--k", 1).stdout
        assert told.startswith(f"graph.pt: {counts[split]} images")
        assert relgraph.read_pair(Path("graph.pt")).split == split


def test_a_format_over_the_suffix(program: Program, run: Path) -> None:
    program("export", run, "-o", "graph.txt", "--format", "pt", "--first", FIRST, "--k", 1)
    assert torch.equal(relgraph.read_pair(Path("graph.txt"))["student"].index, torch.arange(FIRST))


def test_without_a_teacher(program: Program, failure: Failing, alone: Path) -> None:
    assert "was trained without a teacher" in failure("export", alone, "-o", "graph.json")
    assert kinds(export(program, alone, "graph.json", "--side", "student", "--k", 2)) == {"student": FIRST * 2}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["-o", "graph.gefx"], "unknown graph format 'gefx': did you mean 'gexf'?"),
        (["-o", "graph"], "unknown graph format ''"),
        (["-o", "missing/graph.gexf", "--first", 9, "--k", 2], "cannot write missing/graph.gexf: No such file"),
        (
            ["-o", "graph.gexf", "--first", 9, "--k", 9],
            "k must be between 1 and the number of nodes less one, 8, got 9",
        ),
        (["-o", "graph.gexf", "--k", 0], "got 0"),
        (["-o", "graph.gexf", "--first", 1], "a graph needs two images, got 1"),
        (["-o", "graph.gexf", "--split", "train", "--graph", "dense"], "at most 1,000,000 edges"),
    ],
)
def test_errors(failure: Failing, run: Path, args: list[object], told: str) -> None:
    assert told in failure("export", run, *args)
    assert list(Path().iterdir()) == []


def test_what_is_not_a_run(failure: Failing) -> None:
    assert failure("export", "nothing", "-o", "graph.gexf").startswith("nothing is not a run: ")


def test_misuse(misuse: Failing, run: Path) -> None:
    assert "Missing option '-o'" in misuse("export", run)
    assert "'tree' is not one of" in misuse("export", run, "-o", "graph.gexf", "--graph", "tree")
