import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path

import networkx as nx
import pytest
import torch

import relgraph
from tests.analysis.test_export import read
from tests.cli.conftest import Failing, Program, check_told

FIRST = 20


def export(program: Program, run: Path, name: str, *args: object) -> "nx.Graph[str]":
    told = program("export", run, "-o", name, "--first", FIRST, *args).stdout
    assert told.startswith(f"{name}: {FIRST} images, ")
    return read(Path(name))


def kinds(graph: "nx.Graph[str]") -> dict[str, int]:
    return Counter(nx.get_edge_attributes(graph, "kind").values())


@pytest.mark.slow
def test_formats_open_again(program: Program, run: Path) -> None:
    for name in ("graphml", "gexf", "json"):
        graph = export(program, run, f"graph.{name}", "--k", 3)
        assert graph.is_directed() and kinds(graph) == {"match": FIRST * 4, "student": FIRST * 3, "teacher": FIRST * 3}
        assert {data["split"] for _, data in graph.nodes(data=True)} == {"test"}
        assert {"index", "class_name", "prediction", "correct", "kind"} <= graph.nodes["s0"].keys()


def test_the_pair_opens_in_python(program: Program, run: Path) -> None:
    program("export", run, "-o", "pair.pt", "--first", FIRST, "--k", 3)
    pair = relgraph.read_pair(Path("pair.pt"))
    assert pair["teacher", "relates", "teacher"].edge_index.shape == (2, FIRST * 3)
    assert pair["student"].y.shape == pair["teacher"].prediction.shape == (FIRST,)
    known = export(program, run, "graph.json", "--k", 3)
    assert [known.nodes[f"s{i}"]["prediction"] for i in range(FIRST)] == pair["student"].prediction.tolist()


def test_a_graph_of_all_splits_as_tables(program: Program, run: Path) -> None:
    told = program("export", run, "-o", "edges.csv", "--first", FIRST, "--k", 3, "--split", "all", "--side", "teacher",
                   "--attributes", "index,split,train_mask", "--thumbnails").stdout  # fmt: skip
    assert told.startswith(f"edges.csv: {FIRST} images, ") and told.endswith("nodes in nodes.csv\n")
    nodes, edges = ([*csv.DictReader(Path(name).read_text().splitlines())] for name in ("nodes.csv", "edges.csv"))
    assert Counter(edge["target"] for edge in edges) == dict.fromkeys((node["id"] for node in nodes), 3)
    assert {node["image"] for node in nodes} == {str(path) for path in Path("edges_thumbnails").iterdir()}
    assert {row["graph_source"] for row in (*nodes, *edges)} == {"teacher"}
    assert len({node["image"] for node in nodes}) == FIRST  # an index stands for one image of each split
    assert {(node["split"] == "train", node["train_mask"]) for node in nodes} == {(True, "True"), (False, "False")}


def test_threshold_is_a_part_of_dense(program: Program, run: Path) -> None:
    both = export(program, run, "graph.json", "--graph", "dense")
    pairs = FIRST * (FIRST - 1) // 2
    assert not both.is_directed() and kinds(both) == {"match": FIRST**2, "student": pairs, "teacher": pairs}
    near = export(program, run, "near.json", "--graph", "threshold", "--threshold", 0.5, "--side", "teacher",
                  "--source", "projection")  # fmt: skip
    teacher = [(a, b) for a, b, edge in both.edges(data=True) if edge["kind"] == "teacher" and edge["weight"] >= 0.5]
    assert 0 < len(teacher) < pairs
    assert {frozenset(ends) for ends in near.edges} == {frozenset(ends) for ends in teacher}


def test_neighbours(program: Program, run: Path) -> None:
    def edges(chooser: str) -> set[tuple[str, str]]:
        graph = export(program, run, "graph.json", "--side", "teacher", "--k", 3, "--neighbours", chooser)
        return set(graph.edges)

    teacher, student = edges("teacher"), edges("student")
    assert teacher != student and edges("union") == teacher | student
    assert all(end.startswith("t") for edge in teacher for end in edge) and len(teacher) == FIRST * 3


