"""Batches are counted: every image as often as promised, no batch of another size."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from relgraph.data.batches import epoch_batches
from relgraph.errors import RelgraphError
from relgraph.processes import ProcessGroup

PLAIN = [[2, 5, 1, 10], [6, 9, 11, 8], [7, 0, 3, 4]]
MIXED = [[2, 5, 8, 0], [4, 1, 7, 2], [1, 0, 6, 3]]


def batches(
    labels: torch.Tensor, batch_size: int = 8, share: float = 0.25, seed: int = 0, epoch: int = 0, by_label: bool = True
) -> list[list[int]]:
    drawn = epoch_batches(
        labels, batch_size=batch_size, labelled_share=share, seed=seed, epoch=epoch, by_label=by_label
    )
    return [batch.tolist() for batch in drawn]


def some_labels(labelled: int, unlabelled: int) -> torch.Tensor:
    return torch.tensor([0, 1] * labelled + [-1] * unlabelled)[labelled:]


def test_labelled_images_are_shuffled_and_cut() -> None:
    drawn = batches(torch.arange(35) % 5)
    flat = [image for batch in drawn for image in batch]
    assert [len(batch) for batch in drawn] == [8, 8, 8, 8]
    assert len(set(flat)) == 32 and flat != sorted(flat)


def test_few_images_are_one_batch() -> None:
    assert [sorted(batch) for batch in batches(torch.zeros(5, dtype=torch.int64))] == [[0, 1, 2, 3, 4]]


def test_seed_and_epoch_alone_decide() -> None:
    for labels in (torch.zeros(64, dtype=torch.int64), some_labels(10, 90)):
        torch.manual_seed(1)
        first = batches(labels, seed=3, epoch=4)
        torch.manual_seed(2)
        assert first == batches(labels, seed=3, epoch=4)
        others = [batches(labels, seed=seed, epoch=epoch) for seed, epoch in ((4, 3), (3, 5), (4, 4), (2, 5))]
        assert all(first != other for other in others)


def test_an_epoch_goes_once_through_the_unlabelled() -> None:
    for labelled, unlabelled, share in ((10, 90, 0.25), (3, 100, 0.3), (50, 21, 0.9)):
        labels = some_labels(labelled, unlabelled)
        drawn = batches(labels, share=share)
        quota = round(share * 8)
        assert all(len(set(batch)) == 8 for batch in drawn)
        assert all(sum(image < labelled for image in batch) == quota for batch in drawn)
        seen = Counter(image for batch in drawn for image in batch)
        assert len(drawn) == unlabelled // (8 - quota)
        assert sum(seen[image] == 1 for image in range(labelled, len(labels))) == len(drawn) * (8 - quota)
        rounds = [seen[image] for image in range(labelled)]
        assert max(rounds) - min(rounds) <= 1


def test_no_image_stands_twice_in_a_batch_even_with_few_labels() -> None:
    drawn = batches(some_labels(2, 40), share=0.5)
    assert len(drawn) == 40 // 6
    assert all(sum(image < 2 for image in batch) == 2 and len(set(batch)) == 8 for batch in drawn)


def test_a_batch_mixes_labelled_and_unlabelled() -> None:
    drawn = batches(some_labels(50, 500), share=0.5)
    assert sum(image < 50 for batch in drawn for image in batch[:4]) < 0.75 * 4 * len(drawn)


def test_few_unlabelled_images_are_one_batch() -> None:
    (batch,) = batches(some_labels(10, 3), batch_size=16)
    assert sum(image < 10 for image in batch) == 4
    assert {image for image in batch if image >= 10} == {10, 11, 12}


def test_a_tiny_share_still_holds_one_labelled_image() -> None:
    assert all(sum(image < 10 for image in batch) == 1 for batch in batches(some_labels(10, 70), share=0.01))


def test_a_full_share_trains_on_the_labelled_alone() -> None:
    drawn = batches(some_labels(16, 70), share=1.0)
    assert sorted(image for batch in drawn for image in batch) == list(range(16))


def test_misuse_is_named() -> None:
    for labels, size, share, by_label, message in (
        (torch.zeros(8), 1, 0.5, True, "a relation needs at least two images: batch size 1"),
        (torch.zeros(1), 8, 0.5, True, "a relation needs at least two images: 1 training image"),
        (torch.zeros(8), 4, 0.0, True, "above 0 and at most 1, got 0.0"),
        (torch.zeros(8), 4, 1.5, True, "above 0 and at most 1, got 1.5"),
        (torch.zeros(0), 8, 0.5, True, "a relation needs at least two images: 0 training images"),
        (-torch.ones(8), 4, 0.5, True, r"one labelled image, got none among 8: .* \(seed\) train with --gamma 0$"),
        (-torch.ones(1), 8, 0.5, False, "a relation needs at least two images: 1 training image$"),
        (-torch.ones(0), 8, 0.5, False, "a relation needs at least two images: 0 training images$"),
        (-torch.ones(8), 1, 0.5, False, "a relation needs at least two images: batch size 1$"),
    ):
        with pytest.raises(RelgraphError, match=message):
            batches(labels, batch_size=size, share=share, by_label=by_label)


def test_without_labels_all_images_are_shuffled_and_cut() -> None:
    for labels in (-torch.ones(35, dtype=torch.int64), some_labels(10, 25), torch.arange(35)):
        for share in (0.25, 1.0):
            drawn = batches(labels, share=share, by_label=False)
            flat = [image for batch in drawn for image in batch]
            assert [len(batch) for batch in drawn] == [8, 8, 8, 8] and len(set(flat)) == 32
            assert drawn == batches(torch.arange(35), share=share)


@pytest.mark.parametrize("labels", [torch.zeros(45, dtype=torch.int64), some_labels(10, 90)])
def test_a_batch_is_the_same_however_it_is_reached(labels: torch.Tensor) -> None:
    drawn = epoch_batches(labels, batch_size=8, labelled_share=0.25, seed=0, epoch=0)
    through = [batch.tolist() for batch in drawn]
    assert through == [batch.tolist() for batch in drawn], "going through them again"
    assert drawn[-1].tolist() == through[-1] and [batch.tolist() for batch in drawn[1:3]] == through[1:3]
    assert {batch.dtype for batch in drawn} == {torch.int64}
    with pytest.raises(IndexError):
        drawn[len(through)]


@pytest.mark.parametrize(("labels", "by_label"), [(some_labels(10, 90), True), (some_labels(50, 50), False)])
def test_processes_hold_a_batch_together(labels: torch.Tensor, by_label: bool) -> None:
    def drawn(processes: ProcessGroup) -> Sequence[torch.Tensor]:
        return epoch_batches(labels, batch_size=8, labelled_share=0.25, seed=0, epoch=0, by_label=by_label,
                             processes=processes)  # fmt: skip

    own = [drawn(ProcessGroup(rank, 4)) for rank in range(4)]
    assert {len(each) for each in own} == {len(drawn(ProcessGroup()))}
    for whole, *parts in zip(drawn(ProcessGroup()), *own, strict=True):
        assert {len(part) for part in parts} == {2} and torch.equal(torch.cat(parts), whole)


def test_batches_that_cannot_be_shared_evenly_are_named() -> None:
    with pytest.raises(RelgraphError, match="split evenly over 3 processes, got 8 images"):
        next(iter(epoch_batches(torch.zeros(64), batch_size=8, labelled_share=1.0, seed=0, epoch=0,
                                processes=ProcessGroup(0, 3))))  # fmt: skip


def test_known_and_unknown_are_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = some_labels(10, 90)[torch.randperm(100)]
    whole = batches(labels)
    monkeypatch.setattr("relgraph.data.batches.CHUNK", 7)
    assert batches(labels) == whole


def test_an_epoch_is_the_one_of_its_seed() -> None:
    """As it was recorded: runs can be repeated, and resumed by later versions."""
    assert batches(torch.zeros(12), batch_size=4, seed=1, epoch=2) == PLAIN
    assert batches(some_labels(3, 6), batch_size=4, share=0.5, seed=1, epoch=2) == MIXED
