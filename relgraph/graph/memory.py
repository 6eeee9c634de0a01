"""Memory: embeddings of earlier batches, used as additional keys.

A loss reads its memory and never writes it; `remember` writes it, once a step.
"""

import math

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import unit


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
        size = len(self.keys)
        start = self.next + max(0, len(keys) - size)
        last = keys[-size:]
        slots = (start + torch.arange(len(last), device=self.keys.device)) % size
        self.keys.index_copy_(0, slots, last.to(self.keys))
        self.next.copy_((self.next + len(keys)) % size)


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
        """Raise RelgraphError unless these are `count` of the bank's images; values are read on the CPU alone."""
        if indices.shape != (count,):
            raise RelgraphError(f"indices must be one for each of the {count} keys, got {tuple(indices.shape)}")
        if indices.is_floating_point():
            raise RelgraphError(f"indices must be integers, got {indices.dtype}")
        if indices.device.type == "cpu":  # elsewhere reading values would synchronise the device
            outside = indices[(indices < 0) | (indices >= len(self.keys))].tolist()
            if outside:
                raise RelgraphError(f"indices must name images 0 to {len(self.keys) - 1}, got {outside[0]}")

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
        moved = unit(torch.lerp(keys.to(self.keys), self.keys[indices], momentum))
        self.keys.index_copy_(0, indices, moved)
