import re
import shutil
from pathlib import Path

import click
import pytest

from tests.cli.shared import Failing, Program, check_told


def test_a_page_is_written_and_told(program: Program, run: Path, alone: Path) -> None:
    told = program("report", run, alone, "--first", 30, "--k", 3).stdout
    page = Path("report.html").read_text(encoding="utf-8")
    assert re.fullmatch(r"report\.html: 2 runs, \d\.\d MB\n", told)
    assert page.startswith("<!doctype html>") and "30 images of the test split, 3 nearest neighbours" in page


def test_the_examples_can_be_typed(
    program: Program, command: click.Group, run: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relgraph.analysis.report.content.MAP_NODES", 50)  # a map of all takes ten times as long
    shutil.copytree(run, "runs/knn8")
    shutil.copytree(alone, "runs/dense")
    typed = re.findall(r"^  relgraph (report .*?)(?:   .*)?$", command.commands["report"].epilog or "", re.MULTILINE)
    assert len(typed) == 3
    for line in typed:
        assert program(*line.split()).stdout.split(":")[0] == ("compare.html" if "-o" in line else "report.html")


def test_errors(failure: Failing, misuse: Failing, run: Path) -> None:
    check_told(failure, ("report", run), {
        "-o missing/report.html --first 9 --k 2": "cannot write missing/report.html: No such file",
        "--first 9 --k 9": "number of images less one, 8, got 9",
        "--k 0": "got 0",
        str(run): "each run once",
    })  # fmt: skip
    assert failure("report", "nothing").startswith("nothing is not a run: ")
    assert "Missing argument" in misuse("report")
    check_told(misuse, ("report", run), {"--first 1": "1 is not in the range", "--split all": "'all' is not one of"})
