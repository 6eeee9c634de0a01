"""A trial at the start of a long command: how many threads compute, and whether the network is compiled.

Threads that wait cost more than they bring, and compiling takes time that must pay. Two cores of an AMD EPYC beside one
other busy process (`yes`), resnet8x4 on digits in batches of 64: 588 images/s on two threads, 1,483 on one, medians of
three runs; without that process 1,600 and 1,457, one run each (`relgraph train --student resnet8x4 --epochs 2
--labels-per-class 0 --threads 2`).
"""

import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relgraph.data.images import ImageSet
from relgraph.files import first_line
from relgraph.outputs import Batch, StepInputs
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.runs import Kind

if TYPE_CHECKING:
    from relgraph.training.feed import Feed

Work = Callable[[], object]  # a step of a trial
Trial = Callable[[], Work | None]
NOTABLE = 2.0  # how many times as fast another number of threads must be, to be mentioned
LONG = 1.0  # seconds of a trial that is not repeated
TRIED = 1_800  # seconds of training from which on a trial is worth its own time: compiling takes tens of seconds
REPEATED = 3  # steps whose fastest counts


def with_threads(recipe: Kind, work: Work | None, processes: ProcessGroup = SINGLE_PROCESS) -> tuple[Kind, str]:
    """Set torch's number of threads, and return the recipe with it in place of "auto", and a line to add, or "".

    A number is taken as it is. "auto" takes the number with which `work` was fastest just now, of 1, 2, 4, ... and all
    that torch would use. `None` keeps all of them, so that a seed gives the same numbers, and the line says when
    another number was more than twice as fast. Several processes try at the same time, and take the first one's number;
    without `work` nothing is tried.
    """
    every, auto = torch.get_num_threads(), recipe.threads == "auto"
    if isinstance(recipe.threads, int):
        torch.set_num_threads(recipe.threads)
        return recipe, ""
    if every == 1 or work is None:
        return replace(recipe, threads=every) if auto else recipe, ""
    seconds = {count: _seconds(count, work) for count in candidates(every)}
    best = int(processes.agreed(str(min(seconds, key=lambda count: seconds[count]))))
    torch.set_num_threads(best if auto else every)
    if auto:
        return replace(recipe, threads=best), f"\nthreads: {best} of {every}, the fastest in a trial"
    gain = seconds[every] / seconds[best]
    faster = f"{gain:.1f}" if gain < 10 else "over 10"  # a trial is no measurement
    line = f"\nthreads: {every}, but {best} would be {faster} times as fast just now: --threads {best} or auto"
    return recipe, line if gain > NOTABLE else ""


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
) -> Work | None:  # fmt: skip
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


def decided(recipe: Kind, trial: Callable[..., Work | None], steps: int, processes: ProcessGroup) -> tuple[Kind, str]:
    """Return a recipe whose `threads` and `compile` are no longer "auto", and lines on them to add to a note.

    `trial` makes a step for a trial, of the network as it is or compiled (see `trial_step`).
    """
    recipe, line = with_threads(recipe, trial(), processes)
    recipe, told = with_compiler(recipe, trial, partial(trial, compiled=True), steps, processes)
    return recipe, line + told


def with_compiler(
    recipe: Kind, plain: Trial, compiled: Trial, steps: int, processes: ProcessGroup = SINGLE_PROCESS
) -> tuple[Kind, str]:
    """Return a recipe whose `compile` is true or false where it was "auto", and a line to add that says why.

    "auto" compiles where the run pays for it. `plain` and `compiled` make a step for a trial, forward and backward, of
    which the run takes so many `steps`. It is timed; where the whole run takes longer than half an hour by it, the
    compiled one is timed as well, and the network is compiled if that saves more than compiling took.
    Several processes take the first one's answer. A resumed run keeps it, so that it ends with the same weights.
    """
    if recipe.compile != "auto":
        return recipe, ""
    found, told = _pays(plain, compiled, steps)
    answer = processes.agreed(f"{'yes' if found else 'no'}, {told}")
    return replace(recipe, compile=answer.startswith("yes")), f"\ncompile: {answer}"


def _pays(plain: Trial, compiled: Trial, steps: int) -> tuple[bool, str]:
    """Return whether compiling saves time over so many steps, and why."""
    work = plain()
    if work is None:
        return False, "which is tried on a CPU alone"
    _, before = _times(work)
    if before * steps < TRIED:
        return False, f"the run takes some {_minutes(before * steps)} without"
    work = compiled()
    assert work is not None
    try:
        cost, after = _times(work)
    except Exception as error:  # of torch's compiler, whose kinds are its own
        return False, f"it does not work here: {first_line(error)}"
    saved = (before - after) * steps
    told = f"a step takes {1e3 * after:.0f} ms in place of {1e3 * before:.0f}, and compiling {cost:.0f} s"
    return saved > cost, told


def _times(work: Work) -> tuple[float, float]:
    """Return the seconds of the first step, and those of the fastest of some others."""
    found = []
    for _ in range(1 + REPEATED):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found[0], min(found[1:])


def _minutes(seconds: float) -> str:
    """Return a duration in words.

    >>> _minutes(40.0), _minutes(150.0)
    ('40 s', '2.5 minutes')
    """
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} minutes"
