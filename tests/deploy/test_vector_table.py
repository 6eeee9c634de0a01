"""Tables of vectors: whose they are, what they are, and that `vectors:FILE` reads them again."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import relgraph
from relgraph.data.images import ImageFiles
from relgraph.deploy import vector_table
from relgraph.deploy.vector_table import VectorTable
from relgraph.names import load_teacher
from relgraph.training.building import load_data
from relgraph.training.recipe import Recipe
from relgraph.training.vectors import open_vectors
from tests.checks import assert_refused_like, case
from tests.pictures import write_image

Row = tuple[str, str, str, list[float]]
OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "32-true", "workers": 0}


def rows(file: Path) -> list[Row]:
    """Return name, split, class and vector of each row, of NumPy without the two in the middle."""
    if file.suffix == ".npy":
        names = file.with_suffix(".names.txt").read_text(encoding="utf-8").splitlines()
        return [(name, "", "", vector) for name, vector in zip(names, np.load(file).tolist(), strict=True)]
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as stream:
            header, *lines = csv.reader(stream)
        assert header[:4] == ["name", "split", "label", "v0"]
        return [(name, split, label, [*map(float, numbers)]) for name, split, label, *numbers in lines]
    parquet = pytest.importorskip("pyarrow.parquet")
    return [tuple(row.values()) for row in parquet.read_table(file).to_pylist()]


def embed(dataset: object, teacher: object, out: Path, **options: Any) -> VectorTable:
    found = relgraph.embed(dataset=dataset, teacher=teacher, out=out, **{**OPTIONS, **options})
    assert isinstance(found, VectorTable) and found.path == out and found.precision == "32-true"
    return found


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_a_row_is_the_student_s_vector_of_the_image_that_it_names(
    run: relgraph.Run, photos: Path, tmp_path: Path, suffix: str
) -> None:
    file, student = tmp_path / f"v{suffix}", run.student()
    options: dict[str, Any] = {"teacher_args": ("output=embedding",), "batch_size": 7}
    written = embed(f"folder:{photos}", f"checkpoint:{run.path}", file, **options)
    found = rows(file)
    assert (written.images, written.width) == (len(found), 6) == (26, 6)
    files = sorted(photos.rglob("*.png"), key=lambda path: (path.parts[-3] == "test", path.parts[-2], path.name))
    assert [photos / name for name, *_ in found] == files
    for name, split, label, vector in found:
        with case(name):
            assert (split, label) == ("", "") if suffix == ".npy" else tuple(name.split("/")[:2])
            expected, _ = student(student.preprocess(photos / name)[None])
            torch.testing.assert_close(torch.tensor(vector), expected[0], rtol=1e-4, atol=1e-5)
    if suffix == ".npy":
        assert np.load(file).dtype == np.float32


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_vectors_are_read_again_as_a_teacher(photos: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    file, teacher = tmp_path / f"v{suffix}", load_teacher("embedded:digits")
    embed(f"folder:{photos}", "embedded:digits", file)
    recipe = Recipe(dataset=f"folder:{photos}", teacher=f"vectors:{file}", images="stream", val_fraction=0.3)
    data = load_data(recipe)
    again, files = open_vectors(recipe, data), data.train.images
    assert isinstance(files, ImageFiles) and again.width == 64
    for number in range(len(files)):
        pixels = torch.from_numpy(np.asarray(Image.open(files.path(number))).copy()).permute(2, 0, 1)
        grey = (pixels / 255 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)[None, None]
        expected = teacher((grey - teacher.mean[0]) / teacher.std[0])
        torch.testing.assert_close(again.rows(torch.tensor([number])), expected, rtol=1e-4, atol=1e-5)


def test_images_in_memory_have_their_position_as_the_name(tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    embed("digits", "embedded:digits", file, split="train")
    names = [name for name, *_ in rows(file)]
    assert names == [str(number) for number in range(1442)]
    order = np.random.default_rng(0).permutation(1442)  # by names, the order plays no part
    np.save(file, np.load(file)[order])
    file.with_suffix(".names.txt").write_text("\n".join(map(str, order)))
    recipe = Recipe(dataset="digits", teacher=f"vectors:{file}")
    data, again = load_data(recipe), load_teacher("embedded:digits")
    found = open_vectors(recipe, data).rows(torch.arange(9))
    images = data.train.pixels[:9].float() / 255
    expected = again((images - again.mean[0]) / again.std[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    embed("digits", "embedded:digits", tmp_path / "all.csv")
    both = rows(tmp_path / "all.csv")
    assert [(name, split) for name, split, *_ in both[1440:1444]] == [
        ("1440", "train"), ("1441", "train"), ("0", "test"), ("1", "test"),
    ]  # fmt: skip
    assert {label for _, _, label, _ in both} == set("0123456789")


def test_a_flat_folder_of_any_sizes_with_a_bad_file(
    run: relgraph.Run, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, options = f"checkpoint:{run.path}", {"teacher_args": ("output=embedding",)}
    told = "bad.png: not a readable image .* leave such files out by --bad-images skip$"
    before = sorted(tmp_path.rglob("*"))
    for file in (tmp_path / "v.csv", tmp_path / "v.npy"):
        assert_refused_like((lambda: embed(f"folder:{new}", teacher, file), told))  # noqa: B023 (called at once)
    assert sorted(tmp_path.rglob("*")) == before, "nothing half written"
    embed(f"folder:{new}", teacher, tmp_path / "v.csv", bad_images="skip", **options)
    assert "skipped 1 image that cannot be read, the first is " in capsys.readouterr().err
    found, student = rows(tmp_path / "v.csv"), run.student()
    assert [row[:3] for row in found] == [
        (name, "train", "") for name in ("a.png", "b.png", "in/c.jpg", "in/deep/d.png", "in/deep/e.png")
    ]
    for name, _, _, vector in found:
        expected, _ = student(student.preprocess(new / name)[None])
        torch.testing.assert_close(torch.tensor(vector), expected[0], rtol=1e-4, atol=1e-5)


def test_further_images_have_absolute_names(new: Path, photos: Path, tmp_path: Path) -> None:
    (new / "in" / "bad.png").unlink()
    embed(f"folder:{photos}", "embedded:digits", tmp_path / "v.npy", unlabelled=str(new), split="train")
    names = [name for name, *_ in rows(tmp_path / "v.npy")]
    assert len(names) == 25 and names[0] == "train/cat/0.png" and names[20] == str(new / "a.png")
    recipe = Recipe(dataset=f"folder:{photos}", teacher=f"vectors:{tmp_path / 'v.npy'}", unlabelled=str(new),
                    image_size=8)  # fmt: skip
    assert len(open_vectors(recipe, load_data(recipe)).rows(torch.arange(20))) == 20


def test_splits_of_a_table(photos: Path, tmp_path: Path) -> None:
    embed(f"folder:{photos}", "embedded:digits", tmp_path / "v.csv", split="test")
    assert [row[1] for row in rows(tmp_path / "v.csv")] == ["test"] * 6
    embed(f"classes:{photos / 'train'}", "embedded:digits", tmp_path / "drawn.csv")
    found = rows(tmp_path / "drawn.csv")
    assert [row[1] for row in found] == ["train"] * 16 + ["test"] * 4
    assert sorted(row[0] for row in found) == sorted(f"{c}/{n}.png" for c in ("cat", "dog") for n in range(10))
    told = "^the split 'val' of .* has no images: expected another --split$"
    assert_refused_like((lambda: embed(f"folder:{photos}", "embedded:digits", tmp_path / "o.csv", split="val"), told))


def test_a_table_is_written_in_blocks(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name, size in (("whole", 2**13), ("parts", 5)):
        monkeypatch.setattr(vector_table, "AT_ONCE", size)
        for suffix in vector_table.FORMATS:
            embed(f"folder:{photos}", "embedded:digits", tmp_path / f"{name}{suffix}", batch_size=3)
    for suffix in (".npy", ".names.txt", ".csv"):
        assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert rows(tmp_path / "parts.parquet") == rows(tmp_path / "whole.parquet")
    groups = parquet.ParquetFile(tmp_path / "parts.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [6, 6, 6, 2, 6]


class Fading(nn.Module):
    """A teacher whose vectors are infinite from its third batch on, the trial of its width included."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean((2, 3)) / (self.calls < 3)


