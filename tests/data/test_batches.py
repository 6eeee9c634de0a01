"""Batches are counted: every image as often as promised, no batch of another size."""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relgraph.data.batches import Batches, epoch_batches
from relgraph.processes import ProcessGroup
from tests.checks import assert_refused_like, case

# As they were recorded: runs can be repeated, and resumed by later versions.
PLAIN = [[2, 5, 1, 10], [6, 9, 11, 8], [7, 0, 3, 4]]
MIXED = [[2, 5, 8, 0], [4, 1, 7, 2], [1, 0, 6, 3]]


def draw(labels: Tensor, batch_size: int = 8, share: float = 0.25, **more: Any) -> Batches:
    return epoch_batches(labels, batch_size=batch_size, labelled_share=share, **{"seed": 0, "epoch": 0, **more})


def batches(labels: Tensor, batch_size: int = 8, share: float = 0.25, **more: Any) -> list[list[int]]:
    return [batch.tolist() for batch in draw(labels, batch_size, share, **more)]


def some_labels(labelled: int, unlabelled: int) -> Tensor:
    return torch.tensor([0, 1] * labelled + [-1] * unlabelled)[labelled:]


def test_without_unknown_labels_or_labels_at_all_images_are_shuffled_and_cut() -> None:
    drawn = batches(torch.arange(35) % 5)
    flat = [image for batch in drawn for image in batch]
    assert [len(batch) for batch in drawn] == [8, 8, 8, 8] and len(set(flat)) == 32 and flat != sorted(flat)
    for labels in (-torch.ones(35, dtype=torch.int64), some_labels(10, 25), torch.arange(35)):
        for share in (0.25, 1.0):
            assert batches(labels, share=share, by_label=False) == drawn
    assert [sorted(batch) for batch in batches(torch.zeros(5))] == [[0, 1, 2, 3, 4]], "few images are one batch"


def test_seed_and_epoch_alone_decide() -> None:
    for labels in (torch.zeros(64), some_labels(10, 90)):
        torch.manual_seed(1)
        first = batches(labels, seed=3, epoch=4)
        torch.manual_seed(2)
        assert first == batches(labels, seed=3, epoch=4)
        others = [batches(labels, seed=seed, epoch=epoch) for seed, epoch in ((4, 3), (3, 5), (4, 4), (2, 5))]
        assert all(first != other for other in others)
    assert batches(torch.zeros(12), 4, seed=1, epoch=2) == PLAIN
    assert batches(some_labels(3, 6), 4, 0.5, seed=1, epoch=2) == MIXED


def test_an_epoch_goes_once_through_the_unlabelled_and_evenly_through_the_labelled() -> None:
    for labelled, unlabelled, share, quota in (
        (10, 90, 0.25, 2),
        (3, 100, 0.3, 2),
        (50, 21, 0.9, 7),
        (2, 40, 0.5, 2),  # no image stands twice in a batch
        (10, 70, 0.01, 1),
    ):
        with case(labelled, unlabelled, share):
            drawn = batches(some_labels(labelled, unlabelled), share=share)
            assert all(len(set(batch)) == 8 for batch in drawn)
            assert all(sum(image < labelled for image in batch) == quota for batch in drawn)
            seen = Counter(image for batch in drawn for image in batch)
            assert len(drawn) == unlabelled // (8 - quota)
            others = [seen[image] for image in range(labelled, labelled + unlabelled)]
            assert sum(others) == others.count(1) == len(drawn) * (8 - quota)
            rounds = [seen[image] for image in range(labelled)]
            assert max(rounds) - min(rounds) <= 1


def test_a_batch_mixes_labelled_and_unlabelled() -> None:
    labels = some_labels(50, 500)[torch.randperm(550)]
    known = [[int(labels[image] >= 0) for image in batch] for batch in batches(labels, share=0.5)]
    assert {sum(batch) for batch in known} == {4}
    assert sum(sum(batch[:4]) for batch in known) < 0.75 * 4 * len(known)


