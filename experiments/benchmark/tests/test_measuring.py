"""Times taken in turn, and the memory of a process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark.memory import in_own_process, peak_resident
from benchmark.timing import Start, in_turn, spread

CPU = torch.device("cpu")


def recorder(name: str, calls: list[tuple[str, int]]) -> Start:
    def start(n: int) -> Iterator[None]:
        calls.append((name, n))
        yield

    return start


def test_every_way_is_warmed_up_and_then_timed_in_every_round() -> None:
    calls: list[tuple[str, int]] = []
    tasks = {name: recorder(name, calls) for name in "abc"}
    times = in_turn(tasks, rounds=2, repetitions=4, device=CPU)
    warm_up = [(name, 1) for name in "aabbcc"]
    assert calls == [*warm_up, *((name, 4) for name in "abc"), *((name, 4) for name in "bca")]
    assert [len(times[name].samples) for name in "abc"] == [2, 2, 2]
    assert all(sample > 0 for name in "abc" for sample in [times[name].first, *times[name].samples])


def test_what_is_slow_is_repeated_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr("benchmark.timing.WINDOW", 1e-12)
    in_turn({"a": recorder("a", calls)}, rounds=1, repetitions=9, device=CPU)
    assert calls == [("a", 1)] * 3


def test_getting_ready_is_not_repeating() -> None:
    seen: list[str] = []

    def start(n: int) -> Iterator[None]:
        seen.append("ready")
        yield
        for _ in range(n):
            seen.append("step")
            yield

    in_turn({"a": start}, rounds=1, repetitions=2, device=CPU)
    assert seen == ["ready", "step"] * 2 + ["ready", "step", "step"]
    assert spread([4.0, 1.0, 2.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    before = peak_resident()
    assert before is not None
    block = bytearray(before)  # twice what there was, written and let go
    del block
    after = peak_resident()
    assert after is not None and after >= 1.5 * before


def test_another_process_runs_it() -> None:
    assert in_own_process(os.getpid) != os.getpid()
