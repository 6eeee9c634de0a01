"""Negatives from a memory with a slot for each training image: drawn at random, all of them, or the nearest.

Everything is computed on the device: there is no list of negatives per image, and the loader draws nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import linear

# Up to this many keys per draw one product with all keys is taken and the draws are picked from it: its (N, keys)
# numbers are then at most a quarter of the (N, K, D) of gathering at D = 128. In time, forward and backward on one CPU
# thread, the two break even at some 50 to 70 keys per draw (N = 64 and 256).
KEYS_PER_DRAW = 32
# Numbers gathered at once where the product is not taken: 64 MB of float32.
BLOCK = 2**24
# Seeds of different runs differ by this and more, those of successive steps by less.
STRIDE = 1_000_003


class ClassSampler(nn.Module):
    """Draws images of other classes, or of the same class, uniformly and with replacement.

    The training set is sorted by class once, so that the images of other classes than c are two runs of the sorted
    list, before and behind those of c: for u uniform in 0..images - count_c - 1, the image at `u` if `u < start_c` else
    at `u + count_c` is uniform among them, without rejection (u is a random number of 63 bits modulo the bound, whose
    bias is below 1e-12 up to eight million images). An image without label (-1) is a class of its own, so it may be
    drawn as a negative of an image whose true class it shares.

    A draw depends on a seed, taken from torch's global generator at construction, and on the number of `advance` calls,
    which are saved in checkpoints: two draws without an `advance` in between are equal. The generators of CPU and CUDA
    draw different numbers.

    Args:
        images: Size of the training set.
        labels: Class of each image, `(images,)`, -1 where it is unknown; without them all are unknown.

    Raises:
        RelgraphError: if there is not one label for each image, or all images are of one class.

    >>> sampler = ClassSampler(4, torch.tensor([0, 1, 0, 1]))
    >>> sorted(set(sampler.others(torch.tensor([0, 1]), 50)[0].tolist()))
    [1, 3]
    """

    order: Tensor
    start: Tensor
    count: Tensor

    def __init__(self, images: int, labels: Tensor | None = None) -> None:
        super().__init__()
        if labels is None:
            labels = torch.full((max(images, 0),), -1)
        if labels.shape != (images,):
            raise RelgraphError(f"labels must be one for each of the {images} images, got {tuple(labels.shape)}")
        labels = labels.detach().cpu()
        own = torch.where(labels < 0, -1 - torch.arange(images), labels)  # an image without label is a class of its own
        _, classes, count = torch.unique(own, return_inverse=True, return_counts=True)
        if len(count) < 2:
            expected = f"negatives are images of other classes: expected at least 2 classes among {images} images"
            raise RelgraphError(f"{expected}, got {len(count)}")
        # Not part of checkpoints: they follow from the labels. `start` and `count` hold those of each image's class.
        self.register_buffer("order", classes.argsort(stable=True), persistent=False)
        self.register_buffer("start", (count.cumsum(0) - count)[classes], persistent=False)
        self.register_buffer("count", count[classes], persistent=False)
        self.images = images
        self.most_others = images - int(count.min())
        self.seed = int(torch.randint(2**31, ()))
        self.steps = 0

    def others(self, indices: Tensor, k: int) -> Tensor:
        """Return k images of other classes for each of the images `indices`, `(N,) -> (N, k)`."""
        start, count = (each[indices].unsqueeze(-1) for each in (self.start, self.count))
        place = self._random(len(indices), k, 0).remainder_(self.images - count)
        return self.order[torch.where(place < start, place, place + count)]

    def same(self, indices: Tensor) -> Tensor:
        """Return one image of the same class for each of the images `indices`, perhaps itself, `(N,) -> (N,)`."""
        place = self._random(len(indices), 1, 1).squeeze(-1).remainder_(self.count[indices])
        return self.order[self.start[indices] + place]

    def advance(self) -> None:
        """Advance the random stream, so that the next draw differs."""
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        """Return seed and number of steps, (2,), which are part of `state_dict`."""
        return torch.tensor([self.seed, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state: seed and number of steps."""
        self.seed, self.steps = state.tolist()

    def _random(self, rows: int, columns: int, stream: int) -> Tensor:
        """Return integers uniform in 0..2^63 - 1; the streams 0 and 1 of a step are independent of each other."""
        generator = torch.Generator(self.order.device).manual_seed(self.seed * STRIDE + 2 * self.steps + stream)
        return torch.empty(rows, columns, dtype=torch.long, device=self.order.device).random_(generator=generator)


