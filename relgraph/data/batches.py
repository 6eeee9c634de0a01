"""The batches of one epoch, as indices into the training images."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from relgraph.errors import RelgraphError


def epoch_batches(
    labels: Tensor, *, batch_size: int, labelled_share: float, seed: int, epoch: int, by_label: bool = True
) -> list[Tensor]:
    """Return the batches of one epoch, each a CPU tensor of indices into `labels` `(N,)`, where -1 is an unknown label.

    They depend on `(seed, epoch)` alone, so a resumed run sees the same batches. With all labels known, they are the
    shuffled images cut into equal parts. With some unknown, every batch holds `round(labelled_share * batch_size)`
    labelled images (at least one, and at most all there are: no image stands twice in a graph), cycling through them;
    the rest is unlabelled, and the epoch goes once through the unlabelled images. A share that leaves no room for
    them trains on the labelled images alone. The remainder that fills no batch is dropped; too few images for a single
    batch are one smaller batch.

    Without `by_label` labels play no part, as training without them needs it: the batches are those of labels that are
    all known.

    Raises:
        RelgraphError: if the batch size is below 2, the share is not in `(0, 1]`, there are fewer than two images, or
            with `by_label` no image is labelled.

    >>> labels = torch.tensor([0, 1, -1, -1, -1, -1])
    >>> [len(batch) for batch in epoch_batches(labels, batch_size=3, labelled_share=0.3, seed=0, epoch=0)]
    [3, 3]
    """
    labels = labels.cpu() if by_label else torch.zeros(len(labels))
    labelled, unlabelled = (labels >= 0).nonzero().flatten(), (labels < 0).nonzero().flatten()
    _check(len(labelled), len(labels), batch_size, labelled_share)
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    quota = max(1, round(labelled_share * batch_size))
    if len(unlabelled) == 0 or quota == batch_size:
        return _cut(_shuffle(labelled, generator), batch_size)
    quota = min(quota, len(labelled))
    parts = _cut(_shuffle(unlabelled, generator), batch_size - quota)
    cycle = _cycle(labelled, quota, generator)
    # Shuffled once more, so that a device's slice of the batch is not all labelled or all unlabelled.
    return [_shuffle(torch.cat((next(cycle), part)), generator) for part in parts]


def _check(labelled: int, images: int, batch_size: int, labelled_share: float) -> None:
    if batch_size < 2:
        raise RelgraphError(f"a relation needs at least two images: batch size {batch_size}")
    if not 0 < labelled_share <= 1:
        raise RelgraphError(f"the labelled share of a batch must be above 0 and at most 1, got {labelled_share}")
    if images < 2:
        raise RelgraphError(f"a relation needs at least two images: {images} training image{'s' * (images == 0)}")
    if labelled == 0:
        raise RelgraphError(
            f"training needs at least one labelled image, got none among {images}: methods without labels (seed) train "
            "with --gamma 0"
        )


def _mix(seed: int, epoch: int) -> int:
    # A hash, not a sum: seed 0 in epoch 1 and seed 1 in epoch 0 are different runs.
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:7], "big")


def _shuffle(indices: Tensor, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]


def _cut(indices: Tensor, size: int) -> list[Tensor]:
    if len(indices) < size:
        return [indices]
    return list(indices[: len(indices) - len(indices) % size].view(-1, size))


def _cycle(indices: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield `size` indices at a time, each index once per round and none twice at a time; there are at least `size`."""
    queue = indices[:0]
    while True:
        while len(queue) < size:
            fresh = _shuffle(indices, generator)
            # Those still waiting from the round before come last in the new one.
            waiting = torch.isin(fresh, queue)
            queue = torch.cat((queue, fresh[~waiting], fresh[waiting]))
        yield queue[:size]
        queue = queue[size:]
