"""Memory: embeddings of earlier batches, used as additional keys, and the negatives that are taken from it.

A loss reads its memory and never writes it; `remember` writes it, once a step. Negatives from a memory with a slot for
each training image are drawn at random, all of them, or the nearest. Everything is computed on the device: there is no
list of negatives per image, and the loader draws nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import linear, unit

# Up to this many keys per draw one product with all keys is taken and the draws are picked from it: its (N, keys)
# numbers are then at most a quarter of the (N, K, D) of gathering at D = 128. In time, forward and backward on one CPU
# thread, the two break even at some 50 to 70 keys per draw (N = 64 and 256).
KEYS_PER_DRAW = 32
# Numbers gathered at once where the product is not taken: 64 MB of float32.
BLOCK = 2**24
# Seeds of different runs differ by this and more, those of successive steps by less.
STRIDE = 1_000_003


class Queue(nn.Module):
    """The last `size` keys, first in, first out: a `collections.deque(maxlen=size)` as a tensor `(size, D)`.

    It is saved in checkpoints. It is initialised with random unit vectors, as in MoCo (He et al., 2019, arXiv
    1911.05722). The batch may have any size, including one larger than the queue.

    Raises:
        RelgraphError: if `size` or `dim` is below 1.
    """

    keys: Tensor
    next: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise RelgraphError(f"a queue needs at least one key of at least one number, got {size} x {dim}")
        self.register_buffer("keys", nn.functional.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def remember(self, keys: Tensor) -> None:
        """Put keys `(N, D)` in place of the N oldest."""
        self.keys.index_copy_(0, *self._places(keys))
        self.next.copy_((self.next + len(keys)) % len(self.keys))

    @torch.no_grad()
    def after(self, keys: Tensor) -> Tensor:
        """Return a copy of the queue's keys as they are once `remember(keys)` has been called, `(size, D)`.

        >>> queue = Queue(3, 1)
        >>> after = queue.after(torch.tensor([[1.0], [2.0]]))
        >>> queue.remember(torch.tensor([[1.0], [2.0]]))
        >>> torch.equal(after, queue.keys)
        True
        """
        return self.keys.index_copy(0, *self._places(keys))

    def _places(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots of the oldest keys, and the last of the new ones, as many, which take them."""
        size = len(self.keys)
        last = keys[-size:]
        start = self.next + len(keys) - len(last)
        slots = (start + torch.arange(len(last), device=self.keys.device)) % size
        return slots, last.to(self.keys)


class ClassQueues(nn.Module):
    """A `Queue` of `size` keys for each class.

    >>> queues = ClassQueues(classes=2, size=3, dim=4)
    >>> queues.remember(1, torch.ones(1, 4))
    >>> queues.keys(torch.tensor([0, 2])).shape, queues.keys(torch.tensor([0]))[1]
    (torch.Size([4, 4]), tensor([1., 1., 1., 1.]))
    """

    def __init__(self, classes: int, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.queues = nn.ModuleList(Queue(size, dim) for _ in range(classes))

    def of_class(self, label: int) -> Queue:
        """Return the queue of a class."""
        return cast(Queue, self.queues[label])

    def remember(self, label: int, keys: Tensor) -> None:
        """Put keys `(N, D)` in place of the N oldest of a class."""
        self.of_class(label).remember(keys)

    def keys(self, slots: Tensor) -> Tensor:
        """Return the keys in some slots of every class, `(M,) -> (classes * M, D)`, class by class."""
        return torch.cat([self.of_class(label).keys[slots] for label in range(len(self.queues))])


def check_indices(indices: Tensor, count: int, images: int) -> None:
    """Raise RelgraphError unless indices name one of `images` images for each of `count` keys.

    Values are read on the CPU alone.
    """
    if indices.shape != (count,):
        raise RelgraphError(f"indices must be one for each of the {count} keys, got {tuple(indices.shape)}")
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise RelgraphError(f"indices must be integers, got {indices.dtype}")
    if indices.device.type == "cpu":  # elsewhere reading values would synchronise the device
        outside = indices[(indices < 0) | (indices >= images)].tolist()
        if outside:
            raise RelgraphError(f"indices must name images 0 to {images - 1}, got {outside[0]}")


class Bank(nn.Module):
    """A slot for each image of the training set, `(images, D)`, that holds a running mean of its keys.

    It is saved in checkpoints. It is initialised uniformly in `+-1 / sqrt(D / 3)`, not normalised, as in the code of
    CRD (Tian et al., 2019, arXiv 1910.10699): vectors of about unit length.

    Args:
        images: Size of the training set.
        dim: Width D of the keys.

    >>> bank = Bank(3, 2)
    >>> bank.remember(torch.tensor([1]), torch.tensor([[0.0, 4.0]]), momentum=0.0)
    >>> bank.keys[1]
    tensor([0., 1.])
    """

    keys: Tensor

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / dim)
        self.register_buffer("keys", torch.empty(images, dim).uniform_(-bound, bound))

    def check(self, indices: Tensor, count: int) -> None:
        """Raise RelgraphError unless these are `count` of the bank's images (`check_indices`)."""
        check_indices(indices, count, len(self.keys))

    @torch.no_grad()
    def remember(self, indices: Tensor, keys: Tensor, momentum: float) -> None:
        """Move the slots of these images, each named once: `slot = unit(momentum * slot + (1 - momentum) * key)`.

        Args:
            indices: The images, `(N,)`.
            keys: Their keys, `(N, D)`.
            momentum: Share of the slot, in [0, 1].

        Raises:
            RelgraphError: if the images are not as many as the keys, or an index is not of the bank.
        """
        self.check(indices, len(keys))
        indices = indices.long()
        moved = unit(torch.lerp(keys.to(self.keys), self.keys[indices], momentum))
        self.keys.index_copy_(0, indices, moved)


