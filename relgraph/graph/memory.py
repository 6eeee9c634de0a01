"""Memory: embeddings of earlier batches as more keys.

A loss reads its memory and never writes it; `remember` does, after the step.
"""

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError


class Queue(nn.Module):
    """The last `size` keys, first in, first out: a `collections.deque(maxlen=size)` as a tensor `(size, D)`.

    Checkpoints keep it. It starts full of random unit vectors, as in MoCo (He et al., 2019, arXiv 1911.05722). Any
    batch size fits, larger than the queue included.

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
        """Put keys `(N, D)` in place of the N oldest.

        Raises:
            RelgraphError: if their width is not the queue's.
        """
        size, dim = self.keys.shape
        if keys.ndim != 2 or keys.shape[1] != dim:
            raise RelgraphError(f"keys must be (N, {dim}), got {tuple(keys.shape)}")
        start = self.next + max(0, len(keys) - size)
        last = keys[-size:]
        slots = (start + torch.arange(len(last), device=self.keys.device)) % size
        self.keys.index_copy_(0, slots, last.to(self.keys))
        self.next.copy_((self.next + len(keys)) % size)
