"""Process groups: one batch, and therefore one graph, is spread over several devices.

Each of W processes holds N / W rows of a batch of N, in the order of the processes. A computation over all images
either gathers their rows (`gather`) or sums over them (`sum`); every process then has the same loss, that of the whole
batch. Gradients of parameters must be averaged over the processes afterwards, as DDP does, so the gradient of a
gathered row, or of a summand, is the one on its own process times W: the backward pass needs no communication.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from relgraph.errors import RelgraphError
from relgraph.gradients import once_differentiable

# The file in which processes of one machine meet, where the launcher names one: a port would listen to all the world.
MEETING = "RELGRAPH_MEETING"
# How long a process waits where others may have hours of work that it has not; a process that is gone ends it at once.
PATIENCE = timedelta(days=365)
T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process and the number of processes; a single process communicates nothing.

    Attributes:
        rank: Number of this process, from 0.
        count: W, the number of processes.

    >>> ProcessGroup().sum(torch.ones(2)), ProcessGroup(1, 2).rows(6)
    (tensor([1., 1.]), slice(3, 6, None))
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "ProcessGroup":
        """Return the default group of `torch.distributed`; if there is none, a single process."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return SINGLE_PROCESS
        return cls(distributed.get_rank(), distributed.get_world_size())

    @classmethod
    def launched(cls) -> "ProcessGroup":
        """Return the group that a launcher such as torchrun has set in the environment; otherwise one process."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and lines."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return the rows of `count` that this process holds.

        Raises:
            RelgraphError: if `count` is not a multiple of the number of processes.
        """
        each, rest = divmod(count, self.count)
        if rest:
            raise RelgraphError(f"a batch is split evenly over {self.count} processes, got {count} images")
        return slice(self.rank * each, (self.rank + 1) * each)

    def share(self, count: int) -> slice:
        """Return the rows of `count` that this process works on; shares are disjoint and almost equal."""
        each, rest = divmod(count, self.count)
        start = self.rank * each + min(self.rank, rest)
        return slice(start, start + each + (self.rank < rest))

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of all processes, `(N / W, ...) -> (N, ...)`, with gradient, once differentiable."""
        own = slice(self.rank * len(x), (self.rank + 1) * len(x))
        return self._shared(x, lambda rows: torch.cat(self._all(rows)), own)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the processes of tensors of one shape, with gradient, once differentiable."""
        return self._shared(x, self._total, ...)

    @torch.no_grad()
    def maximum(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum over the processes, without gradient."""
        if self.count == 1:
            return x.detach()
        largest = x.detach().clone()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest

    @torch.no_grad()
    def mean_(self, x: Tensor) -> Tensor:
        """Replace the elements of a tensor by their means over the processes, in place, and return it."""
        if self.count > 1:
            distributed.all_reduce(x)
            x /= self.count
        return x

    @torch.no_grad()
    def collect(self, x: Tensor) -> Tensor:
        """Return the rows of all processes, which may hold different numbers of them (`share`), without gradient."""
        if self.count == 1:
            return x
        counts = self._all(torch.tensor([len(x)], device=x.device))
        most = int(torch.cat(counts).max())
        padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
        return torch.cat([part[: int(n)] for part, n in zip(self._all(padded), counts, strict=True)])

    def check_alike(self, facts: Mapping[str, int]) -> None:
        """Check that all processes have the same facts, in the same order: with others, a collective call would abort.

        Raises:
            RelgraphError: on all of them, if one differs.
        """
        if self.count == 1:
            return
        device = "cpu" if distributed.get_backend() != "nccl" else torch.cuda.current_device()
        rows = torch.stack(self._all(torch.tensor(list(facts.values()), device=device))).tolist()
        for name, *found in zip(facts, *rows, strict=True):
            if len(set(found)) > 1:
                shown = "others" if max(found) >= 2**31 else " and ".join(map(str, dict.fromkeys(found)))
                raise RelgraphError(f"all processes must have the same {name}, got {shown}")

    def agreed(self, value: str) -> str:
        """Return the first process's text."""
        texts = [value]
        if self.count > 1:
            distributed.broadcast_object_list(texts)
        return texts[0]

    def wait(self) -> None:
        """Wait for all processes, however long one of them works (barrier)."""
        self.exchange(None)

    def exchange(self, value: T) -> list[T]:
        """Return what each process gives, in their order, however long one of them takes until it does."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value, group=_patient(distributed.group.WORLD))
        return values

    def to_first(self, value: T) -> list[T]:
        """Return to the first process what each one gives, in their order, and to the others nothing."""
        if self.count == 1:
            return [value]
        values = [value] * self.count if self.first else None
        distributed.gather_object(value, values, group=_patient(distributed.group.WORLD))
        return values or []

    def all_or_none(self, call: Callable[[], T]) -> T:
        """Return what a function returns on this process, once it has ended on all of them.

        Raises:
            RelgraphError: on all of them, if it raises one on any.
        """
        if self.count == 1:
            return call()
        found, told = list[T](), None
        try:
            found.append(call())
        except RelgraphError as error:
            told = str(error)
        for text in self.exchange(told):
            if text is not None:
                raise RelgraphError(text)
        return found[0]

    def _shared(self, x: Tensor, compute: Callable[[Tensor], Tensor], own: Any) -> Tensor:
        if self.count == 1:
            return x
        shared: Tensor = _Shared.apply(x, compute, own, self.count)
        return shared

    def _total(self, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    def _all(self, x: Tensor) -> list[Tensor]:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.count)]
        distributed.all_gather(parts, x)
        return parts


SINGLE_PROCESS = ProcessGroup()


@cache
def _patient(world: Any) -> Any:
    """Return a group of all processes with `PATIENCE`, which the default one has not: NCCL gives up in minutes."""
    return distributed.new_group(timeout=PATIENCE, backend="gloo")


class _Shared(torch.autograd.Function):
    """What all processes compute from their tensors; the gradient is that of this process's own part, times W."""

    @staticmethod
    def forward(x: Tensor, compute: Callable[[Tensor], Tensor], own: Any, count: int) -> Tensor:
        return compute(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.own, ctx.count = inputs[2:]

    @staticmethod
    @once_differentiable("compute it in one process")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient[ctx.own] * ctx.count, None, None, None
