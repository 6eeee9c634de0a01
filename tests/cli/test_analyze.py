import json
import shutil
from pathlib import Path
from typing import Any

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


def test_tables_tell_what_the_json_says(program: Program, run: Path) -> None:
    told, summary = analyze(program, run)
    assert told.startswith(f"digits, test: {FIRST} images, k = 3\n")
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


def test_the_json_lies_beside_the_run(program: Program, run: Path) -> None:
    path = run / "analysis-val.json"
    told = program("analyze", run, "--split", "val", "--k", 2).stdout
    assert told.endswith(f"\n{path}\n")
    assert json.loads(path.read_text())["split"] == "val"
    path.unlink()


def test_the_same_run_gives_the_same_file(program: Program, run: Path) -> None:
    assert analyze(program, run) == analyze(program, run)


def test_without_a_teacher(program: Program, alone: Path) -> None:
    told, summary = analyze(program, alone)
    assert "The run has no teacher: the student's graph alone is analysed." in told
    assert "teacher" not in summary and "overlap" not in told
    assert len(cells(told, "modularity")) == 1


def test_without_labels(program: Program, photos: Path) -> None:
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        file.rename(photos / f"{number}.png")
    for split in ("train", "test"):
        shutil.rmtree(photos / split)
    data = ("--dataset", f"folder:{photos}", "--image-size", 8, "--batch-size", 4, "--teacher", "embedded:digits")
    program("train", *data, "--epochs", 1, "--labels-per-class", 0, "--method", "infonce", "--out", "unlabelled")
    told = program("analyze", "unlabelled", "--split", "train", "--k", 2).stdout
    assert "The images have no labels: figures that need them are left out." in told
    assert "equal labels" not in told and "neighbour overlap at 2 %" in told
    assert "per_class" not in json.loads(Path("unlabelled/analysis-train.json").read_text())


def test_what_cannot_be_analysed(failure: Failing, misuse: Failing, run: Path) -> None:
    assert "nowhere" in failure("analyze", "nowhere")
    check_told(failure, ("analyze", run), {
        "--first 5 --k 5": "the number of images less one, 4, got 5",
        "--first 9 --k 2 --out nowhere/found.json": "cannot write",
    })  # fmt: skip
    check_told(misuse, ("analyze", run), {"--k 0": "0 is not in the range", "--first 1": "1 is not in the range"})
