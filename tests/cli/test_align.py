"""`relgraph align` and `relgraph query`: what they print and refuse."""

import json
import shutil
from pathlib import Path

import pytest

import relgraph
from relgraph.deploy.aligning import Alignment
from tests.cli.conftest import Failing, Program, check_told
from tests.pictures import write_image


@pytest.fixture(scope="session")
def store(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "store"
    told = program("embed", "--index-transform", "pca:20", "-o", path).stdout
    assert told.endswith("\nas an index: pca:20\n")
    return path


def test_align_tells_what_it_gains_before_it_writes(program: Program, failure: Failing, run: Path, store: Path) -> None:
    shutil.copytree(run, "aligned")
    before = Path("aligned/student.safetensors").read_bytes()
    header, _, *rows, fitted, last = program("align", "aligned", "--dry-run", "--index", store).stdout.splitlines()
    assert header.split("  ")[0] == "143 val images" and header.endswith("recall@1 %  mAP %  overlap@10 %  cosine")
    names = ["teacher's index, after", "own index, before", "own index, after", "teacher itself"]
    assert [row.split("  ")[0] for row in rows] == names
    assert fitted == "fitted to 1299 training images, 256 -> 64, as an index: pca:20"
    assert last == "aligned: nothing was written" and Path("aligned/student.safetensors").read_bytes() == before

    def stop(found: Alignment) -> None:
        assert not found.written and len(found.figures) == len(names)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relgraph.align("aligned", before=stop)
    assert Path("aligned/student.safetensors").read_bytes() == before, "figures are told before anything is written"
    told = program("align", "aligned").stdout.splitlines()
    assert told[-2:] == [
        "fitted to 1299 training images, 256 -> 64, as an index: centre",
        "aligned: the student is aligned; --undo takes it back",
    ]
    assert "is aligned with the vectors of embedded:digits already" in failure("align", "aligned")
    assert program("align", "aligned", "--undo").stdout == "aligned: the student is as it was before it was aligned\n"
    assert Path("aligned/student.safetensors").read_bytes() == before


def test_query_prints_a_table_or_json_and_writes_a_page(
    program: Program, failure: Failing, run: Path, store: Path
) -> None:
    shutil.copytree(run, "aligned")
    program("align", "aligned", "--index", store)
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(Path("new") / name, (8, 8), seed)
    query = "query", "aligned", "new", "--index", store, "--k", 2
    header, _, *rows, page = program(*query, "--html", "page.html").stdout.splitlines()
    assert header.split() == ["query", "rank", "score", "image"] and page == "page.html: 2 queries"
    assert [row.split()[:-2] for row in rows] == [["new/a.png", "1"], ["2"], ["new/b.png", "1"], ["2"]]
    found = json.loads(program(*query, "--json").stdout)
    assert [each["file"] for each in found] == ["new/a.png", "new/b.png"]
    positions = [answer["name"] for each in found for answer in each["answers"]]
    assert [row.split()[-1] for row in rows] == positions
    assert Path("page.html").read_text().count("<img ") == 6
    check_told(failure, query, {
        "--html page.html": "page.html is there already",
        "--k 2000": "k must be between 1 and the number of images in",
        "--index new": "expected an index, a store of relgraph embed or a table .npy or .parquet, got new",
    })  # fmt: skip


def test_runs_that_cannot_be_aligned_are_refused(failure: Failing, run: Path, alone: Path, store: Path) -> None:
    assert "was trained without a teacher, with whose vectors" in failure("align", alone)
    check_told(failure, ("align", run), {
        "--undo": "student.safetensors is not aligned: there is nothing to undo",
        "--undo --dry-run": "expected neither index nor dry_run with it",
        "--index nothing": "expected a store of relgraph embed, a folder with manifest.json, got nothing",
        "--teacher checkpoint:x": "it is not given again",
    })  # fmt: skip
    assert "relgraph align RUN turns a student's" in failure_of_query(failure, run, store)


def failure_of_query(failure: Failing, run: Path, store: Path) -> str:
    """Return what a query by a student that is not aligned says last."""
    write_image(Path("new.png"), (8, 8), 0)
    with pytest.raises(relgraph.RelgraphError) as told:
        relgraph.query(run, "new.png", index=store)
    return str(told.value)
