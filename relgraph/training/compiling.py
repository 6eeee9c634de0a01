"""Whether the network is compiled: a trial at the start of a long command, since compiling takes time that must pay."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from relgraph.files import first_line
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.threads import AnyRecipe, with_threads

Work = Callable[[], object]
Trial = Callable[[], Work | None]
TRIED = 1_800  # seconds of training from which on a trial is worth its own time: compiling takes tens of seconds
REPEATED = 3  # steps whose fastest counts


def decided(
    recipe: AnyRecipe, trial: Callable[..., Work | None], steps: int, processes: ProcessGroup
) -> tuple[AnyRecipe, str]:
    """Return a recipe whose `threads` and `compile` are no longer "auto", and lines on them to add to a note.

    `trial` makes a step for a trial, of the network as it is or compiled (see `trial_step`).
    """
    recipe, line = with_threads(recipe, trial(), processes)
    recipe, told = with_compiler(recipe, trial, partial(trial, compiled=True), steps, processes)
    return recipe, line + told


def with_compiler(
    recipe: AnyRecipe, plain: Trial, compiled: Trial, steps: int, processes: ProcessGroup = SINGLE_PROCESS
) -> tuple[AnyRecipe, str]:
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