def test_splits(program: Program, run: Path) -> None:
    counts = json.loads((run / "result.json").read_text())["images"]
    for split in ("train", "val"):
        told = program("export", run, "-o", "graph.txt", "--format", "pt", "--split", split, "--k", 1).stdout
        assert told.startswith(f"graph.txt: {counts[split]} images")
        assert relgraph.read_pair(Path("graph.txt")).split == split


def test_gephi_gets_positions_unless_none_are_wanted(program: Program, run: Path) -> None:
    placed = export(program, run, "graph.graphml", "--k", 3)
    assert all(data["x"] < 0 if node.startswith("t") else data["x"] > 0 for node, data in placed.nodes(data=True))
    for name, args in (("graph.graphml", ("--layout", "none")), ("graph.json", ())):
        assert "x" not in export(program, run, name, "--k", 3, *args).nodes["s0"]


def test_no_positions_for_very_many_images(program: Program, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relgraph.analysis.layout.TSNE_NODES", FIRST - 1)
    told = program("export", run, "-o", "graph.gexf", "--first", FIRST, "--k", 3).stdout
    assert told.endswith("no positions (more than 19 images: --layout tsne takes minutes)\n")


def test_attributes(program: Program, run: Path) -> None:
    names = "label, community,overlap,degenerate"
    graph = export(program, run, "graph.json", "--k", 3, "--attributes", names)
    for _, data in graph.nodes(data=True):
        assert data.keys() == {"kind", "label", "community", "overlap", "degenerate"}
        assert data["overlap"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert len({data["community"] for _, data in graph.nodes(data=True)}) > 1


def test_thumbnails(program: Program, run: Path) -> None:
    from PIL import Image

    graph = export(program, run, "graph.gexf", "--k", 3, "--split", "val", "--thumbnails")
    for _, data in graph.nodes(data=True):
        assert data["image"] == f"graph_thumbnails/{data['index']}.png"
        with Image.open(data["image"]) as picture:
            assert picture.size == (8, 8)
    assert len(list(Path("graph_thumbnails").iterdir())) == FIRST


def test_the_difference(program: Program, run: Path) -> None:
    args = ("--k", 3, "--graph", "knn")
    found = export(program, run, "diff.graphml", "--diff", *args)
    own = (export(program, run, "own.json", "--side", side, *args) for side in ("student", "teacher"))
    student, teacher = ({(f"n{a[1:]}", f"n{b[1:]}") for a, b in graph.edges} for graph in own)
    expected = dict.fromkeys(student - teacher, "student") | dict.fromkeys(teacher - student, "teacher")
    assert nx.get_edge_attributes(found, "only") == expected != {} and len(found) == FIRST
    for _, data in found.nodes(data=True):
        assert {"student_prediction", "teacher_prediction", "index", "x"} <= data.keys()


@pytest.mark.slow
def test_the_student_by_the_ending(program: Program, run: Path, contrasted: tuple[Path, str]) -> None:
    for name, *options in (("student.pt2",), ("student.safetensors",), ("hub/",), ("other", "--format", "hub")):
        told = program("export", run, "-o", name, *options).stdout
        assert re.fullmatch(rf"{name}: compared on 64 images, 0.\d MB, largest relative difference \d.*\n", told), told
    student, images = relgraph.Run(run).student(), torch.randn(3, 1, 8, 8)
    program_of = torch.export.load("student.pt2").module()
    for found in (program_of, relgraph.load_student("hub"), relgraph.load_student("other")):
        with torch.no_grad():
            for mine, expected in zip(found(images), student(images), strict=True):
                torch.testing.assert_close(mine, expected)
    assert "embedded:digits" in Path("hub/README.md").read_text()
    vectors = relgraph.export(contrasted[0], "vectors.pt2", with_preprocessing=True)
    assert vectors.difference is not None and vectors.difference < 1e-4 and vectors.images == 64
    found, nothing = torch.export.load("vectors.pt2").module()(torch.zeros(1, 3, 20, 30, dtype=torch.uint8))
    assert found.shape == (1, 64) and nothing is None


@pytest.mark.slow
def test_the_student_as_onnx(program: Program, run: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    told = program("export", run, "-o", "student.onnx", "--with-preprocessing").stdout
    assert told.startswith("student.onnx: compared on 64 images, ")
    session = onnxruntime.InferenceSession("student.onnx")
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    student = relgraph.Run(run).student()
    with torch.no_grad():
        expected = student(torch.stack([student.preprocess(each) for each in pixels]))
    for mine, others in zip(session.run(None, {"images": pixels.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), others, rtol=1e-4, atol=1e-5)


def test_a_student_that_cannot_be_written(failure: Failing, run: Path) -> None:
    (taken := Path("taken")).mkdir()
    (taken / "file").touch()
    Path("there.onnx").touch()
    check_told(failure, ("export", run, "-o"), {
        "taken/": "taken exists already: expected a new or an empty folder",
        "there.onnx": "there.onnx is there already: remove it, or choose another name",
        "there.onnx --int8": "there.onnx is there already: remove it, or choose another name",
        "missing/student.pt2": "cannot write missing/student.pt2: No such file",
        "student.onnx --split train": "student.onnx is the student of a run, for which there is no option split",
        "student.pt2 --diff": "for which there is no option side, got difference",
        "graph.gexf --with-preprocessing": "graph.gexf is the graph of a run, for which there is no option with_pre",
        "a.safetensors --with-preprocessing": "preprocessing can be inside of the formats onnx and pt2, got",
        "student.pt2 --licence mit": "a licence stands in the model card of the format hub, got the format pt2",
    })  # fmt: skip


def test_onnx_is_an_optional_package(failure: Failing, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    told = failure("export", run, "-o", "student.onnx")
    assert "of which one is not installed" in told and told.endswith("pip install 'relgraph[deploy]'")


def test_a_run_without_a_teacher(program: Program, failure: Failing, alone: Path) -> None:
    placed = export(program, alone, "graph.json", "--side", "student", "--k", 2, "--layout", "spring")
    assert kinds(placed) == {"student": FIRST * 2}
    assert len({(data["x"], data["y"]) for _, data in placed.nodes(data=True)}) == FIRST
    told = dict.fromkeys(("", "--diff"), "was trained without a teacher")
    told["--side student --attributes overlap"] = "overlap is of two networks' neighbours, got the student's alone"
    check_told(failure, ("export", alone, "-o", "other.json"), told)


def test_errors(failure: Failing, misuse: Failing, run: Path) -> None:
    check_told(failure, ("export", run, "-o"), {
        "graph.gefx": "unknown format to export 'gefx': did you mean 'gexf'?",
        "missing/graph.gexf --first 9 --k 2": "cannot write missing/graph.gexf: No such file",
        "graph.gexf --first 9 --k 9": "k must be between 1 and the number of nodes less one, 8, got 9",
        "graph.json --split train --graph dense": "at most 1,000,000 edges",
        "graph.gexf --attributes labels": "unknown node attribute 'labels': did you mean 'label'?",
        "graph.gexf --diff --side teacher": "--diff compares both networks: expected no --side",
        "graph.gexf --diff --graph dense": "with the graph 'dense' both networks hold all pairs",
        "graph.gexf --diff --neighbours union": "each network chooses its own edges",
    })  # fmt: skip
    assert failure("export", "nothing", "-o", "graph.gexf").startswith("nothing is not a run: ")
    check_told(misuse, ("export", run), {"": "Missing option '-o'", "-o g.gexf --graph tree": "'tree' is not one of"})
