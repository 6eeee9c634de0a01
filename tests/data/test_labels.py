"""Few and wrong labels: counted per class, nested, repeatable, and nothing else changed."""

from collections import Counter
from functools import partial

import torch
from torch import Tensor

from relgraph.data.images import ImageSet
from relgraph.data.labels import add_noise, hold_out, keep_count, keep_fraction
from tests.checks import assert_refused_like
from tests.data.shared import seeded

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
        keep_count(unlabelled, 1, seeded()),
        keep_fraction(unlabelled, 0.5, seeded()),
        add_noise(unlabelled, 1.0, seeded()),
    ):
        assert (few.labels[unlabelled.labels == -1] == -1).all()
        assert torch.equal(few.pixels, unlabelled.pixels)


def test_what_leaves_a_class_without_images_is_refused() -> None:
    cat = "class 'cat' has 3 training images, "
    assert_refused_like(
        (partial(hold_out, images(), 0.9, seeded()), f"{cat}and 3 for validation leave none"),
        (partial(keep_count, images(), 4, seeded()), f"{cat}fewer than the 4 labels per class"),
    )


def test_a_fraction_of_every_class_keeps_its_label() -> None:
    for fraction, kept in ((0.1, [4, 2, 1]), (0.5, [20, 12, 2]), (0.01, [1, 1, 1])):
        whole, few = images(), keep_fraction(images(), fraction, seeded())
        assert kept == [max(1, round(fraction * size)) for size in SIZES] == counts(few.labels)
        known = few.labels >= 0
        assert torch.equal(few.labels[known], whole.labels[known])
        assert torch.equal(few.true_labels, whole.labels)


def test_the_same_number_of_labels_by_count_or_by_fraction_are_the_same() -> None:
    even = images(torch.arange(60) % 3)
    by_count, by_fraction = keep_count(even, 4, seeded()), keep_fraction(even, 0.2, seeded())
    assert torch.equal(by_count.labels, by_fraction.labels)


def test_noise_is_never_the_true_class() -> None:
    for share, wrong in ((0.0, 0), (0.25, 17), (1.0, 68)):
        whole, noisy = images(), add_noise(images(), share, seeded())
        assert int((noisy.labels != whole.labels).sum()) == wrong == round(share * 68)
        assert noisy.labels.min() >= 0 and noisy.labels.max() <= 2
        assert torch.equal(noisy.true_labels, whole.labels)


def test_noise_draws_every_other_class_alike() -> None:
    noisy = add_noise(images(torch.zeros(30_000, dtype=torch.int64) + 1), 1.0, seeded()).labels
    assert counts(noisy)[1] == 0
    # Half of them, within five standard deviations of a fair coin.
    assert abs(counts(noisy)[0] - 15_000) < 5 * (30_000 / 4) ** 0.5
