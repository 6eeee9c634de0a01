import json
import os
import signal
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from relgraph.data.embeddings import EmbeddingStore, StoreWriter
from relgraph.deploy import vector_table
from relgraph.networks.vectors import VectorFile
from relgraph.training import stores as embedding
from tests.cli.conftest import Failing, Program, check_told, ended


def test_digits_from_end_to_end(program: Program) -> None:
    told = program("embed", "--dataset", "digits", "--teacher", "embedded:digits", "--views", 2).stdout.splitlines()
    (path,) = Path("embeddings").glob("digits-embedded-digits-2views-*")
    assert told[0] == f"digits by embedded:digits -> {path}"
    assert told[1].startswith(f"{path}: 1442 images x 2 views x 64, float32, 0.7 MB; ")
    assert told[1].endswith(" images/s through the teacher, in 32-true")
    assert told[2:] == ["as an index: centre"] and EmbeddingStore(path).contents.views == 2
    again = program("embed", "--views", 2).stdout.splitlines()
    assert again[1] == f"{path} was finished already: 1442 images x 2 views x 64, float32, 0.7 MB"


def test_a_folder_with_every_option(program: Program, photos: Path) -> None:
    teacher = ("--teacher", "embedded:digits", "--teacher-mean", "0.5", "--teacher-std", "0.25")
    program(
        "embed", "--dataset", f"folder:{photos}", *teacher, "--image-size", 6, "--views", 2, "--dtype", "float16",
        "--seed", 7, "--batch-size", 3, "--device", "cpu", "--precision", "32-true", "--out", "store",
    )  # fmt: skip
    contents = json.loads(Path("store/manifest.json").read_text())["contents"]
    expected: dict[str, Any] = {
        "images": 8, "image_shape": [3, 6, 6], "mean": [0.5], "std": [0.25], "views": 2, "dtype": "float16",
        "view_seed": 7, "precision": "32-true", "dataset": f"folder:{photos}",
    }  # fmt: skip
    assert {name: contents[name] for name in expected} == expected


def test_an_interrupt_says_how_to_go_on(
    command: click.Group, program: Program, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["embed", "--dataset", f"folder:{photos}", "--teacher", "embedded:digits", "--out", "store"]
    monkeypatch.setattr(embedding, "images_per_shard", lambda images, size: 5)
    original = StoreWriter.write

    def stop(self: StoreWriter, shard: int, rows: Any) -> None:
        if shard == 1:
            raise KeyboardInterrupt
        original(self, shard, rows)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write", stop)
        told = ended(command, 130, *args).stderr
    assert told == "\nstopped; finished shards are kept, the same command continues\n"
    assert Path("store/shard-00000.npy").exists()
    assert "store: 8 images x 1 view x 64" in program(*args).stdout


def test_sigterm_leaves_no_part_of_a_table(command: click.Group, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[str]()

    def blocks(*given: Any) -> Any:
        found.extend(path.name for path in Path().glob(".*.part"))
        os.kill(os.getpid(), signal.SIGTERM)
        yield

    monkeypatch.setattr(vector_table, "_blocks", blocks)
    args = ["embed", "--dataset", f"folder:{flat}", "--teacher", "embedded:digits", "-o", "v.npy"]
    ended(command, 143, *args)
    assert len(found) == 2 and not list(Path().glob(".*.part")) and not Path("v.npy").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_refusals(failure: Failing, misuse: Failing, program: Program, photos: Path) -> None:
    options = ("embed", "--dataset", f"folder:{photos}")
    assert "needs a teacher" in failure(*options)
    teacher = ("--teacher", "embedded:digits", "--out", "store")
    assert "one view an image is for relgraph train --views independent; " in program(*options, *teacher).stdout
    told = "store was started with something else: views was 1, is now 2; choose another --out"
    assert failure(*options, *teacher, "--views", 2) == told
    check_told(misuse, options, {"--views 0": "0 is not in the range", "--lr 1": "No such option"})


def test_a_table_for_other_programs(program: Program, failure: Failing, flat: Path) -> None:
    options = ("embed", "--dataset", f"folder:{flat}", "--teacher", "embedded:digits", "--precision", "32-true")
    first, last = program(*options, "-o", "v.csv").stdout.splitlines()
    assert first == f"folder:{flat} by embedded:digits -> v.csv"
    assert last.startswith("v.csv: 16 images x 64; ") and last.endswith(" images/s, in 32-true")
    assert len(Path("v.csv").read_text().splitlines()) == 17
    told = "a split is of a table, FILE.parquet, .csv or .npy; a store has train, got train"
    assert failure(*options, "--split", "train") == told
    assert failure(*options, "-o", "v.npy", "--views", 2).startswith("views is of a store: expected 1 for the table")
    assert "has no images: expected another --split" in failure(*options, "-o", "v.npy", "--split", "test")
    assert sorted(Path().glob("v*")) == [Path("v.csv")] and not Path("embeddings").exists()


def test_what_looks_like_another_file_is_no_store(program: Program, failure: Failing, flat: Path) -> None:
    options = ("embed", "--dataset", f"folder:{flat}", "--teacher", "embedded:digits")
    told = (
        "expected a table, FILE.parquet, .csv or .npy, or the directory of a store, got {0}: a directory of this name"
    )
    names = ("t.xyz", "t.pq", "t.feather", "t.TSV", "t.npz", "t.h5", "t.csv.gz", "store.dino")
    check_told(failure, (*options, "-o"), {name: f"{told.format(name)} is {name}/" for name in names})
    for name in ("store.v2", "dinov2_vits14.lvd142m", "store.dino/", "store.dino", "plain"):  # the fourth is there
        program(*options, "-o", name)
        assert EmbeddingStore(Path(name)).contents.images == 16
    for name in ("T.NPY", "T.Csv"):
        assert program(*options, "-o", name).stdout.splitlines()[-1].startswith(f"{name}: 16 images x 64; ")
    assert np.load("T.NPY").shape == (16, 64) and Path("T.names.txt").is_file() and Path("T.Csv").is_file()
    assert VectorFile.read(Path("T.NPY")).names == [row.split(",")[0] for row in Path("T.Csv").read_text().split()[1:]]


def test_help_is_honest_about_fixed_views(program: Program) -> None:
    text = " ".join(program("embed", "--help").stdout.split())
    assert "its own augmentation shrinks to N views an image" in text and "--val-fraction" not in text
