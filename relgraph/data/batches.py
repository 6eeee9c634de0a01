"""The batches of one epoch, as indices into the training images.

One permutation is kept of an epoch, 4 bytes an image; batches are cut from it as they are asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.seeding import generator


def epoch_batches(
    labels: Tensor,
    *,
    batch_size: int,
    labelled_share: float,
    seed: int,
    epoch: int,
    by_label: bool = True,
    processes: ProcessGroup = SINGLE_PROCESS,
    purpose: str = "batches",
    drop_last: bool = True,
) -> "Batches":
    """Return the batches of one epoch, each a CPU tensor of indices into `labels` `(N,)`, where -1 is an unknown label.

    They depend on `(purpose, seed, epoch)` alone: a resumed run has the same batches. With all labels known, they are
    the shuffled images cut into equal parts. With some unknown, every batch holds `round(labelled_share * batch_size)`
    labelled images (at least one, and at most all there are: no image stands twice in a graph), cycling through them in
    an order that depends on `(seed, epoch)`, for each purpose the same; the rest is unlabelled, and the epoch goes once
    through the unlabelled images. A share that leaves no room for them trains on the labelled images alone. The
    remainder that fills no batch is dropped, or without `drop_last` is a last, smaller batch, unless that would be a
    single image; too few images for a single batch are one smaller batch.

    Without `by_label` labels play no part, as training without them needs it: the batches are those of labels that are
    all known.

    Of a batch that is spread over `processes`, only the rows of this one are returned; there are as many batches.

    Raises:
        RelgraphError: if the share is not in `(0, 1]`, there are fewer than two images, or with `by_label` no image is
            labelled; when a batch is cut that is no multiple of the processes.

    >>> labels = torch.tensor([0, 1, -1, -1, -1, -1])
    >>> [len(batch) for batch in epoch_batches(labels, batch_size=3, labelled_share=0.3, seed=0, epoch=0)]
    [3, 3]
    """
    count = len(labels)
    known = (labels >= 0).cpu().numpy() if by_label else np.ones(count, dtype=bool)
    if not 0 < labelled_share <= 1:
        raise RelgraphError(f"the labelled share of a batch must be above 0 and at most 1, got {labelled_share}")
    if count < 2:
        raise RelgraphError(f"a relation needs at least two images: {count} training image{'s' * (not count)}")
    if not known.any():
        told = f"training needs at least one labelled image, got none among {count}"
        raise RelgraphError(f"{told}: methods without labels (seed) train with --gamma 0")
    random = generator(purpose, seed, epoch)
    quota = max(1, round(labelled_share * batch_size))
    if known.all():
        order = torch.randperm(count, generator=random, dtype=torch.int32)
        return Batches(order, batch_size, processes, drop_last=drop_last)
    labelled, others = (torch.from_numpy(np.arange(count, dtype=np.int32)[which]) for which in (known, ~known))
    if quota == batch_size:
        return Batches(_shuffle(labelled, random), batch_size, processes, drop_last=drop_last)
    quota = min(quota, len(labelled))
    others = _shuffle(others, random)
    return Batches(others, batch_size - quota, processes, labelled, quota, (seed, epoch), drop_last)


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of an epoch, or the rows of them that one process holds: each is cut when it is asked for.

    Attributes:
        order: Images in the order `(N,)` in which they are cut into batches; if there are too few, they are one.
        size: Images of `order` in a batch.
        processes: Those that hold a batch.
        labelled: Images of which each batch has some more, in turn.
        quota: How many of them.
        numbers: A seed and an epoch, by which they are drawn.
        drop_last: Whether images that fill no batch are left out.
    """

    order: Tensor
    size: int
    processes: ProcessGroup
    labelled: Tensor | None = None
    quota: int = 0
    numbers: tuple[int, ...] = ()
    drop_last: bool = True

    @property
    def sizes(self) -> list[int]:
        """How many images there are in a full batch, of all processes, and in the last one, where that is smaller."""
        full, rest = min(self.size, len(self.order)), len(self.order) % self.size
        smaller = rest < full and self.quota + rest > 1 and rest > 0 and not self.drop_last
        return [self.quota + full, *([self.quota + rest] if smaller else [])]

    def __len__(self) -> int:
        """Return how many batches there are."""
        return max(1, len(self.order) // self.size) + len(self.sizes) - 1

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each batch, `(B,)` int64."""
        random, size = generator("labelled images", *self.numbers), min(self.size, len(self.order))
        rows = {count: self.processes.rows(count) for count in self.sizes}
        cycle = None if self.labelled is None else _cycle(self.labelled, self.quota, random)
        for batch in torch.split(self.order, size)[: len(self)]:
            if cycle is not None:
                # Shuffled once more, so that a device's slice of the batch is not all labelled or all unlabelled.
                batch = torch.cat((next(cycle), batch))
                batch = batch[torch.randperm(len(batch), generator=random)]
            yield batch[rows[len(batch)]].long()


def _shuffle(indices: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(indices), generator=generator, dtype=torch.int32)
    return indices.index_select(0, order)  # which reads 32 bits as they are; brackets make 64 of them first


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
