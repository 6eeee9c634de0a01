"""How quick a network is on this machine."""

import time
from collections.abc import Callable
from statistics import median

BATCH = 64  # images of a timed call
REPEATS, SECONDS = 5, 0.5  # a time is the median of so many calls, or of as many as fill this time


def images_per_second(call: Callable[[], object], count: int) -> float:
    """Return how many images a second a call of `count` images computes: the median of calls, after one that warms up.

    On a GPU a call must wait for its result, as `.cpu()` does.
    """
    call()
    seconds: list[float] = []
    while len(seconds) < REPEATS or sum(seconds) < SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return count / median(seconds)
