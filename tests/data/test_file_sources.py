"""A folder of classes, and a pool of images without labels beside any data set: in memory and streamed alike."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relgraph.data import folders
from relgraph.data.datasets import DataSet, load, together
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.listing import NO_CLASS, TAKEN, THERE_ALREADY, LeftOut
from relgraph.names import dataset
from tests.checks import assert_refused_like, case
from tests.pictures import write_folder, write_image


def read(name: str, **options: Any) -> DataSet:
    usual: dict[str, Any] = {"image_size": 8, "val_fraction": 0.0, "labels_per_class": None, "seed": 0}
    return load(dataset(name), root=Path("unused"), **{**usual, **options})


def pixels(images: ImageSet) -> Tensor:
    return images.images.load("all") if isinstance(images.images, ImageFiles) else images.images


def stacked(files: list[Path]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Ten images of each of two classes, without splits."""
    return write_folder(tmp_path / "flat", {".": 10})


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Five images at two depths, none of them another's."""
    for number, name in enumerate(("a", "b", "c", "more/d", "more/e")):
        write_image(tmp_path / f"pool/{name}.png", seed=100 + number)
    return tmp_path / "pool"


def test_a_folder_of_classes_is_split_by_a_fraction_and_a_seed(flat: Path) -> None:
    data, streamed = (read(f"classes:{flat}", mode=mode) for mode in ("memory", "stream"))
    assert data.train.classes == ("cat", "dog") and [len(data.train), len(data.val), len(data.test)] == [16, 0, 4]
    for split in ("train", "test"):
        held, files = getattr(data, split), getattr(streamed, split)
        assert torch.equal(held.pixels, pixels(files)) and torch.equal(held.labels, files.labels)
        assert held.labels.bincount().tolist() == [len(held) // 2] * 2 and held.split == split
        assert held.index.tolist() == list(range(len(held)))
    every = {tuple(image) for image in stacked(sorted(flat.rglob("*.png"))).flatten(1).tolist()}
    assert {tuple(image) for image in torch.cat([data.train.pixels, data.test.pixels]).flatten(1).tolist()} == every
    other = read(f"classes:{flat}", seed=5, val_fraction=0.25, labels_per_class=1)
    assert torch.equal(other.test.pixels, data.test.pixels) and len(other.val) == 4
    assert not torch.equal(read(f"classes:{flat}", split_seed=1).test.pixels, data.test.pixels)
    assert len(read(f"classes:{flat}", test_fraction=0.5).test) == 10
    assert (data.crop_padding, data.flip, data.name) == (1, True, f"classes:{flat}")


def test_what_is_no_folder_of_classes_is_refused(flat: Path, tmp_path: Path) -> None:
    write_image(flat / "0.png")
    assert read(f"classes:{flat}").left_out.counts == {NO_CLASS: 1}
    for name, target in (("itself", flat), ("above", flat.parent)):
        (flat / name).symlink_to(target)
    whole = read(f"classes:{flat}")
    assert whole.train.classes == ("cat", "dog") and whole.left_out.counts == {NO_CLASS: 1, THERE_ALREADY: 2}
    split = write_folder(tmp_path / "split", {"train": 1, "test": 1})
    (tmp_path / "one/cat").mkdir(parents=True)
    cases = {
        "nowhere": "nowhere: no such folder.*$",
        str(split): rf"expected one folder for each class, found splits \(train, test\): give folder:{split}$",
        str(tmp_path / "one"): "expected one folder for each of at least 2 classes, found cat$",
    }
    assert_refused_like(*((partial(read, f"classes:{path}"), told) for path, told in cases.items()))
    (flat / "emu").mkdir()
    assert_refused_like((lambda: read(f"classes:{flat}"), r"flat/emu: no images in this class folder"))


def test_a_folder_without_labels_says_that_its_folders_could_be_classes(flat: Path, pool: Path) -> None:
    told = f"read without labels; if its 2 folders (cat, dog) are classes, give classes:{flat}"
    assert read(f"folder:{flat}").left_out.lines("d") == [f"d: {told}"]
    assert read(f"folder:{pool}").left_out.lines("d") == []
    for name in "efgh":
        write_image(flat / name / "0.png")
    assert "its 6 folders (cat, dog, e, ...)" in read(f"folder:{flat}").left_out.notes[0]


def of_table(flat: Path) -> str:
    lines = (f"{file.relative_to(flat)},{file.parent.name}" for file in sorted(flat.rglob("*.png")))
    (flat / "table.csv").write_text("\n".join(["path,label", *lines]))
    return f"csv:{flat / 'table.csv'}"


def test_a_pool_joins_every_data_set_of_files(flat: Path, pool: Path, tmp_path: Path) -> None:
    split = write_folder(tmp_path / "split", {"train": 4, "test": 2})
    expected = stacked(sorted(pool.rglob("*.png")))
    for name in (f"classes:{flat}", f"folder:{flat}", f"folder:{split}", of_table(flat)):
        alone = read(name, val_fraction=0.0)
        for mode in ("memory", "stream"):
            with case(name, mode):
                data = read(name, unlabelled=pool, mode=mode)
                count = len(alone.train)
                assert torch.equal(pixels(data.train), torch.cat([pixels(alone.train), expected]))
                assert data.train.labels.tolist() == [*alone.train.labels.tolist(), *[-1] * 5]
                assert data.train.true_labels[count:].tolist() == [-1] * 5
                assert data.train.index.tolist() == list(range(count + 5))
                assert torch.equal(pixels(data.test), pixels(alone.test)) and data.train.classes == alone.train.classes
                assert (data.mean, data.std) == (alone.mean, alone.std)
                some = data.train.select(torch.tensor([count + 3, 0]))
                assert torch.equal(next(some.batches([torch.arange(2)]))[0], expected[3])


def test_held_out_and_hidden_labels_are_those_without_a_pool(flat: Path, pool: Path) -> None:
    options: dict[str, Any] = {"val_fraction": 0.25, "labels_per_class": 2, "label_noise": 0.5, "seed": 3}
    alone, data = read(f"classes:{flat}", **options), read(f"classes:{flat}", unlabelled=pool, mode="stream", **options)
    count = len(alone.train)
    assert torch.equal(data.train.labels[:count], alone.train.labels) and len(data.train) == count + 5
    assert torch.equal(data.train.true_labels[:count], alone.train.true_labels)
    assert torch.equal(data.val.index, alone.val.index)
    assert data.train.index[count:].tolist() == list(range(16, 21)), "behind all of the original training split"


def test_a_pool_beside_arrays_has_their_size_and_colours(pool: Path) -> None:
    alone, data = (read("digits", image_size=None, unlabelled=unlabelled) for unlabelled in (None, pool))
    grey = torch.stack([torch.from_numpy(np.asarray(Image.open(file).convert("L")).copy()) for file in
                        sorted(pool.rglob("*.png"))])[:, None]  # fmt: skip
    assert torch.equal(data.train.pixels[:-5], alone.train.pixels)
    assert (data.train.pixels[-5:].int() - grey.int()).abs().max() <= 1
    assert torch.equal(data.test.pixels, alone.test.pixels) and data.train.labels[-6:].tolist()[1:] == [-1] * 5
    assert read("digits", image_size=16, unlabelled=pool).train.images.shape == (1447, 1, 16, 16)
    write_image(pool / "f.png", (9, 8))
    told = r"f\.png: expected 8 x 8 pixels like the first image, found 9 x 8: give --image-size"
    assert_refused_like((lambda: read("digits", image_size=None, unlabelled=pool), told))


def test_no_image_of_the_data_set_is_in_its_pool(flat: Path, tmp_path: Path) -> None:
    """Whether the pool is a folder above the data, the data itself, or leads to it by links."""
    table, farm = of_table(flat), tmp_path / "farm"
    write_image(tmp_path / "farm/new.png", seed=50)
    (farm / "link.png").symlink_to(flat / "cat/0.png")
    (farm / "more").symlink_to(flat / "dog")
    os.link(flat / "cat/1.png", farm / "hard.png")
    (tmp_path / "labelled/cat").mkdir(parents=True)  # classes made of links into the pool keep their images
    (tmp_path / "labelled/dog").mkdir()
    for number in range(3):
        (tmp_path / f"labelled/cat/{number}.png").symlink_to(flat / f"cat/{number}.png")
        (tmp_path / f"labelled/dog/{number}.png").symlink_to(flat / f"dog/{number}.png")
    for name, path, added, taken in (
        (f"classes:{flat}", tmp_path, 1, 21), (f"classes:{flat}", farm, 1, 12), (table, farm, 1, 12),
        (f"classes:{tmp_path / 'labelled'}", flat, 14, 6),
    ):  # fmt: skip
        with case(name, path):
            alone, data = read(name), read(name, unlabelled=path)
            assert len(data.train) == len(alone.train) + added
            assert torch.equal(data.test.checksums(), alone.test.checksums())
            seen = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
            assert len({tuple(image) for image in seen.tolist()}) == len(seen)
            assert data.left_out.counts[TAKEN] == taken
    told = rf"flat: expected images without labels at any depth, found no image \(.*left out {TAKEN} \(20\)"
    assert_refused_like((lambda: read(f"classes:{flat}", unlabelled=flat), told))
    assert_refused_like((lambda: read("digits", unlabelled=tmp_path / "nowhere"), "nowhere: no such folder.*$"))


def test_checksums_of_a_pool_do_not_depend_on_its_place(flat: Path, pool: Path, tmp_path: Path) -> None:
    before = read(f"classes:{flat}", unlabelled=pool, mode="stream").train.checksums()
    moved = shutil.move(pool, tmp_path / "elsewhere")
    assert torch.equal(read(f"classes:{flat}", unlabelled=Path(moved), mode="stream").train.checksums(), before)
    (Path(moved) / "a.png").rename(Path(moved) / "aa.png")
    after = read(f"classes:{flat}", unlabelled=Path(moved), mode="stream").train.checksums()
    assert (after != before).nonzero().flatten().tolist() == [16]


def test_unreadable_images_of_a_pool_can_be_skipped(flat: Path, pool: Path) -> None:
    (pool / "b.png").write_bytes(b"")
    for name in (f"classes:{flat}", "digits"):
        for mode in ("memory", "stream") if name != "digits" else ("auto",):
            data = read(name, unlabelled=pool, skip_bad=True, mode=mode)
            assert (data.train.labels == -1).sum() == 4 and list(data.left_out.skipped) == [str(pool / "b.png")]
        assert_refused_like((partial(read, name, unlabelled=pool, mode="auto"), r"b\.png: not a readable image"))


def test_a_pool_counts_for_the_memory(flat: Path, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, kind in ((25 * 3 * 64, Tensor), (25 * 3 * 64 - 1, ImageFiles)):
        monkeypatch.setattr(folders, "MEMORY_LIMIT", limit)
        assert isinstance(read(f"classes:{flat}", unlabelled=pool).train.images, kind)
    monkeypatch.setattr(folders, "MEMORY_LIMIT", 1797 * 64)
    assert_refused_like((lambda: read("digits", unlabelled=pool), "1802 images of 1 x 8 x 8 need"))


def test_a_listing_names_what_it_leaves_out(pool: Path) -> None:
    (pool / "notes.txt").touch()
    left_out = LeftOut()
    assert len(folders.list_pool(pool, {}, left_out).names) == 5 and left_out.formats == {".txt": 1}


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_images_keep_the_names_of_their_files_and_splits(tmp_path: Path, mode: str) -> None:
    photos, further = write_folder(tmp_path / "photos", {"train": 4, "test": 2}), tmp_path / "pool/deep/new.png"
    write_image(further, seed=50)
    data = read(f"folder:{photos}", unlabelled=tmp_path / "pool", mode=mode, val_fraction=0.25)
    parts = {"train": data.train, "val": data.val, "test": data.test}
    whole = together([*parts.values()])
    assert [len(part) for part in parts.values()] == [7, 2, 4] and whole.split == "all"
    names, chosen = data.file_names(whole), data.file_names(whole.select(torch.tensor([11, 2])))
    assert names is not None and chosen == [names[11], names[2]]
    assert torch.equal(pixels(whole), stacked([photos / name for name in names]))  # an absolute path is itself
    own = [next(part for part in parts if whole.masks[f"{part}_mask"][number]) for number in range(len(names))]
    assert own == [part for part, images in parts.items() for _ in range(len(images))]
    for name, part, label in zip(names, own, whole.labels.tolist(), strict=True):
        folder = f"{'test' if part == 'test' else 'train'}/{data.train.classes[label]}"
        assert name == str(further) if label < 0 else os.path.dirname(name) == folder
    assert (digits := read("digits", image_size=None)).file_names(digits.test) is None
