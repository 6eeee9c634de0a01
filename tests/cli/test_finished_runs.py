"""`relgraph analyze`, `evaluate` and `report`: what they tell of finished runs."""

import json
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from tests.checks import case
from tests.cli.conftest import Failing, Program, check_told

FIRST = 40


def analyze(program: Program, run: Path, *args: object) -> tuple[str, dict[str, Any]]:
    told = program("analyze", run, "--first", FIRST, "--k", 3, "--out", "found.json", *args).stdout
    summary: dict[str, Any] = json.loads(Path("found.json").read_text())
    assert told.endswith("\nfound.json\n")
    return told, summary


def cells(told: str, start: str) -> list[str]:
    (line,) = (line for line in told.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def row_below(told: str, start: str) -> int:
    """Return the number of the first row of the table whose header starts so."""
    (header,) = (number for number, line in enumerate(told.splitlines()) if line.startswith(start))
    return header + 2


def test_tables_of_an_analysis_tell_what_the_json_says(program: Program, run: Path) -> None:
    told, summary = analyze(program, run, "--source", "projection")
    whose = "The teacher's graph is of the teacher's vectors behind the run's projection.\n"
    assert told.startswith(f"digits, test: {FIRST} images, k = 3\n{whose}")
    assert cells(told, "graph ") == ["student", "projection"]
    graphs = [summary["student"], summary["teacher"]]
    assert cells(told, "edges that join equal labels %") == [f"{100 * graph['homophily']:.2f}" for graph in graphs]
    assert cells(told, "modularity") == [f"{graph['modularity']:.2f}" for graph in graphs]
    assert cells(told, "most often chosen") == [str(graph["in_degree"]["largest"]) for graph in graphs]
    assert cells(told, "neighbour overlap at 3 %") == [f"{100 * summary['overlap']:.2f}"]
    assert cells(told, "nearest teacher node is the own %") == [f"{100 * summary['match']:.2f}"]
    assert cells(told, "rank correlation, all pairs") == [f"{summary['pair_rank']:.2f}"]
    assert cells(told, "communities, NMI") == [f"{summary['agreement']['student_teacher']['nmi']:.2f}"]
    worst = summary["per_class"][0]
    expected = [str(worst["images"]), f"{100 * worst['overlap']:.2f}", f"{worst['relation_error']:.2f}"]
    assert told.splitlines()[row_below(told, "worst classes")].split()[:4] == [worst["name"], *expected]
    image = summary["worst"][0]
    neighbours = [str(neighbour) for neighbour in (*image["student"], *image["teacher"])]
    cells_of_image = told.splitlines()[row_below(told, "image ")].split()
    assert cells_of_image == [str(image["index"]), image["name"], f"{100 * image['overlap']:.0f}", *neighbours]


def test_the_teachers_own_vectors_are_meant_by_teacher(program: Program, run: Path) -> None:
    told, summary = analyze(program, run)
    assert summary["source"] == "teacher" and "match" not in summary
    assert "\nThe teacher's graph is of the frozen teacher's own vectors.\nNodes are not matched: the vectors" in told
    assert cells(told, "graph ") == ["student", "teacher"] and cells(told, "nearest teacher node is the own %") == ["-"]


def test_a_store_is_analysed_and_exported_without_a_run(program: Program) -> None:
    program("embed", "--dataset", "digits", "--out", "store")
    told = program("analyze", "store", "--first", FIRST, "--k", 3).stdout
    start = (
        f"digits, train: {FIRST} images, k = 3\nThe graph is of the frozen teacher's own vectors, without a student.\n"
    )
    assert told.startswith(start) and told.endswith("\nstore/analysis.json\n")
    homophily = json.loads(Path("store/analysis.json").read_text())["teacher"]["homophily"]
    assert cells(told, "edges that join equal labels %") == [f"{100 * homophily:.2f}"]
    told = program("export", "store", "-o", "g.gexf", "--first", FIRST, "--layout", "none").stdout
    assert told.startswith("g.gexf: 40 images, ") and told.endswith(", of the frozen teacher's own vectors\n")


def test_the_json_of_an_analysis_lies_beside_the_run(program: Program, run: Path) -> None:
    path = run / "analysis-val.json"
    told = program("analyze", run, "--split", "val", "--k", 2).stdout
    assert told.endswith(f"\n{path}\n")
    assert json.loads(path.read_text())["split"] == "val"
    path.unlink()


def test_an_analysis_without_a_teacher(program: Program, alone: Path) -> None:
    told, summary = analyze(program, alone)
    assert "The graph is of the student's vectors, without a teacher's." in told
    assert "teacher" not in summary and "overlap" not in told
    assert len(cells(told, "modularity")) == 1


def test_an_analysis_without_labels(program: Program, flat: Path) -> None:
    data = ("--dataset", f"folder:{flat}", "--image-size", 8, "--batch-size", 4, "--teacher", "embedded:digits")
    program("train", *data, "--epochs", 1, "--labels-per-class", 0, "--method", "infonce", "--out", "unlabelled")
    told = program("analyze", "unlabelled", "--split", "train", "--k", 2).stdout
    assert "The images have no labels: figures that need them are left out." in told
    assert "equal labels" not in told and "neighbour overlap at 2 %" in told
    assert "per_class" not in json.loads(Path("unlabelled/analysis-train.json").read_text())


def test_table_and_json_of_an_evaluation_tell_the_same(program: Program, run: Path) -> None:
    report = json.loads(program("evaluate", run, "--json").stdout)
    header, _, *rows, note = program("evaluate", run).stdout.splitlines()
    assert header.split("  ")[0] == "network"
    columns = ("top1", "top5", "knn", "linear", "knn_few", "linear_few")
    for row, name in zip(rows, ("student", "teacher"), strict=True):
        assert row.split() == [name, *(f"{report[name][column]:.2f}" for column in columns)]
    images = report["images"]
    assert f"{images['test']} test images; {images['train']} training images, {images['labelled']} of them" in note


def test_an_evaluation_without_a_teacher_and_with_one_neighbour(program: Program, misuse: Failing, alone: Path) -> None:
    report = json.loads(program("evaluate", alone, "--json", "--k", 1).stdout)
    assert report["neighbours"] == 1 and "teacher" not in report
    assert "\nteacher" not in program("evaluate", alone).stdout
    assert "0 is not in the range" in misuse("evaluate", alone, "--k", 0)


def test_an_evaluation_of_a_student_without_labels(program: Program, contrasted: tuple[Path, str]) -> None:
    """No loss trained its classifier: there is no accuracy of it, but a dash in the table."""
    path, _ = contrasted
    header, _, student, teacher, _ = program("evaluate", path).stdout.splitlines()
    assert "top-1 %  top-5 %  k-NN %  linear probe %" in header
    assert student.split()[:3] == ["student", "-", "-"] and "-" not in teacher.split()


def test_an_evaluation_on_a_single_unseen_class_has_no_figures(program: Program) -> None:
    options = ("--holdout-classes", "test=3", "--gamma", 0, "--epochs", 1, "--student", "resnet8", "--select", "last")
    program("train", "--method", "infonce", *options, "--out", "one")
    told = program("evaluate", "one").stdout.strip()
    assert told == "no figures: retrieval is judged by test images of two classes or more, with two images of one"


def test_fewer_images_than_neighbours_by_default(program: Program, run: Path) -> None:
    program("report", run, "--first", 6, "-o", "few.html")
    assert "6 images of the test split, 5 nearest neighbours" in Path("few.html").read_text(encoding="utf-8")
    assert "6 images, k = 5" in program("analyze", run, "--first", 6, "--out", "few.json").stdout
    program("export", run, "--side", "teacher", "--first", 6, "-o", "few.graphml")
    assert nx.read_graphml("few.graphml").number_of_edges() == 6 * 5


def test_a_report_is_written_and_told(program: Program, run: Path, alone: Path) -> None:
    for runs, file, output in (((run, alone), "report.html", ()), ((run,), "other.html", ("-o", "other.html"))):
        told = program("report", *runs, "--first", 30, "--k", 3, *output).stdout
        assert re.fullmatch(rf"{file}: {len(runs)} runs?, \d\.\d MB\n", told)
        page = Path(file).read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>") and "30 images of the test split, 3 nearest neighbours" in page


def test_a_page_and_figures_replace_their_own_of_before_and_nothing_else(
    program: Program, failure: Failing, run: Path
) -> None:
    few = ("--first", 30, "--k", 3)
    commands = {"report": ("-o", "page.html"), "analyze": ("--out", "found.json")}
    for command, (option, name) in commands.items():
        with case(command):
            file = Path(name)
            program(command, run, *few, option, file)
            written = file.read_bytes()
            program(command, run, *few, option, file)
            assert file.read_bytes() == written
            kind = {"report": "report of relgraph", "analyze": "analysis of relgraph"}[command]
            for text in ("<!doctype html><p>mine</p>", '{"images": 3}', "[1]", ""):
                file.write_text(text)
                told = f"{name} is there already, and is no {kind}: remove it, or choose another name"
                assert failure(command, run, *few, option, file) == told
                assert file.read_text() == text


@pytest.mark.slow
def test_what_cannot_be_judged(failure: Failing, misuse: Failing, run: Path, tmp_path: Path) -> None:
    for command in ("analyze", "evaluate", "report"):
        assert failure(command, "nothing").startswith("nothing is not a run: expected a directory with recipe.yaml")
    assert failure("evaluate", tmp_path).startswith(f"{tmp_path} is not a run")
    check_told(failure, ("analyze", run), {"--first 9 --k 2 --out nowhere/found.json": "cannot write"})
    told = {
        "-o missing/report.html --first 9 --k 2": "cannot write missing/report.html: No such file",
        "--k 0": "got 0",
    }
    check_told(failure, ("report", run), told)
    assert "Missing argument" in misuse("report")
    check_told(misuse, ("analyze", run), {"--k 0": "0 is not in the range", "--first 1": "1 is not in the range"})
    check_told(misuse, ("report", run), {"--first 1": "1 is not in the range", "--split all": "'all' is not one of"})


def test_a_gallery_is_a_table_of_who_asks_and_whose_index_answers(
    program: Program, failure: Failing, run: Path
) -> None:
    report = json.loads(program("evaluate", run, "--gallery", "teacher", "--json").stdout)["retrieval"]
    told = program("evaluate", run, "--gallery", "teacher").stdout
    header, _, *rows, below = told.splitlines()
    assert header.split() == [
        "queries",
        *" % ".join(["recall@1", "recall@5", "recall@10", "mAP", "mAP@R", "overlap@10", ""]).split(),
    ]
    names = {
        "student in the teacher's index": "student_teacher", "teacher in its own index": "teacher_teacher",
        "student in its own index": "student_student",
    }  # fmt: skip
    assert [row[:30].strip() for row in rows] == list(names)
    for words, name in names.items():
        assert cells(told, words) == [f"{value:.2f}" for value in report[name].values()]
    assert below.startswith(
        "355 queries, the test images, among 355 images, as an index: none; overlap: of the 10 nearest"
    )
    own = program("evaluate", run, "--gallery", "own", "--split", "val", "--k", 3).stdout
    assert "overlap@3 %" in own and "student in the teacher's index" not in own
    np.save("bare.npy", torch.randn(1442, 64).numpy())  # of whatever network
    rows = program("evaluate", run, "--gallery", "bare.npy").stdout.splitlines()[2:4]
    assert [row[:21].strip() for row in rows] == ["student in bare.npy", "teacher in bare.npy"]
    told = failure("evaluate", run, "--gallery", "teacher", "--k", 5000)
    assert told.endswith("can answer a query, 354, got 5000")
    assert failure("evaluate", run, "--zero-shot", "classes.txt").endswith("an open_clip teacher, got embedded:digits")
    assert failure("evaluate", run, "--split", "val").startswith("a split is that of a gallery or of zero-shot classes")


@pytest.mark.slow
def test_unseen_classes_from_the_training_to_the_figures(program: Program, tmp_path: Path) -> None:
    options = ("--target-space", "teacher", "--holdout-classes", "0.2,0.3", "--method", "sp", "--gamma", 0)
    told = program("train", *options, "--epochs", 1, "--batch-size", 360, "--out", "unseen").stdout
    assert (
        re.search(r"epoch +1/1 +loss [\d.]+ +val mAP [\d.]+ %", told)
        and "student on the test split  recall@1 %" in told
    )
    found = program("evaluate", "unseen").stdout
    assert re.search(
        r"^433 test images of 3 classes that no training image has, each a query among the others", found, re.M
    )
    report = json.loads(program("evaluate", "unseen", "--json").stdout)
    assert len(report["held_out"]["test"]) == 3 and set(report["student"]) == set(report["teacher"])
    for name, figures in (("student", report["student"]), ("teacher", report["teacher"])):
        assert cells(found, name) == [f"{value:.2f}" for value in figures.values()]
