"""Classes of image files: those that the student says of each alone, whatever is beside it."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import relgraph
from relgraph.deploy.predicting import Predicted
from tests.checks import assert_refused_like, case
from tests.deploy.conftest import QUICK
from tests.pictures import write_folder, write_image

FILES = ["a.png", "b.png", "in/c.jpg", "in/deep/d.png", "in/deep/e.png"]


def names(found: Predicted, folder: Path) -> list[str]:
    return [os.path.relpath(row.file, folder) for row in found.rows]


def test_the_figures_are_those_of_the_student_on_each_file(run: relgraph.Run, new: Path) -> None:
    student = run.student()
    for options in ({}, {"batch_size": 2}, {"batch_size": 2, "workers": 2}):
        with case(options):
            found = run.predict(new, top=9, device="cpu", **options)
            assert names(found, new) == FILES
            for row in found.rows:
                _, logits = student(student.preprocess(row.file)[None])
                expected = dict(zip(("cat", "dog"), logits[0].softmax(0).tolist(), strict=True))
                assert list(row.classes) == sorted(expected, key=lambda name: -expected[name])
                assert dict(zip(row.classes, row.probabilities, strict=True)) == pytest.approx(expected, abs=1e-5)
    (alone,) = relgraph.predict(run.path / "student.safetensors", new / "a.png").rows
    assert alone.classes == found.rows[0].classes[:1]
    assert alone.probabilities == pytest.approx(found.rows[0].probabilities[:1], abs=1e-5)


def test_files_that_cannot_be_read_are_named_and_counted(
    run: relgraph.Run, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run.predict([new, new / "none.png", new / "notes.txt"])
    assert names(found, new) == FILES
    bad = [str(new / name) for name in ("none.png", "in/bad.png", "notes.txt")]
    assert list(found.skipped) == bad and found.skipped[bad[0]] == "no such file"
    left_out, *lines, count = capsys.readouterr().err.splitlines()
    assert left_out == f"{new}: left out files of other formats (1 .txt)"
    assert lines == [f"{name}: {reason}" for name, reason in found.skipped.items()]
    assert count == "skipped 3 of 8 that cannot be read"
    told = "^expected images that can be read, found none$"
    empty = new / "empty"
    empty.mkdir()
    assert_refused_like(
        (lambda: run.predict(new / "in/bad.png"), told),
        (lambda: run.predict([empty]), told),
        (lambda: run.predict([]), told),
    )
    assert f"{empty}: no image in this folder\n" in capsys.readouterr().err


def test_a_pattern_is_found_where_no_shell_did_it_and_each_file_counts_once(
    run: relgraph.Run, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(new)
    write_image(new / "odd[1].png", seed=9)
    found = run.predict(["in/**/*.png", "a.png", "in/deep", "odd[1].png"])
    assert [row.file for row in found.rows] == ["in/deep/d.png", "in/deep/e.png", "a.png", "odd[1].png"]
    assert list(found.skipped) == ["in/bad.png"]


def test_relgraph_s_own_pictures_in_a_folder_are_no_images_of_it(run: relgraph.Run, new: Path) -> None:
    write_image(new / "graph_thumbnails" / "0.png")
    (new / "graph.json").touch()
    assert names(run.predict(new), new) == FILES


def test_what_is_written_is_what_is_returned(run: relgraph.Run, new: Path, tmp_path: Path) -> None:
    found = run.predict(new, top=2, out=tmp_path / "o.csv")
    run.predict(new, top=2, out=tmp_path / "o.txt", format="json")
    with (tmp_path / "o.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["file", "class", "probability", "class_2", "probability_2"]
    assert [(row["file"], row["class"], float(row["probability_2"])) for row in rows] == [
        (row.file, row.classes[0], row.probabilities[1]) for row in found.rows
    ]
    assert json.loads((tmp_path / "o.txt").read_text()) == [row.cells() for row in found.rows]


def test_a_file_that_cannot_be_written_is_refused_and_nothing_is_left(
    run: relgraph.Run, new: Path, tmp_path: Path
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert_refused_like(
        (lambda: run.predict(new, out=tmp_path / "there.csv"), "there.csv is there already: remove it, or choose"),
        (lambda: run.predict(new, out=tmp_path / "no" / "o.csv"), "^cannot write .*o.csv: No such file"),
        (lambda: run.predict(new, out=tmp_path / "o.xls"), "expected an output FILE.csv or FILE.json, or a format"),
        (lambda: run.predict(new / "in/bad.png", out=tmp_path / "o.csv"), "found none$"),
        (lambda: run.predict(new, tpo=1), "^unknown option 'tpo': expected one of this function, or code "),
        (lambda: run.predict(new, top=0), "top must be a whole number of at least 1, got 0"),
    )
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.csv").read_text() == "mine"


def test_a_run_without_a_classifier_is_refused(new: Path, tmp_path: Path) -> None:
    flat = write_folder(tmp_path / "flat", {"all": 16}, ["noise"])
    seed = relgraph.train(dataset=f"folder:{flat}", **QUICK, method="seed", method_args=("queue=16",),
                          out=tmp_path / "seed")  # fmt: skip
    network = tmp_path / "pretrained" / "network.safetensors"
    network.parent.mkdir()
    network.touch()
    told = "trained no classifier, .*: relgraph embed --teacher checkpoint:.*{} --teacher-args output={} gives vectors$"
    assert_refused_like(
        (lambda: seed.predict(new), told.format("seed", "embedding")),
        (lambda: relgraph.predict(network.parent, new), told.format("pretrained", "feature")),
        (lambda: relgraph.predict(new, new), "^cannot read the network file .*student.safetensors"),
    )


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)  # type: ignore[no-any-return]


def test_a_student_of_one_s_own_code_is_given_again(photos: Path, new: Path, tmp_path: Path) -> None:
    options = {name: value for name, value in QUICK.items() if name != "teacher"} | {"student": Tiny, "method": "none"}
    own = relgraph.train(dataset=f"folder:{photos}", **options, out=tmp_path / "own")
    found = own.predict(new / "a.png")
    assert relgraph.predict(own.path, new / "a.png", student=Tiny).rows == found.rows
    assert relgraph.predict(relgraph.Run(own.path), new / "a.png", student=Tiny).rows == found.rows
    assert_refused_like((lambda: relgraph.predict(own.path, new / "a.png"), "Tiny"))
    assert torch.tensor(found.rows[0].probabilities).isfinite().all()
