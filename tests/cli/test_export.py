import csv
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

import relgraph
from relgraph.analysis.run_loading import TrainedRun, run_pair
from tests.analysis.conftest import assert_same_pair
from tests.analysis.test_export import read
from tests.checks import case
from tests.cli.conftest import Failing, Program, check_told

FIRST = 20


def export(program: Program, run: Path, name: str, *args: object) -> "nx.Graph[str]":
    told = program("export", run, "-o", name, "--first", FIRST, *args).stdout
    assert told.startswith(f"{name}: {FIRST} images, ")
    return read(Path(name))


def kinds(graph: "nx.Graph[str]") -> dict[str, int]:
    return Counter(nx.get_edge_attributes(graph, "kind").values())


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


def test_options_are_those_of_the_function(program: Program, run: Path) -> None:
    """Each edge, node and figure of the file is that of the pair that the function makes."""
    opened = TrainedRun(run)
    several: tuple[dict[str, Any], ...] = (
        {}, {"split": "val", "k": 1}, {"graph": "dense"}, {"side": "teacher", "k": 3, "neighbours": "union"},
        {"graph": "threshold", "threshold": 0.5, "side": "teacher", "source": "projection"}, {"k": 3, "split": "train"},
    )  # fmt: skip
    for number, options in enumerate(several):
        with case(options):
            typed = [part for name, value in options.items() for part in (f"--{name}", value)]
            file = f"graph{number}.txt"
            told = program("export", run, "-o", file, "--format", "pt", "--first", FIRST, *typed).stdout
            assert told.startswith(f"{file}: {FIRST} images, ")
            found, expected = relgraph.read_pair(Path(file)), run_pair(opened, first=FIRST, **options)
            assert_same_pair(found, expected)
            assert found.to_dict()["_global_store"] == expected.to_dict()["_global_store"]


def test_gephi_gets_positions_unless_none_are_wanted(program: Program, run: Path) -> None:
    placed = export(program, run, "graph.graphml", "--k", 3)
    assert all(data["x"] < 0 if node.startswith("t") else data["x"] > 0 for node, data in placed.nodes(data=True))
    for name, args in (("other.graphml", ("--layout", "none")), ("graph.json", ())):
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


def test_what_is_there_is_not_written_over_by_a_graph(failure: Failing, run: Path) -> None:
    """A table of edges may have been edited, and one of nodes be a user's."""
    files = [Path(name) for name in ("mine.csv", "my_nodes.csv", "nodes.parquet", "g.gexf", "taken_thumbnails/1.png")]
    Path("taken_thumbnails").mkdir()
    for file in files:
        file.write_text("mine")
    there = "is there already: remove it, or choose another name"
    check_told(failure, ("export", run, "--first", FIRST, "-o"), {
        "mine.csv": f"mine.csv {there}", "my.csv": f"my_nodes.csv {there}", "edges.parquet": f"nodes.parquet {there}",
        "g.gexf": f"g.gexf {there}",
        "taken.gexf --thumbnails": "taken_thumbnails exists already: expected a new or an empty folder",
    })  # fmt: skip
    assert {file.read_text() for file in files} == {"mine"}


def test_the_difference(program: Program, run: Path) -> None:
    args = ("--k", 3, "--graph", "knn")
    found = export(program, run, "diff.graphml", "--diff", *args)
    own = (export(program, run, f"{side}.json", "--side", side, *args) for side in ("student", "teacher"))
    student, teacher = ({(f"n{a[1:]}", f"n{b[1:]}") for a, b in graph.edges} for graph in own)
    expected = dict.fromkeys(student - teacher, "student") | dict.fromkeys(teacher - student, "teacher")
    assert nx.get_edge_attributes(found, "only") == expected != {} and len(found) == FIRST
    for _, data in found.nodes(data=True):
        assert {"student_prediction", "teacher_prediction", "index", "x"} <= data.keys()


def test_the_student_is_a_folder_by_the_ending_or_the_format(program: Program, run: Path) -> None:
    student, images = relgraph.Run(run).student(), torch.randn(3, 1, 8, 8)
    for name, *options in (("hub/",), ("other", "--format", "hub")):
        told = program("export", run, "-o", name, *options).stdout
        assert re.fullmatch(rf"{name}: compared on 64 images, 0.\d MB, largest relative difference \d.*\n", told), told
        torch.testing.assert_close(relgraph.load_student(name.strip("/"))(images), student(images))
    assert "embedded:digits" in Path("hub/README.md").read_text()


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
        "graph.json --split train --graph dense": "at most 1,000,000 edges",
        "graph.gexf --attributes labels": "unknown node attribute 'labels': did you mean 'label'?",
        "graph.gexf --diff --side teacher": "--diff compares both networks: expected no --side",
    })  # fmt: skip
    assert failure("export", "nothing", "-o", "graph.gexf").startswith("nothing is not a run: ")
    check_told(misuse, ("export", run), {"": "Missing option '-o'", "-o g.gexf --graph tree": "'tree' is not one of"})
