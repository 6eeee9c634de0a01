"""Folders and tables of images with labels of pixels: tiny trees of every layout, read in memory and streamed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relgraph.data.datasets import DataSet, load
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.label_maps import IGNORED, LabelMaps
from relgraph.names import dataset
from tests.checks import assert_refused_like
from tests.pictures import write_image

SIZES = (12, 8), (16, 10), (9, 11)  # width first


def read(name: str, **options: Any) -> DataSet:
    usual: dict[str, Any] = {"image_size": None, "val_fraction": 0.0, "labels_per_class": None, "seed": 0}
    return load(dataset(name), root=Path("unused"), **{**usual, **options})


def write_label(file: Path, size: tuple[int, int] = SIZES[0], seed: int = 0, most: int = 3) -> np.ndarray:
    """Write a label of so many pixels with numbers up to `most`, all of which it has, and return these."""
    numbers = np.random.default_rng(seed).integers(0, most + 1, size[::-1], dtype=np.uint8)
    numbers.flat[: most + 1] = np.arange(most + 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(file)
    return numbers


def write_pairs(places: dict[str, tuple[Path, Path]], count: int, sizes: tuple[tuple[int, int], ...] = SIZES[:1],
                **label: int) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """Write so many images with labels into the folders of each split, and return the numbers of these."""
    found: dict[str, list[np.ndarray]] = {}
    for images, labels in places.values():
        for i in range(count):
            size, seed = sizes[i % len(sizes)], 100 * len(found) + i
            write_image(images / f"{i}.jpg" if i % 2 else images / f"more/{i}.png", size, seed)
            found.setdefault(str(images), []).append(
                write_label(labels / (f"{i}.png" if i % 2 else f"more/{i}.png"), size, seed, **label)
            )
    return found


def layout(root: Path, kind: str, *splits: str) -> dict[str, tuple[Path, Path]]:
    if kind == "segnet":
        return {split: (root / split, root / f"{split}annot") for split in splits}
    return {split: (root / "images" / split, root / "labels" / split) for split in splits}


def everything(images: ImageSet) -> tuple[list[list[int]], list[list[int]]]:
    """The rows and the own maps of a split."""
    assert images.maps is not None
    rows = images.maps.rows(torch.arange(len(images))).flatten(1).tolist()
    return rows, [images.maps.own(number).flatten().tolist() for number in range(len(images))]


@pytest.mark.parametrize("kind", ["labels", "segnet"])
def test_folders_of_both_layouts_are_read(tmp_path: Path, kind: str) -> None:
    places = layout(tmp_path, kind, "train", "val", "test")
    written = write_pairs(places, 3)
    (tmp_path / "classes.txt").write_text("sky\nroad\n\ncar\ntree\n", encoding="utf-8")
    data, streamed = (read(f"folder:{tmp_path}", mode=mode) for mode in ("memory", "stream"))
    assert data.of_pixels and data.train.classes == ("sky", "road", "car", "tree") and data.left_out.notes == []
    assert isinstance(streamed.train.images, ImageFiles) and data.train.maps is not None
    for split, (images, _) in places.items():
        found: ImageSet = getattr(data, split)
        assert found.labels.tolist() == [0, 0, 0] and found.split == split
        # In alphabetical order: 1.jpg, more/0.png, more/2.png.
        expected = [written[str(images)][i].flatten().tolist() for i in (1, 0, 2)]
        assert everything(found) == everything(getattr(streamed, split)) == (expected, expected)


def test_sizes_may_differ_and_a_label_keeps_its_own(tmp_path: Path) -> None:
    """A label that is the image's own grey value stays so: resized alike, but nearest, and cut to what is seen."""
    for i, (width, height) in enumerate(SIZES):
        column = np.broadcast_to(np.arange(width, dtype=np.uint8) // 2, (height, width))
        for file, numbers in ((f"images/{i}.png", column * 20), (f"labels/{i}.png", column)):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            Image.fromarray(numbers).save(tmp_path / file)
    assert_refused_like(
        (partial(read, f"folder:{tmp_path}"), "expected 12 x 8 pixels like the first image, found 16 x 10")
    )
    data = read(f"folder:{tmp_path}", image_size=(30, 60), test_fraction=0.3)
    assert len(data.train) == 2 and len(data.test) == 1 and data.train.images.shape == (2, 3, 30, 60)
    for images in (data.train, data.test):
        assert images.maps is not None and images.files is not None
        for number in range(len(images)):
            width, height = SIZES[int(Path(images.files.path(number)).stem)]
            row, own = images.maps.rows(torch.tensor([number]))[0], images.maps.own(number)
            away = (images.pixels[number, 0].float() / 20 - row).abs()
            assert away.mean() < 0.3 and row.max() == width // 2 - (width % 2 == 0)
            scale = max(30 / height, 60 / width)
            assert own.shape == (min(height, round(30 / scale)), min(width, round(60 / scale)))
            assert own[0].tolist() == [i // 2 for i in range(width)]  # they are cut in height alone


def test_labels_with_a_palette_are_numbers_and_ignored_ones_are_255(tmp_path: Path) -> None:
    (images, labels), = layout(tmp_path, "labels", "train").values()  # fmt: skip
    numbers = np.array([[0, 1, 2], [3, 11, 255]], dtype=np.uint8)
    for i in range(2):
        write_image(images / f"{i}.png", (3, 2), i)
        labels.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(numbers)
        picture.putpalette([*range(256)] * 3)
        picture.save(labels / f"{i}.png")
    data = read(f"folder:{tmp_path}", ignore=(3, 11), test_fraction=0.5)
    assert data.train.classes == ("0", "1", "2")
    assert everything(data.test) == ([[0, 1, 2, 255, 255, 255]],) * 2
    void = read(f"folder:{tmp_path}", ignore=(0, 11), test_fraction=0.5)  # no class is left that nothing teaches
    assert void.train.classes == ("1", "2", "3") and everything(void.test) == ([[255, 0, 1, 2, 255, 255]],) * 2
    (tmp_path / "classes.txt").write_text("\n".join("abcdef"))
    assert read(f"folder:{tmp_path}", ignore=(0, 11), test_fraction=0.5).train.classes == tuple("bcdef")
    assert read(f"folder:{tmp_path}", ignore=(11,)).left_out.notes == ["no training image has the 2 classes: e, f"]
    told = r"0\.png: expected numbers of 6 classes, 0 to 5, or 255, found 11: give --ignore 11 if it stands for"
    beyond = "numbers that are ignored in labels must be from 0 to 255, got 256$"
    others = r"0\.png: expected numbers of 5 classes, 1 to 5, or 255, found 11: give --ignore 11 if it stands for"
    assert_refused_like(
        (partial(read, f"folder:{tmp_path}"), told),
        (partial(read, f"folder:{tmp_path}", ignore=(0,)), others),
        (partial(read, f"folder:{tmp_path}", ignore=(256,)), beyond),
    )


def without(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()


def test_every_fault_is_one_line(tmp_path: Path) -> None:
    faults: tuple[tuple[Callable[[Path], object], str], ...] = (
        (lambda root: (root / "labels/train/1.png").unlink(),
         "labels/train/1.png: expected the label of .*s/train/1.jpg, a PNG of its name, found none: put .*--unl"),
        (lambda root: (root / "labels/train/1.png").rename(root / "labels/train/1_mask.png"),
         "train/1.png: expected the label of .*s/train/1.jpg, a PNG of its name, found .*train/1_mask.png: save"),
        (lambda root: write_image(root / "images/train/1.png", (12, 8)),
         "labels/train/1.png: expected the label of one image, found 1.jpg and 1.png in .*images/train$"),
        (lambda root: write_label(root / "labels/test/1.png", (8, 12)),
         "labels/test/1.png: expected 12 x 8 pixels like .*images/test/1.jpg, found 8 x 12$"),
        (lambda root: write_image(root / "labels/train/1.png", (12, 8)),
         r"labels/train/1.png: expected a number of 8 bits .*, found PIL's mode RGB: save .*\(mode L\)"),
        (lambda root: (root / "labels/train/1.png").write_bytes(b"no image"), "train/1.png: not a readable image"),
        (lambda root: (root / "classes.txt").write_text("a\nb\na\n"), "classes.txt: .* one a line, found 'a' twice$"),
        (lambda root: (root / "classes.txt").write_text("a\n"), "of 2 to 255 classes, one a line, found 1 lines$"),
        (lambda root: without(root / "labels/train"), "labels/train: expected a folder with the labels of .*s/train"),
        (lambda root: without(root / "images/train"), "images/train: expected a folder of training .* found none$"),
        (lambda root: without(root / "images/test/more") or (root / "images/test/1.jpg").unlink(),  # type: ignore[func-returns-value]
         "images/test: expected images, found none"),
        (lambda root: without(root / "labels") or (root / "classes.txt").write_text("a\nb\n"),  # type: ignore[func-returns-value]
         "labels/train: expected a folder with the labels of .*images/train, found none$"),
    )  # fmt: skip
    for number, (spoil, told) in enumerate(faults):
        root = tmp_path / str(number)
        write_pairs(layout(root, "labels", "train", "test"), 2)
        spoil(root)
        assert_refused_like((partial(read, f"folder:{root}"), told))
    write_pairs(layout(tmp_path / "one", "labels", "train", "test"), 2, most=1)
    (tmp_path / "one/classes.txt").write_text("back\nfront\n")
    one, none = (partial(read, f"folder:{tmp_path / 'one'}", ignore=numbers) for numbers in ((1,), (0, 1)))
    told = "expected labels of at least 2 classes for training, found {} beside 255 and .* of 0 and 255 as 0 and 1$"
    assert_refused_like((one, told.format(1)), (none, told.format(0)))
    for file in (tmp_path / "one/labels/test").rglob("*.png"):
        Image.fromarray(np.full(SIZES[0][::-1], IGNORED, dtype=np.uint8)).save(file)
    assert read(f"folder:{tmp_path / 'one'}").left_out.notes == ["no pixel of a test image has a class"]
    write_image(tmp_path / "alone/0.png")
    ignored = partial(read, f"folder:{tmp_path / 'alone'}", ignore=(1,))
    assert_refused_like((ignored, "has no files with labels of pixels: expected no numbers to ignore in them$"))


def test_a_split_without_labels_is_left_out_and_further_images_join(tmp_path: Path) -> None:
    write_pairs(layout(tmp_path / "data", "labels", "train", "val"), 2)
    write_image(tmp_path / "data/images/test/0.png", SIZES[0])
    write_image(tmp_path / "more/0.png", SIZES[0], 77)
    for mode in ("memory", "stream"):
        data = read(f"folder:{tmp_path / 'data'}", unlabelled=tmp_path / "more", mode=mode, labelled_images=1)
        assert [len(data.train), len(data.val), len(data.test)] == [3, 0, 2] and data.test.split == "test"
        assert data.left_out.notes[0].endswith("images/test, which has no " + str(tmp_path / "data/labels/test"))
        assert sorted(data.train.labels.tolist()) == [-1, -1, 0] and data.train.labels[2] == -1
        rows, own = everything(data.train)
        assert rows[2] == own[2] == [IGNORED] * 96 and rows[0] != rows[1]
        hidden = int((data.train.labels[:2] < 0).nonzero())
        assert set(rows[hidden]) == {IGNORED} and IGNORED not in own[hidden]


def test_a_label_is_a_png_of_any_suffix_and_without_an_image_left_out(tmp_path: Path) -> None:
    written = write_pairs(layout(tmp_path, "labels", "train", "test"), 2)
    (tmp_path / "labels/train/1.png").rename(tmp_path / "labels/train/1.PNG")
    expected = [numbers.flatten().tolist() for numbers in written[str(tmp_path / "images/train")]]
    assert sorted(everything(read(f"folder:{tmp_path}").train)[0]) == sorted(expected)
    write_label(tmp_path / "labels/train/2.png")
    one = f"left out a label without an image: {tmp_path / 'labels/train/2.png'}"
    assert read(f"folder:{tmp_path}").left_out.notes == [one]
    write_label(tmp_path / "labels/train/3.png")
    told = f"left out 2 labels without an image in {tmp_path / 'images/train'}: {tmp_path / 'labels/train/2.png'}, ..."
    assert read(f"folder:{tmp_path}").left_out.notes == [told]


def test_a_number_far_above_the_others_is_told(tmp_path: Path) -> None:
    write_pairs(layout(tmp_path, "labels", "train", "test"), 2, most=1)
    file = tmp_path / "labels/train/1.png"
    numbers = np.array(Image.open(file))
    numbers[0, 0] = 254
    Image.fromarray(numbers).save(file)
    many = "no training image has the 252 classes: 2, 3, 4, 5, 6, ...: give --ignore 254 if that stands for no class"
    assert read(f"folder:{tmp_path}").left_out.notes == [many]
    assert read(f"folder:{tmp_path}", ignore=(254,)).train.classes == ("0", "1")


def test_images_that_cannot_be_read_are_left_out_with_their_labels(tmp_path: Path) -> None:
    written = write_pairs(layout(tmp_path, "labels", "train", "test"), 3)
    (tmp_path / "images/train/1.jpg").write_bytes(b"no image")
    data = read(f"folder:{tmp_path}", skip_bad=True)
    expected = [written[str(tmp_path / "images/train")][i].flatten().tolist() for i in (0, 2)]
    assert everything(data.train) == (expected, expected) and len(data.left_out.skipped) == 1


def test_a_table_has_a_column_of_masks(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / f"x/{i}.png", SIZES[0], i)
    labels = [write_label(tmp_path / f"y/label {i}.png", SIZES[0], i).flatten().tolist() for i in range(3)]
    (tmp_path / "table.csv").write_text(
        "mask,split,path\ny/label 0.png,train,x/0.png\n,train,x/1.png\n" + f"{tmp_path}/y/label 2.png,val,x/2.png\n"
    )
    data = read(f"csv:{tmp_path / 'table.csv'}")
    assert data.train.classes == ("0", "1", "2", "3") and data.train.labels.tolist() == [0, -1]
    assert everything(data.train) == ([labels[0], [IGNORED] * 96],) * 2 and everything(data.test) == ([labels[2]],) * 2
    bad = {
        "y/no.png,train,x/3.png": "line 2: expected the label of x/3.png, found no file .*y/no.png$",
        ",test,x/3.png\ny/label 0.png,train,x/0.png": "line 2: a test image: expected a label, found none$",
    }
    for number, (rows, told) in enumerate(bad.items()):
        file = tmp_path / f"{number}.csv"
        file.write_text(f"mask,split,path\n{rows}\n")
        assert_refused_like((partial(read, f"csv:{file}"), told))


def test_a_folder_with_labels_of_boxes_is_one_of_images_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "images/0.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/0.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert not read(f"folder:{tmp_path}").of_pixels


def test_validation_images_are_drawn_by_number_and_seed(tmp_path: Path) -> None:
    write_pairs(layout(tmp_path, "labels", "train"), 10)
    data, other = (read(f"folder:{tmp_path}", val_fraction=0.25, seed=seed) for seed in (0, 1))
    assert [len(each) for each in (data.train, data.val, data.test)] == [6, 2, 2]
    same: Tensor = data.test.pixels == other.test.pixels
    assert bool(same.all()) and data.val.index.tolist() != other.val.index.tolist()
    assert everything(data.val)[0] == everything(data.val)[1]


def test_a_class_of_few_pixels_counts_though_a_smaller_size_loses_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_image(tmp_path / "images" / split / "0.png", (40, 40), 0)
        numbers = np.zeros((40, 40), dtype=np.uint8)
        numbers[:20], numbers[1, 1] = 1, 2
        (tmp_path / "labels" / split).mkdir(parents=True)
        Image.fromarray(numbers).save(tmp_path / "labels" / split / "0.png")
    data = read(f"folder:{tmp_path}", image_size=4)
    assert data.train.classes == ("0", "1", "2") and data.train.maps is not None
    assert set(data.train.maps.rows(torch.arange(1)).flatten().tolist()) == {0, 1}
    none = LabelMaps.of(torch.zeros(0, 2, 3, dtype=torch.uint8), labels=torch.tensor([-1, -1]))
    assert none.to("meta").rows(torch.tensor([1])).shape == (1, 2, 3)
    assert set(none.rows(torch.tensor([1])).flatten().tolist()) == {IGNORED}
