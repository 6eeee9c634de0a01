"""Classes that are held out of training: which they are, what each split holds, and what they do not move."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from relgraph.data.datasets import DataSet, joined, load
from relgraph.data.file_sources import ClassFolders, Folder
from relgraph.data.sources import Digits, Source
from relgraph.data.unseen import UnseenClasses
from relgraph.names import unseen_classes
from tests.checks import assert_refused, assert_refused_like, case
from tests.pictures import write_folder, write_image


def read(source: Source | None = None, unseen: str = "0.2,0.3", **options: Any) -> DataSet:
    given = {"root": Path("data"), "image_size": None, "val_fraction": 0.1, "labels_per_class": None, "seed": 0}
    return load(source or Digits(), **{**given, **options}, unseen=unseen_classes(unseen))


def test_each_split_has_all_training_images_of_its_classes_and_no_others() -> None:
    data = read()
    splits = data.train, data.val, data.test
    assert [len(images.classes) for images in splits] == [5, 2, 3] and data.unseen
    assert sorted(name for images in splits for name in images.classes) == list("0123456789")
    assert data.held_out == {"val": list(data.val.classes), "test": list(data.test.classes)}
    target = torch.from_numpy(load_digits().target)
    pixels = torch.from_numpy(load_digits().images * (255 / 16)).round().to(torch.uint8)[:, None]
    kept = torch.ones(len(target), dtype=torch.bool)
    for label in range(10):
        kept[(target == label).nonzero().flatten()[4::5]] = False  # the original test split
    target, pixels = target[kept], pixels[kept]
    for name, images in zip(("train", "val", "test"), splits, strict=True):
        truth = torch.tensor([int(images.classes[label]) for label in images.labels])
        expected = torch.isin(target, torch.tensor(list(map(int, images.classes)))).nonzero().flatten()
        assert images.split == name and torch.equal(images.index, expected)
        assert torch.equal(truth, target[expected]) and torch.equal(images.pixels, pixels[expected])
    whole = joined(data)
    assert torch.equal(whole.pixels, pixels) and torch.equal(whole.index, torch.arange(len(target)))


def test_the_split_seed_alone_moves_the_classes_and_the_validation_share_not_those_for_testing() -> None:
    names = [(data.val.classes, data.test.classes) for data in
             (read(), read(seed=5), read(val_fraction=0.0, labels_per_class=2), read(unseen="0.4,0.3"))]  # fmt: skip
    assert names[0] == names[1] == names[2] and names[0][1] == names[3][1]
    assert len({read(split_seed=seed).test.classes for seed in range(6)}) > 3
    none = read(unseen="0,0.1")
    assert len(none.val) == 0 and none.val.classes == () and len(none.test.classes) == 1
    assert len(read(unseen="0.01,0.01").val.classes) == 1, "at least one class where the share is above 0"


def test_classes_by_name() -> None:
    for text in ("val=4,7+test=0,2", "test=2,0+val=7, 4"):
        data = read(unseen=text)
        assert data.held_out == {"val": ["4", "7"], "test": ["0", "2"]}
        assert data.train.classes == tuple("135689")
    assert unseen_classes("test=a+b,c=d") == UnseenClasses((), ("a+b", "c=d"))
    assert len(read(unseen="test=3").val) == 0


def test_labels_that_are_hidden_and_images_that_have_none(tmp_path: Path) -> None:
    data = read(labels_per_class=3)
    assert data.train.labels[data.train.labels >= 0].bincount().tolist() == [3] * 5
    assert bool((data.val.labels >= 0).all() and (data.test.labels >= 0).all())
    write_folder(tmp_path / "data", {"train": 4, "val": 1, "test": 1}, ("ant", "bee", "cat"))
    for number in range(3):
        write_image(tmp_path / f"pool/{number}.png", seed=100 + number)
    for mode in ("memory", "stream"):
        with case(mode):
            folder = Folder(str(tmp_path / "data"))
            data = read(folder, "val=bee+test=ant", mode=mode, unlabelled=tmp_path / "pool")
            assert data.train.labels.tolist() == [0] * 4 + [-1] * 3
            assert [images.index.tolist() for images in (data.test, data.val, data.train)] == [
                [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14],
            ]  # fmt: skip
            alone = read(folder, "val=bee+test=ant", mode=mode)
            assert joined(alone).index.tolist() == [*range(12)]
            assert torch.equal(joined(alone).checksums()[alone.val.index], alone.val.checksums())


def test_a_data_set_without_a_test_split_has_none_drawn(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cat"):
        for number in range(5):
            write_image(tmp_path / f"{name}/{number}.png", seed=number)
    data = read(ClassFolders(str(tmp_path)), "0,0.3", split_seed=3)
    assert len(data.train) + len(data.test) == 15 and len(data.test) == 5


@pytest.mark.parametrize("text", ["0.2", "0.2,0.3,0.1", "a,b", "", "0.1,x"])
def test_other_spellings_are_refused(text: str) -> None:
    told = "classes are held out as VAL,TEST, shares such as 0.16,0.2, or as val=NAME,...+test=NAME,..., got "
    assert_refused((lambda: unseen_classes(text), told + repr(text)))


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    write_image(tmp_path / "photos/0.png", seed=0)
    shares = (
        "the shares of held-out classes must be at least 0 for validation, above 0 for testing and below 1 together"
    )
    once = "held-out classes are named once each, some of them for testing, got "
    named = "held-out classes are named once each as val=NAME,...+test=NAME,..., got "
    assert_refused(
        (lambda: unseen_classes("0.5,0.5"), f"{shares}, got 0.5 and 0.5"),
        (lambda: unseen_classes("0.5,0"), f"{shares}, got 0.5 and 0"),
        (lambda: unseen_classes("-0.1,0.5"), f"{shares}, got -0.1 and 0.5"),
        (lambda: unseen_classes("nan,0.5"), f"{shares}, got nan and 0.5"),
        (lambda: unseen_classes("val=a+test=a"), f"{once}'a' twice"),
        (lambda: unseen_classes("val=a"), f"{once}no test class"),
        (lambda: unseen_classes("train=a+test=b"), f"{named}'train=a+test=b'"),
        (lambda: unseen_classes("test=a+test=b"), f"{named}'test=a+test=b'"),
        (lambda: read(unseen="0.5,0.49"), "digits has 10 classes: 5 for validation and 5 for testing leave none …"),
        (lambda: read(Folder(str(tmp_path / "photos"))), f"folder:{tmp_path}/photos has no labels, by which classes …"),
    )
    assert_refused_like((lambda: read(unseen="test=11"), r"^unknown class that is held out '11': "))
