"""Times of several tasks, taken in turn, so that a drift of the machine's speed affects them alike."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import torch

WINDOW = 1.0  # seconds: what is slow is repeated less often, but at least once a round

# `start(n)` gets ready and yields, which is not timed; all that follows is timed, and that is n repetitions.
Start = Callable[[int], Iterator[None]]


@dataclass(frozen=True)
class Times:
    """Seconds a repetition, one sample a round, and those of the very first one, compilation and caches included."""

    first: float
    samples: list[float]


def in_turn(
    tasks: Mapping[str, Start],
    *,
    rounds: int,
    repetitions: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Return the times of each task: after two repetitions to warm up, each has one window of time in every round.

    A window holds at most so many `repetitions`, fewer where they would take longer than a second. Each round begins
    with the next task, so that none always follows the same one. `clock` returns seconds, such as `time.process_time`.

    >>> def nothing(n):
    ...     yield
    >>> times = in_turn({"nothing": nothing}, rounds=3, repetitions=2, device=torch.device("cpu"))
    >>> len(times["nothing"].samples)
    3
    """
    names, first, counts = list(tasks), {}, {}
    for name in names:
        progress(f"warm-up: {name}")
        first[name] = _seconds(tasks[name], 1, device, clock)
        counts[name] = min(repetitions, max(1, round(WINDOW / _seconds(tasks[name], 1, device, clock))))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            samples[name].append(_seconds(tasks[name], counts[name], device, clock) / counts[name])
    return {name: Times(first[name], samples[name]) for name in names}


def _seconds(start: Start, repetitions: int, device: torch.device, clock: Callable[[], float]) -> float:
    running = start(repetitions)
    next(running)
    _wait(device)
    begin = clock()
    for _ in running:
        pass
    _wait(device)
    return max(clock() - begin, 1e-9)  # a clock may be too coarse for it


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: list[float]) -> dict[str, float]:
    """Return `median`, `min` and `max`.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}