def test_few_unlabelled_images_are_one_batch_and_a_full_share_leaves_them_out() -> None:
    (batch,) = batches(some_labels(10, 3), batch_size=16)
    assert sum(image < 10 for image in batch) == 4
    assert {image for image in batch if image >= 10} == {10, 11, 12}
    drawn = batches(some_labels(16, 70), share=1.0)
    assert sorted(image for batch in drawn for image in batch) == list(range(16))


def test_the_images_that_fill_no_batch_are_a_smaller_one_if_asked_for() -> None:
    """Of unlabelled images as well, but a single image, which has no relations, is left out."""
    for labels, share, sizes in (
        (torch.zeros(35), 1.0, [8, 8, 8, 8, 3]),
        (torch.zeros(32), 1.0, [8, 8, 8, 8]),
        (torch.zeros(33), 1.0, [8, 8, 8, 8]),
        (torch.zeros(5), 1.0, [5]),
        (some_labels(10, 21), 0.25, [8, 8, 8, 5]),
        (some_labels(10, 19), 0.25, [8, 8, 8, 3]),  # 2 labelled images and a single other one
        (some_labels(19, 21), 1.0, [8, 8, 3]),
    ):
        with case(len(labels), share):
            drawn = draw(labels, share=share, drop_last=False)
            assert [len(batch) for batch in drawn] == sizes and len(drawn) == len(sizes)
            assert drawn.sizes == list(dict.fromkeys(sizes))
            full = [batch.tolist() for batch in draw(labels, share=share)]
            assert [batch.tolist() for batch in drawn][: len(full)] == full, "the others are as without it"
    whole = [batch.tolist() for batch in draw(torch.zeros(36), drop_last=False)]
    own = [draw(torch.zeros(36), drop_last=False, processes=ProcessGroup(rank, 2)) for rank in range(2)]
    assert [torch.cat(parts).tolist() for parts in zip(*own, strict=True)] == whole
    assert sorted(image for batch in whole for image in batch) == list(range(36))


def test_misuse_is_named() -> None:
    few, above = "a relation needs at least two images: ", "above 0 and at most 1, got "
    assert_refused_like(
        (partial(batches, torch.zeros(1)), f"{few}1 training image$"),
        (partial(batches, torch.zeros(0)), f"{few}0 training images$"),
        (partial(batches, torch.zeros(8), 4, 0.0), f"{above}0.0$"),
        (partial(batches, torch.zeros(8), 4, 1.5), f"{above}1.5$"),
        (partial(batches, -torch.ones(8)), r"one labelled image, got none among 8: .* \(seed\) train with --gamma 0$"),
        (partial(batches, -torch.ones(1), by_label=False), f"{few}1 training image$"),
        (partial(batches, -torch.ones(0), by_label=False), f"{few}0 training images$"),
        (partial(batches, torch.zeros(64), processes=ProcessGroup(0, 3)), "evenly over 3 processes, got 8 images"),
    )


def test_a_batch_is_the_same_each_time() -> None:
    for labels in (torch.zeros(45), some_labels(10, 90)):
        drawn, through = draw(labels), batches(labels)
        assert through == [batch.tolist() for batch in drawn] == [batch.tolist() for batch in drawn]
        assert {batch.dtype for batch in drawn} == {torch.int64}


def test_processes_hold_a_batch_together() -> None:
    for labels, by_label in ((some_labels(10, 90), True), (some_labels(50, 50), False)):
        whole = draw(labels, by_label=by_label)
        own = [draw(labels, by_label=by_label, processes=ProcessGroup(rank, 4)) for rank in range(4)]
        assert {len(each) for each in own} == {len(whole)}
        for batch, *parts in zip(whole, *own, strict=True):
            assert {len(part) for part in parts} == {2} and torch.equal(torch.cat(parts), batch)