@dataclass(frozen=True)
class Negatives:
    """The negatives of a batch, to be compared with the anchors of both networks.

    Attributes:
        count: How many each anchor has, `(N,)`.
        weigh: Maps anchors `(N, D)` and all keys `(images, D)` to the dot products with the negatives, `(N, K)`; -inf
            fills the rows of anchors that have fewer than K.
    """

    count: Tensor
    weigh: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RandomOthers:
    """The rule of k random images of other classes."""

    k: int

    def __call__(self, sampler: ClassSampler, indices: Tensor) -> Negatives:
        """Return the negatives of the images `indices` (N,)."""
        index = sampler.others(indices, self.k)
        return Negatives(index.new_full((len(indices),), self.k), lambda anchors, keys: picked(anchors, keys, index))


@dataclass(frozen=True)
class NearestOthers:
    """The rule of the k images of other classes with the largest dot product; of all of them if k is `None`."""

    k: int | None = None

    def __call__(self, sampler: ClassSampler, indices: Tensor) -> Negatives:
        """Return the negatives of the images `indices` (N,)."""
        same_class = sampler.start[indices].unsqueeze(-1) == sampler.start
        k = sampler.most_others if self.k is None else min(self.k, sampler.most_others)

        def weigh(anchors: Tensor, keys: Tensor) -> Tensor:
            found = linear.matrix(anchors, keys).masked_fill(same_class, float("-inf"))
            return found if self.k is None else found.topk(k, dim=-1).values

        return Negatives((sampler.images - sampler.count[indices]).clamp_max(k), weigh)


def picked(anchors: Tensor, keys: Tensor, index: Tensor) -> Tensor:
    """Return `anchors_i . keys_j` for the j = index_ik, `(N, D), (M, D), (N, K) -> (N, K)`.

    Computed by one product with all keys where that is cheaper than gathering `(N, K, D)`; for very many keys by
    gathering, a block of columns at a time, and once more in the backward pass. Both are equal in value and gradient.

    >>> picked(torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([[1, 1, 0]]))
    tensor([[2., 2., 1.]])
    """
    if len(keys) > KEYS_PER_DRAW * index.shape[1]:
        return gathered(anchors, keys, index)
    # A key that is drawn twice gets the same gradient twice, so the order of the sums, which are atomic on CUDA, does
    # not matter where the loss treats all draws of an anchor alike.
    return linear.matrix(anchors, keys).gather(1, index)


def gathered(anchors: Tensor, keys: Tensor, index: Tensor) -> Tensor:
    """Return the result of `picked`, `(N, K)`, by gathering only, at most `BLOCK` numbers at a time."""
    width = max(1, BLOCK // max(1, anchors.numel()))
    if index.shape[1] <= width:
        return _gather(anchors, keys, index)
    # Without checkpointing, the blocks saved for the backward pass would be as large as (N, K, D).
    parts = [
        checkpoint(_gather, anchors, keys, columns, use_reentrant=False, preserve_rng_state=False)
        for columns in torch.split(index, width, dim=1)
    ]
    return torch.cat(parts, dim=1)


def _gather(anchors: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
    chosen = keys.index_select(0, columns.flatten()).view(*columns.shape, keys.shape[1])
    return linear.matrix(anchors.unsqueeze(-2), chosen).squeeze(-2)
