"""How many threads compute: a trial at the start of a long command, since threads that wait cost more than they bring.

Two cores of an AMD EPYC beside one other busy process (`yes`), resnet8x4 on digits in batches of 64: 588 images/s on
two threads, 1,483 on one, medians of three runs; without that process 1,600 and 1,457, one run each (`relgraph train
--student resnet8x4 --epochs 2 --labels-per-class 0 --threads 2`).
"""

import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.outputs import Batch, StepInputs
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.recipe import BaseRecipe

if TYPE_CHECKING:
    from relgraph.training.feed import Feed

Threads = int | Literal["auto"] | None
NOTABLE = 2.0  # how many times as fast another number of threads must be, to be mentioned
LONG = 1.0  # seconds of a trial that is not repeated


def choose_threads(
    asked: Threads, work: Callable[[], object] | None, processes: ProcessGroup = SINGLE_PROCESS
) -> tuple[int, str | None]:
    """Set torch's number of threads, and return it and, if there is something to say, a line for the user.

    A number is taken as it is. "auto" takes the number with which `work` was fastest just now, of 1, 2, 4, ... and all
    that torch would use. `None` keeps all of them, so that a seed gives the same numbers, and the line says when
    another number was more than twice as fast. Several processes try at the same time, and take the first one's number;
    without `work` nothing is tried.

    Raises:
        RelgraphError: for a number below 1.
    """
    if isinstance(asked, int):
        if asked < 1:
            raise RelgraphError(f"threads must be at least 1 or auto, got {asked}")
        torch.set_num_threads(asked)
        return asked, None
    every = torch.get_num_threads()
    if every == 1 or work is None:
        return every, None
    seconds = {count: _seconds(count, work) for count in candidates(every)}
    best = int(processes.agreed(str(min(seconds, key=lambda count: seconds[count]))))
    torch.set_num_threads(best if asked == "auto" else every)
    gain = seconds[every] / seconds[best]
    if asked == "auto":
        return best, f"threads: {best} of {every}, the fastest in a trial"
    faster = f"{gain:.1f}" if gain < 10 else "over 10"  # a trial is no measurement
    line = f"threads: {every}, but {best} would be {faster} times as fast just now: --threads {best} or auto"
    return every, line if gain > NOTABLE else None


AnyRecipe = TypeVar("AnyRecipe", bound=BaseRecipe)


def with_threads(
    recipe: AnyRecipe, work: Callable[[], object] | None, processes: ProcessGroup = SINGLE_PROCESS
) -> tuple[AnyRecipe, str]:
    """Set the threads that a recipe asks for, and return it with the number in place of "auto", and a line to add."""
    threads, line = choose_threads(recipe.threads, work, processes)
    found = replace(recipe, threads=threads) if recipe.threads == "auto" else recipe
    return found, "" if line is None else f"\n{line}"


def candidates(every: int) -> list[int]:
    """Return the numbers of threads that are tried, the largest first.

    >>> candidates(6)
    [6, 4, 2, 1]
    """
    return [every, *(2**power for power in reversed(range(every.bit_length())) if 2**power < every)]


def _seconds(count: int, work: Callable[[], object]) -> float:
    """Return the time that `work` takes with a number of threads: the less of two, after one that warms up."""
    torch.set_num_threads(count)
    found: list[float] = []
    while not found or (len(found) < 3 and found[-1] < LONG):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found[1:] or found)


def trial_step(
    fabric: Any, network: nn.Module, loss: Callable[[nn.Module, StepInputs], Tensor], feed: "Feed", train: ImageSet,
    batch_size: int, compiled: bool = False,
) -> Callable[[], object] | None:  # fmt: skip
    """Return a step for a trial: inputs of the first images, `loss` of a network for them, forward and backward.

    It reads a copy of the network, so that a trial changes nothing, `compiled` if that is tried. `None` on a GPU, which
    leaves threads little to do.
    """
    if fabric.device.type != "cpu":
        return None
    copy, index = deepcopy(network).train(), torch.arange(min(batch_size, len(train)))
    if compiled:
        copy.compile()
    with closing(train.batches([index])) as batches:
        images = next(batches)
    batch = Batch(index, train.labels[index])

    def work() -> None:
        with torch.random.fork_rng(devices=[]), fabric.autocast():
            found = loss(copy, feed(images, batch, torch.Generator()))
        found.float().backward()  # type: ignore[no-untyped-call]

    return work
