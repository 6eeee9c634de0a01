import re
from pathlib import Path

from tests.cli.conftest import Failing, Program, check_told


def test_a_page_is_written_and_told(program: Program, run: Path, alone: Path) -> None:
    for runs, file, output in (((run, alone), "report.html", ()), ((run,), "other.html", ("-o", "other.html"))):
        told = program("report", *runs, "--first", 30, "--k", 3, *output).stdout
        assert re.fullmatch(rf"{file}: {len(runs)} runs?, \d\.\d MB\n", told)
        page = Path(file).read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>") and "30 images of the test split, 3 nearest neighbours" in page


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
