"""Splits are disjoint, stratified and repeatable, whatever the data set; only training sees few or wrong labels."""

import re
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relgraph.data.catalogue import PUBLISHED
from relgraph.data.datasets import DataSet, add_noise, channel_statistics, hold_out, keep_labels, load
from relgraph.data.images import ImageSet
from relgraph.data.unseen import UnseenClasses
from relgraph.names import dataset
from relgraph.seeding import generator
from tests.checks import assert_refused, assert_refused_like
from tests.data.shared import seeded


def read(name: str = "digits", root: Path = Path("unused"), fraction: float = 0.2, **more: Any) -> DataSet:
    usual = {"image_size": None, "labels_per_class": None, "seed": 0}
    return load(dataset(name), root=root, val_fraction=fraction, **{**usual, **more})


def write_folder(path: Path, counts: dict[str, int]) -> str:
    """Write `counts[split]` images of 16 x 16 for each of two classes; each image has one colour, its number."""
    for split, count in counts.items():
        for name, i in product(("cat", "dog"), range(count)):
            (path / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(path / split / name / f"{i}.png")
    return f"folder:{path}"


def test_recorded_runs_keep_their_split() -> None:
    for seed, labels, first, total, labelled in (
        (0, 3, [14, 24, 25, 27, 31, 38, 39, 42], 106_828, [0, 49, 189, 233, 325, 362, 430, 472]),
        (7, 4, [22, 28, 35, 39, 65, 72, 84, 90], 108_614, [8, 23, 24, 61, 69, 117, 120, 162]),
    ):
        data = read(fraction=0.1, labels_per_class=labels, seed=seed)
        assert data.val.index.tolist()[:8] == first and int(data.val.index.sum()) == total
        assert data.train.index[data.train.labels >= 0].tolist()[:8] == labelled


def test_labels_and_noise_are_drawn_apart_from_the_split() -> None:
    """A run that holds nothing out has the labels of a data set with validation images of its own."""
    first = generator("labels", 3)
    whole = read(fraction=0.0, labels_per_class=2, label_noise=0.5, seed=3)
    expected = add_noise(keep_labels(read(fraction=0.0).train, 2, 1.0, first), 0.5, generator("label noise", 3))
    assert torch.equal(whole.train.labels, expected.labels)


def test_validation_is_a_disjoint_stratified_share_of_train_that_the_seed_draws() -> None:
    data, again, other = read(seed=1), read(seed=1), read(seed=2)
    assert torch.equal(data.val.index, again.val.index) and torch.equal(data.train.pixels, again.train.pixels)
    assert not torch.equal(data.val.index, other.val.index) and torch.equal(data.test.pixels, other.test.pixels)
    together = torch.cat([data.train.index, data.val.index])
    assert sorted(together.tolist()) == list(range(len(together)))
    held, kept = Counter(data.val.labels.tolist()), Counter(data.train.labels.tolist())
    assert all(held[label] == round(0.2 * (held[label] + kept[label])) for label in range(10))
    assert (data.train.split, data.val.split, data.test.split) == ("train", "val", "test")


def test_a_folder_is_split_or_keeps_its_own_splits(tmp_path: Path) -> None:
    data = read(write_folder(tmp_path / "two", {"train": 10, "test": 2}))
    for part in (data.train, data.val):  # their index is the position in the original split
        assert torch.equal(part.pixels[:, 0, 0, 0].long(), part.index % 10)
        assert torch.equal(part.labels, part.index // 10)
    data = read(write_folder(tmp_path / "three", {"train": 5, "val": 3, "test": 2}))
    assert (len(data.train), len(data.val), len(data.test)) == (10, 6, 4)
    assert (data.crop_padding, data.flip) == (2, True)


def test_few_and_wrong_labels_are_those_of_training_alone() -> None:
    full, few, more, noisy = (
        read(**given) for given in ({}, {"labels_per_class": 4}, {"labels_per_class": 9},
                                    {"labels_per_class": 4, "label_noise": 0.25})
    )  # fmt: skip
    known, changed = few.train.labels >= 0, noisy.train.labels != few.train.labels
    assert Counter(few.train.labels[known].tolist()) == dict.fromkeys(range(10), 4)
    assert torch.equal(few.train.labels[known], full.train.labels[known])
    assert (more.train.labels[known] >= 0).all()  # more labels contain the fewer
    assert int(changed.sum()) == 10 and (few.train.labels[changed] >= 0).all()
    for other in (few, noisy):
        assert torch.equal(other.train.pixels, full.train.pixels)
        assert torch.equal(other.train.true_labels, full.train.labels)
        assert torch.equal(full.val.labels, other.val.labels) and torch.equal(full.test.labels, other.test.labels)


def test_mean_and_std_are_those_of_the_training_images_without_a_zero() -> None:
    data = read()
    pixels = data.train.pixels.double().numpy() / 255
    np.testing.assert_allclose([*data.mean, *data.std], [pixels.mean(), pixels.std()], rtol=1e-12)
    mean, std = channel_statistics(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2, 0.2, 0.2)) and std == (1 / 255,) * 3


def test_image_size_resizes_a_built_in_data_set_and_its_padding() -> None:
    data = read(image_size=16)
    assert data.train.pixels.shape[1:] == data.test.pixels.shape[1:] == (1, 16, 16)
    assert data.train.pixels.dtype == torch.uint8 and (data.crop_padding, data.name) == (2, "digits")


@pytest.fixture
def unlabelled(tmp_path: Path) -> str:
    """Seven images of 16 x 16 in folders that are no classes."""
    for i in range(7):
        (tmp_path / f"roll {i % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (i, 2 * i, 30 * i)).save(tmp_path / f"roll {i % 2}/{i}.png")
    return f"folder:{tmp_path}"


def test_misuse_is_named(unlabelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "cifar1000"}, "unknown data set 'cifar1000': did you mean 'cifar100'"),
        ({"name": "folder:nowhere"}, "nowhere: no such folder"),
        ({"fraction": -0.1}, "at least 0 and below 1, got -0.1"),
        ({"fraction": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"image_size": 5000}, "choose a smaller --image-size"),
        ({"label_fraction": 0.0}, "share of labels must be above 0 and at most 1, got 0.0"),
        ({"label_fraction": 1.5}, "share of labels must be above 0 and at most 1, got 1.5"),
        ({"label_fraction": float("nan")}, "share of labels must be above 0 and at most 1, got nan"),
        ({"label_fraction": 0.5, "labels_per_class": 4}, "labels_per_class and label_fraction .* other: .* 4 and 0.5"),
        ({"label_noise": -0.1}, "share of wrong labels must be at least 0 and at most 1, got -0.1"),
        ({"label_noise": 1.1}, "share of wrong labels must be at least 0 and at most 1, got 1.1"),
        ({"mode": "stream"}, "digits is published as one array: expected to hold it in memory, got mode stream"),
    ]

    told = " has no labels to hide or to change: expected none of labels_per_class, label_fraction, label_noise, got "
    for given, found in (
        ({"labels_per_class": 4}, "labels_per_class 4"),
        ({"label_fraction": 0.5}, "label_fraction 0.5"),
        ({"label_noise": 0.1, "label_fraction": 0.5}, "label_fraction 0.5 and label_noise 0.1"),
    ):
        cases.append(({"name": unlabelled, **given}, f"{told}{found}$"))

    def refuse(*args: Any, **options: Any) -> None:
        raise URLError(ConnectionRefusedError(111, "Connection refused"))

    monkeypatch.setattr("relgraph.data.downloads.urlopen", refuse)
    root = tmp_path / "data"
    for name, source in PUBLISHED.items():
        told = f"(Connection refused): fetch {source.archive.url} and put it in {root}"
        cases.append(({"name": name, "root": root}, "could not be downloaded " + re.escape(told)))
    assert_refused_like(*((partial(read, **given), message) for given, message in cases))