class Draws(nn.Module):
    """A random stream that a loss reads and does not move: two draws without an `advance` in between are equal.

    A draw depends on a seed, taken from torch's global generator at construction, and on the number of `advance` calls,
    which are saved in checkpoints. The generators of CPU and CUDA draw different numbers.

    >>> draws = Draws()
    >>> one, other = (torch.rand(3, generator=draws.generator("cpu")) for _ in range(2))
    >>> draws.advance()
    >>> torch.equal(one, other), torch.equal(one, torch.rand(3, generator=draws.generator("cpu")))
    (True, False)
    """

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.steps = int(torch.randint(2**31, ())), 0

    def advance(self) -> None:
        """Advance the random stream, so that the next draw differs."""
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        """Return seed and number of steps, (2,), which are part of `state_dict`."""
        return torch.tensor([self.seed, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state: seed and number of steps."""
        self.seed, self.steps = state.tolist()

    def generator(self, device: torch.device | str, stream: int = 0) -> torch.Generator:
        """Return a generator for a draw; the streams 0 and 1 of a step are independent of each other."""
        return torch.Generator(device).manual_seed(self.seed * STRIDE + 2 * self.steps + stream)


class ClassSampler(Draws):
    """Draws images of other classes, or of the same class, uniformly and with replacement.

    The training set is sorted by class once, so that the images of other classes than c are two runs of the sorted
    list, before and behind those of c: for u uniform in 0..images - count_c - 1, the image at `u` if `u < start_c` else
    at `u + count_c` is uniform among them, without rejection (u is a random number of 63 bits modulo the bound, whose
    bias is below 1e-12 up to eight million images). An image without label (-1) is a class of its own, so it may be
    drawn as a negative of an image whose true class it shares.

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

    def others(self, indices: Tensor, k: int) -> Tensor:
        """Return k images of other classes for each of the images `indices`, `(N,) -> (N, k)`."""
        start, count = (each[indices].unsqueeze(-1) for each in (self.start, self.count))
        place = self._random(len(indices), k, 0).remainder_(self.images - count)
        return self.order[torch.where(place < start, place, place + count)]

    def same(self, indices: Tensor) -> Tensor:
        """Return one image of the same class for each of the images `indices`, perhaps itself, `(N,) -> (N,)`."""
        place = self._random(len(indices), 1, 1).squeeze(-1).remainder_(self.count[indices])
        return self.order[self.start[indices] + place]

    def _random(self, rows: int, columns: int, stream: int) -> Tensor:
        """Return integers uniform in 0..2^63 - 1."""
        generator = self.generator(self.order.device, stream)
        return torch.empty(rows, columns, dtype=torch.long, device=self.order.device).random_(generator=generator)


# The negatives of a batch, for the anchors of both networks: how many each anchor has, `(N,)`, and a map of anchors
# `(N, D)` and all keys `(images, D)` to the dot products with the negatives, `(N, K)`; -inf fills the rows of anchors
# that have fewer than K.
Negatives = tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class RandomOthers:
    """The rule of k random images of other classes."""

    k: int

    def __call__(self, sampler: ClassSampler, indices: Tensor) -> Negatives:
        """Return the negatives of the images `indices` (N,)."""
        index = sampler.others(indices, self.k)
        return index.new_full((len(indices),), self.k), lambda anchors, keys: picked(anchors, keys, index)


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

        return (sampler.images - sampler.count[indices]).clamp_max(k), weigh


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
    gather = partial(checkpoint, _gather, anchors, keys, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([gather(columns) for columns in torch.split(index, width, dim=1)], dim=1)


def _gather(anchors: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
    chosen = keys.index_select(0, columns.flatten()).view(*columns.shape, keys.shape[1])
    return linear.matrix(anchors.unsqueeze(-2), chosen).squeeze(-2)
