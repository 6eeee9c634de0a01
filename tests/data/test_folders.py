"""Folders written with PIL, read back and compared pixel by pixel; every way they can be wrong."""

import os
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import torch

from relgraph.data import folders
from relgraph.data.folders import check_memory, list_images, read_folder
from relgraph.data.images import ImageFiles
from tests.checks import assert_refused_like
from tests.pictures import write_folder, write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with three training and two test images each."""
    return write_folder(tmp_path, {"train": 3, "test": 2}, size=(6, 6))


def test_images_and_labels_are_read_in_order(tmp_path: Path) -> None:
    expected: list[np.ndarray] = []
    for name in ("cat", "dog"):
        for file in ("0.png", "1.PNG", "deeper/2.bmp"):
            expected.append(write_image(tmp_path / "train" / name / file, (7, 5), seed=len(expected)))
        write_image(tmp_path / "val" / name / "0.png", (7, 5), seed=9)
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/cat/._0.png").write_bytes(b"not an image either")
    (tmp_path / "train/.cache").mkdir()
    classes, splits = read_folder(tmp_path, None)
    images, labels, _ = splits["train"]
    assert isinstance(images, torch.Tensor)
    assert classes == ("cat", "dog") and list(splits) == ["train", "test"]
    assert torch.equal(images, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and labels.dtype == torch.int64


def fails(folder: Path, *messages: str) -> None:
    assert_refused_like(*((lambda: read_folder(folder, None), message) for message in messages))


def test_missing_folders_and_classes_are_named(folder: Path) -> None:
    fails(folder / "nowhere", "nowhere: no such folder")
    (folder / "train/emu").mkdir()
    fails(folder, r"train/emu: no images in this class folder")
    write_image(folder / "train/emu/0.png")
    write_image(folder / "test/fox/0.png")
    fails(folder, "the classes of the test images differ from train/: missing emu; not in train/ fox")
    rmtree(folder / "train/dog")
    rmtree(folder / "train/emu")
    fails(folder, r"train: expected one folder for each of at least 2 classes, found cat")
    rmtree(folder / "train/cat")
    fails(folder, r"at least 2 classes, found none")
    rmtree(folder / "test")
    fails(folder, r"expected a folder val/ or test/ beside train/, found neither")
    rmtree(folder / "train")
    (folder / "val").mkdir()
    write_image(folder / "0.png")
    fails(folder, r"expected a folder train/ in it, found none")


def test_the_first_image_of_another_size_is_named(folder: Path) -> None:
    for name in ("cat/2", "dog/0"):
        write_image(folder / f"train/{name}.png", (9, 7))
    fails(folder, r"train/cat/2\.png: expected 6 x 6 pixels like the first image, found 9 x 7: give --image-size")


def test_too_much_memory_is_refused_before_decoding(folder: Path) -> None:
    check_memory(2**20, 1, 64, 128)  # 8 GiB exactly
    told = r"10 images of 3 x 20000 x 20000 need 11\.2 GiB of memory, expected at most 8: .*--images stream$"
    assert_refused_like(
        (lambda: read_folder(folder, 20_000, "memory"), told),
        (lambda: check_memory(2**20 + 1, 1, 64, 128), "need 8.0 GiB"),
    )


def test_streamed_images_are_those_in_memory(folder: Path) -> None:
    write_image(folder / "train/dog/1.png", (9, 7), seed=1)
    classes, held = read_folder(folder, 5, "memory")
    same, streamed = read_folder(folder, 5, "stream")
    assert same == classes and list(streamed) == list(held)
    for split, (files, labels, _) in streamed.items():
        pixels = held[split][0]
        assert isinstance(files, ImageFiles) and isinstance(pixels, torch.Tensor)
        assert torch.equal(files.load(split), pixels) and torch.equal(labels, held[split][1])
        assert files.shape == pixels.shape


def test_auto_streams_all_splits_if_together_they_do_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, kind in ((10 * 3 * 6 * 6, torch.Tensor), (10 * 3 * 6 * 6 - 1, ImageFiles)):
        monkeypatch.setattr(folders, "MEMORY_LIMIT", limit)
        _, splits = read_folder(folder, None)
        assert [type(images) for images, *_ in splits.values()] == [kind, kind]


def test_streaming_opens_the_first_image_alone(folder: Path) -> None:
    for file in sorted(folder.rglob("*.png"))[:0:-1]:
        if file != folder / "train/cat/0.png":
            file.write_bytes(b"not an image")
    _, splits = read_folder(folder, None, "stream")
    assert splits["train"][0].shape == (6, 3, 6, 6) and splits["test"][0].shape == (4, 3, 6, 6)
    (folder / "train/cat/0.png").write_bytes(b"not an image")
    assert read_folder(folder, 9, "stream")[1]["train"][0].shape == (6, 3, 9, 9)
    told = r"train/cat/0\.png: not a readable image"
    assert_refused_like((lambda: read_folder(folder, None, "stream"), told))


def test_a_listing_is_in_the_order_of_folders_and_names(tmp_path: Path) -> None:
    files = ["a/b/1.png", "a/b/c/1.png", "a/b-c/1.png", "a/b.png", "a/a.png", "z/1.png", "a/.thumbnails/1.png"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    expected = sorted(Path(file) for file in files[:5])
    assert [Path(os.fsdecode(file)) for file in list_images(tmp_path)["a"]] == expected


def test_a_folder_without_splits_holds_images_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [write_image(tmp_path / file, (6, 6), seed=len(file)) for file in ("a/b/c/1.bmp", "b.png", "cat/0.PNG")]
    for hidden in (".0.png", ".cache/0.png", "cat/.cache/0/1.png"):
        write_image(tmp_path / hidden)
    (tmp_path / "a/notes.txt").write_text("not an image")
    for mode in ("auto", "stream"):
        classes, splits = read_folder(tmp_path, None, mode)
        (images, labels, _), (none, no_labels, _) = splits["train"], splits["test"]
        pixels = images.load("train") if isinstance(images, ImageFiles) else images
        assert isinstance(images, ImageFiles) == isinstance(none, ImageFiles) == (mode == "stream")
        assert classes == () and list(splits) == ["train", "test"]
        assert torch.equal(pixels, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
        assert labels.tolist() == [-1, -1, -1] and labels.dtype == no_labels.dtype == torch.int64
        assert none.shape == (0, 3, 6, 6) and no_labels.tolist() == []
    monkeypatch.chdir(tmp_path)
    images, *_ = read_folder(Path(), None, "stream")[1]["train"]
    assert isinstance(images, ImageFiles) and images.names.tolist() == [b"a/b/c/1.bmp", b"b.png", b"cat/0.PNG"]


def test_a_folder_without_an_image(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/notes.txt").write_text("not an image")
    write_image(tmp_path / ".cache/0.png")
    told = r"expected train/CLASS/image\.png with val/ or test/ beside train/, or images without labels at any depth, "
    fails(tmp_path, told + r"found no image \(looked for \.jpg, ")
