"""Each real file once and in one split, however many links lead to it; what relgraph writes is no data."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relgraph.data.folders import read_folder
from relgraph.data.images import ImageFiles
from relgraph.data.listing import LeftOut
from relgraph.training.building import open_data
from relgraph.training.distillation import train
from tests.checks import assert_refused_like
from tests.faults.conftest import Make, write_images

THERE = "links to what is there already"
NOWHERE = "links that lead nowhere"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of 12 training and 6 test images in two classes."""
    return write_images(tmp_path / "data", {"train": 6, "test": 3}, ("a", "b"))


def names(path: Path, left_out: LeftOut | None = None) -> dict[str, list[str]]:
    """Return the paths of the images of each split within its folder."""
    found = {}
    for split, (images, *_) in read_folder(path, 8, "stream", left_out)[1].items():
        assert isinstance(images, ImageFiles)
        found[split] = [os.fsdecode(name) for name in images.names]
    return found


def loop(data: Path) -> None:
    (data / "train/a/self").symlink_to("self")
    (data / "train/a/one").symlink_to("two")
    (data / "train/a/two").symlink_to("one")


LINKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "to its own class": (lambda data: (data / "train/a/again").symlink_to("../a"), f"{THERE} (1)"),
    "to another class": (lambda data: (data / "train/a/b").symlink_to("../b"), f"{THERE} (1)"),
    "to the split": (lambda data: (data / "train/b/up").symlink_to(".."), f"{THERE} (1)"),
    "to the root": (lambda data: (data / "train/a/root").symlink_to(data), f"{THERE} (1)"),
    "above the root": (lambda data: (data / "test/a/all").symlink_to(data.parent), f"{THERE} (1)"),
    "to the system's root": (lambda data: (data / "test/a/all").symlink_to("/"), f"{THERE} (1)"),
    "to the test split": (lambda data: (data / "train/a/test").symlink_to(data / "test"), f"{THERE} (1)"),
    "to a file": (lambda data: (data / "train/a/copy.png").symlink_to("00.png"), f"{THERE} (1)"),
    "to a test image": (lambda data: (data / "train/a/0.png").symlink_to("../../test/b/00.png"), f"{THERE} (1)"),
    "a hard link": (lambda data: os.link(data / "train/a/00.png", data / "test/b/99.png"), f"{THERE} (1)"),
    "to nothing": (lambda data: (data / "train/a/0.png").symlink_to("gone.png"), f"{NOWHERE} (1)"),
    "a class of nothing": (lambda data: (data / "train/c").symlink_to("gone"), f"{NOWHERE} (1)"),
    "in a loop": (loop, f"{NOWHERE} (3)"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_add_nothing_that_is_there(kind: str, data: Path) -> None:
    expected = names(data)
    assert {split: len(files) for split, files in expected.items()} == {"train": 12, "test": 6}
    make, told = LINKS[kind]
    make(data)
    left_out = LeftOut()
    assert names(data, left_out) == expected
    assert left_out.lines("d") == [f"d: left out {told}"]
    if "test" not in kind:
        assert names(data / "train") == {"train": expected["train"], "test": []}, "without labels as well"


def test_what_links_alone_lead_to_is_taken_once(data: Path, tmp_path: Path) -> None:
    """Folders made of links, as caches and subsets are, hold what they did."""
    expected, farm = names(data), tmp_path / "farm"
    for split, files in expected.items():
        for number, file in enumerate(files):
            (farm / split / file).parent.mkdir(parents=True, exist_ok=True)
            real = shutil.copy(data / split / file, tmp_path / f"{split}-{number}.blob")
            (farm / split / file).symlink_to(real)
    assert names(farm) == expected
    (farm / "train/a/twice.png").symlink_to(tmp_path / "train-0.blob")
    (farm / "test/a/leak.png").symlink_to(tmp_path / "train-0.blob")
    left_out = LeftOut()
    found = names(farm, left_out)
    assert found == expected and left_out.lines("d") == [f"d: left out {THERE} (2)"]
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(data / "train")
    shutil.copytree(data / "test/a", linked / "test/a")
    (linked / "test/b").symlink_to(data / "test/b")
    assert names(linked) == expected
    for folder in (linked / "train", linked / "test"):
        assert len(names(folder)["train"]) == len(expected[folder.name])


def test_a_split_or_a_class_that_is_another_is_refused(data: Path) -> None:
    (data / "train/c").symlink_to("a")
    told = rf"train/c: no images in this class folder \(.*; left out {THERE} \(1\)\)$"
    assert_refused_like((lambda: names(data), told))
    (data / "train/c").unlink()
    (data / "val").symlink_to("test")
    assert_refused_like(
        (lambda: names(data), rf"val/a: no images in this class folder \(.*; left out {THERE} \(2\)\)$")
    )


@pytest.mark.slow
def test_what_relgraph_writes_below_the_data_is_no_data(data: Path, make: Make) -> None:
    """Three runs below a folder without labels see the images that it had, and so does one below a class."""
    images = data / "train"
    for start in range(3):
        run = images / f"runs/{start}"
        recipe = make(dataset=f"folder:{images}", method="seed", student="resnet8", epochs=1, batch_size=6)
        train(recipe, run)
        Image.new("RGB", (8, 8)).save(run / "learning_curve.png")  # by one epoch none is drawn
        assert len(open_data(recipe).train) == 12
    shutil.copytree(images / "runs/0", data / "train/a/run")
    shutil.move(images / "runs", data / "train/b/runs")
    left_out = LeftOut()
    assert len(names(data, left_out)["train"]) == 12
    assert left_out.lines("d") == ["d: left out directories that relgraph wrote (4)"]


def test_a_run_beside_the_classes_is_no_class_and_neither_are_stores_and_thumbnails(data: Path, run: Path) -> None:
    shutil.copytree(run, data / "train/run")
    shutil.copytree(run, data / "train/runs/run")
    store, thumbnails = data / "test/a/store", data / "test/b/graph_thumbnails"
    for folder in (store, thumbnails, data / "test/b/own_thumbnails"):
        shutil.copytree(data / "train/a", folder)
    (store / "manifest.json").write_text('{\n  "format": "relgraph embeddings",\n  "version": 2\n}')
    (data / "test/b/graph.gexf").touch()
    (data / "train/a/manifest.json").write_text('{"format": "of somebody else"}')
    (data / "train/a/recipe.yaml").write_text("flour: 200 g")
    left_out = LeftOut()
    found = names(data, left_out)
    assert len(found["train"]) == 12 and len(found["test"]) == 6 + 6
    (line,) = left_out.lines("d")
    assert "directories that relgraph wrote (4)" in line


def test_two_spellings_of_a_class_are_one(data: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    assert composed != decomposed
    (data / "train/b").rename(data / "train" / composed)
    (data / "test/b").rename(data / "test" / decomposed)
    expected = read_folder(data, 8)
    assert expected[0] == ("a", composed) and expected[1]["test"][1].tolist() == [0] * 3 + [1] * 3
    try:
        (data / "train" / decomposed).mkdir()
    except FileExistsError:
        pytest.skip("this file system knows one spelling")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data / "train" / decomposed / "more.png")
    left_out = LeftOut()
    classes, splits = read_folder(data, 8, "auto", left_out)
    assert classes == ("a", composed) and splits["train"][1].tolist() == [0] * 6 + [1] * 7
    (line,) = left_out.lines("d")
    assert line.startswith("d: 2 folders in ") and line.endswith("spell the class 'été', and are taken as one")
    for folder in (data / "train", data / "test"):  # a copy by a system that composes names, or takes them apart
        for entry in list(folder.iterdir()):
            if entry.name == decomposed and not (folder / composed).exists():
                entry.rename(folder / composed)
    assert read_folder(data, 8)[0] == classes


def test_a_folder_that_cannot_be_read_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert_refused_like((lambda: names(data), r"cannot read .*train/b: Permission denied"))