def test_what_cannot_be_written_is_refused_and_nothing_is_left(photos: Path, tmp_path: Path) -> None:
    data, odd = f"folder:{photos}", tmp_path / "odd"
    (tmp_path / "there.csv").touch()
    (tmp_path / "v.names.txt").touch()
    write_image(odd / "a\nb.png")
    before = sorted(tmp_path.rglob("*"))

    def refused(out: str, told: str, teacher: object = "embedded:digits", **options: Any) -> None:
        given = {"dataset": data, **OPTIONS, **options}
        assert_refused_like((lambda: relgraph.embed(teacher=teacher, out=tmp_path / out, **given), told))

    refused("there.csv", "there.csv is there already: remove it, or choose another name$")
    refused("v.npy", "v.names.txt is there already")
    refused("no/v.csv", "^cannot write .*v.csv: No such file or directory")
    refused("o.csv", "^views is of a store: expected 1 for the table .*o.csv, got 2$", views=2)
    refused("o.csv", "^dtype is of a store: expected float32 for the table", dtype="float16")
    refused("o.csv", "^batch_size must be a whole number of at least 1, got 0$", batch_size=0)
    refused("store", "^a split is of a table, FILE.parquet, .csv or .npy; a store has train, got all$", split="all")
    refused("o.csv", "^expected vectors of finite numbers, found others for train/cat/4.png of train$", Fading(),
            batch_size=4)  # fmt: skip
    told = r"^expected names of files without line breaks, found 'a\\nb.png': write a"
    refused("o.npy", told, dataset=f"folder:{odd}")
    assert sorted(tmp_path.rglob("*")) == before
    embed(f"folder:{odd}", "embedded:digits", tmp_path / "o.csv")
    assert rows(tmp_path / "o.csv")[0][0] == "a\nb.png"


def test_parquet_needs_a_package(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    told = r"needs the package pyarrow, .*: pip install 'relgraph\[parquet\]', or write a \.csv file$"
    assert_refused_like((lambda: embed(f"folder:{photos}", "embedded:digits", tmp_path / "v.parquet"), told))
    assert os.listdir(tmp_path) == []