def test_streamed_images_have_the_same_splits(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"train": 10, "test": 2})
    held, streamed = (read(folder, labels_per_class=3, label_noise=0.5, mode=mode) for mode in ("memory", "stream"))
    assert isinstance(held.train.images, torch.Tensor) and not isinstance(streamed.train.images, torch.Tensor)
    assert torch.equal(held.train.labels, streamed.train.labels) and torch.equal(held.val.index, streamed.val.index)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)  # so few are all in the sample


def test_images_without_labels_are_all_for_training(unlabelled: str) -> None:
    for fraction, mode in ((0.0, "memory"), (0.3, "memory"), (0.3, "stream")):
        data = read(unlabelled, fraction=fraction, mode=mode)
        assert data.train.labels.tolist() == data.train.true_labels.tolist() == [-1] * 7
        assert data.train.index.tolist() == list(range(7))
        assert data.train.classes == data.val.classes == data.test.classes == ()
        assert (data.train.split, data.val.split, data.test.split) == ("train", "val", "test")
        assert data.val.images.shape == data.test.images.shape == (0, 3, 16, 16)
        assert len(data.val.labels) == len(data.test.index) == len(data.test.checksums()) == 0
        assert data.mean == pytest.approx((3 / 255, 6 / 255, 90 / 255)) and data.std[2] == pytest.approx(60 / 255)
        assert (data.crop_padding, data.flip) == (2, True)


SIZES = (40, 25, 3)


def images(labels: Tensor | None = None) -> ImageSet:
    """Return 40, 25 and 3 images of three classes, mixed."""
    if labels is None:
        labels = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
        labels = labels[torch.randperm(len(labels), generator=seeded(9))]
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(pixels, labels, ("ape", "bee", "cat"), "train", torch.arange(len(labels)))


def counts(labels: Tensor) -> list[int]:
    found = Counter(labels.tolist())
    return [found[label] for label in range(3)]


def test_a_share_of_every_class_is_held_out() -> None:
    train, val = hold_out(images(), 0.2, seeded())
    assert counts(val.labels) == [8, 5, 1] and counts(train.labels) == [32, 20, 2]
    assert sorted([*train.index.tolist(), *val.index.tolist()]) == list(range(68))
    assert (train.split, val.split) == ("train", "val")


def test_images_without_a_label_are_left_alone() -> None:
    whole = images(torch.arange(60) % 3)
    unlabelled = images(torch.where(whole.index % 4 == 0, whole.labels, -1))
    train, val = hold_out(unlabelled, 0.2, seeded())
    assert (val.labels >= 0).all()
    assert (train.labels == -1).sum() == (unlabelled.labels == -1).sum()
    for few in (
        keep_labels(unlabelled, 1, 1.0, seeded()),
        keep_labels(unlabelled, None, 0.5, seeded()),
        add_noise(unlabelled, 1.0, seeded()),
    ):
        assert (few.labels[unlabelled.labels == -1] == -1).all()
        assert torch.equal(few.pixels, unlabelled.pixels)


def test_what_leaves_a_class_without_images_is_refused() -> None:
    cat = "class 'cat' has 3 training images, "
    assert_refused_like(
        (partial(hold_out, images(), 0.9, seeded()), f"{cat}and 3 for validation leave none"),
        (partial(keep_labels, images(), 4, 1.0, seeded()), f"{cat}fewer than the 4 labels per class"),
    )


def test_a_class_of_one_image_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    for number, name in enumerate(("dog", "dog", "cat")):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    own = "give the data a {} split of its own (a folder {}/, or a column split), hold out "
    test = own.format("test", "test") + "whole classes (--holdout-classes), or remove the class"
    val = own.format("validation", "val") + "none (--val-fraction 0 --select last), or remove the class"
    single = "class 'cat' has 1 training image, and 1 for {} leave none to train on: "
    whole = partial(read, f"classes:{tmp_path}", unseen=UnseenClasses((), ("dog",)))  # a way out
    assert len(whole().train) == 1 and len(whole().test) == 2
    assert_refused(
        (partial(read, f"classes:{tmp_path}"), single.format("testing") + test),
        (partial(hold_out, whole().train, 0.5, seeded()), single.format("validation") + val),
    )


def test_a_fraction_of_every_class_keeps_its_label() -> None:
    for fraction, kept in ((0.1, [4, 2, 1]), (0.5, [20, 12, 2]), (0.01, [1, 1, 1])):
        whole, few = images(), keep_labels(images(), None, fraction, seeded())
        assert kept == [max(1, round(fraction * size)) for size in SIZES] == counts(few.labels)
        known = few.labels >= 0
        assert torch.equal(few.labels[known], whole.labels[known])
        assert torch.equal(few.true_labels, whole.labels)


def test_the_same_number_of_labels_by_count_or_by_fraction_are_the_same() -> None:
    even = images(torch.arange(60) % 3)
    by_count, by_fraction = (keep_labels(even, count, 0.2, seeded()) for count in (4, None))
    assert torch.equal(by_count.labels, by_fraction.labels)


def test_noise_is_never_the_true_class() -> None:
    for share, wrong in ((0.0, 0), (0.25, 17), (1.0, 68)):
        whole, noisy = images(), add_noise(images(), share, seeded())
        assert int((noisy.labels != whole.labels).sum()) == wrong == round(share * 68)
        assert noisy.labels.min() >= 0 and noisy.labels.max() <= 2
        assert torch.equal(noisy.true_labels, whole.labels)


def test_noise_needs_another_class() -> None:
    alone = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), ("cat",), "train",
                     torch.arange(4))  # fmt: skip
    told = "^label_noise gives images another class: expected two training classes or more, got 1$"
    assert_refused_like((partial(add_noise, alone, 0.5, seeded()), told))


def test_noise_draws_every_other_class_alike() -> None:
    noisy = add_noise(images(torch.zeros(30_000, dtype=torch.int64) + 1), 1.0, seeded()).labels
    assert counts(noisy)[1] == 0
    # Half of them, within five standard deviations of a fair coin.
    assert abs(counts(noisy)[0] - 15_000) < 5 * (30_000 / 4) ** 0.5
