"""How many threads compute, and whether a network is compiled: what a trial says, of times that the test makes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.data.images import ImageSet
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from relgraph.training.stores import try_threads
from relgraph.training.trials import Trial, with_compiler, with_threads
from tests.checks import assert_refused_like


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Replace the clock by one that only a step's work moves."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    yield now


def trial(clock: list[float], seconds: float, first: float | None = None) -> Trial:
    """Return a trial whose steps take so long, and the first of them `first`."""
    taken = iter([seconds if first is None else first])

    def work() -> None:
        clock[0] += next(taken, seconds)

    return lambda: work


@pytest.mark.parametrize(
    ("before", "after", "cost", "steps", "found", "told"),
    [
        (0.1, 0.08, 30.0, 100_000, True, "yes, a step takes 80 ms in place of 100, and compiling 30 s"),
        (0.1, 0.0999, 30.0, 100_000, False, "no, a step takes 100 ms in place of 100, and compiling 30 s"),
        (0.1, 0.2, 30.0, 100_000, False, "no, a step takes 200 ms in place of 100, and compiling 30 s"),
        (0.1, 0.01, 1.0, 1_000, False, "no, the run takes some 1.7 minutes without"),
        (0.1, 0.01, 1.0, 300, False, "no, the run takes some 30 s without"),
    ],
)
def test_auto_compiles_what_pays(
    clock: list[float], before: float, after: float, cost: float, steps: int, found: bool, told: str
) -> None:
    plain, compiled = trial(clock, before, 9.0), trial(clock, after, cost)
    recipe, line = with_compiler(Recipe(compile="auto"), plain, compiled, steps)
    assert (recipe.compile, line) == (found, f"\ncompile: {told}")


def test_without_a_compiler_or_a_trial_auto_is_no(clock: list[float]) -> None:
    def none() -> Callable[[], object]:
        def work() -> None:
            raise RuntimeError("no C++ compiler\nin so many lines")

        return work

    recipe, line = with_compiler(Recipe(compile="auto"), trial(clock, 1.0), none, 10_000)
    assert (recipe.compile, line) == (False, "\ncompile: no, it does not work here: no C++ compiler")
    recipe, line = with_compiler(Recipe(compile="auto"), lambda: None, none, 10_000)
    assert (recipe.compile, line) == (False, "\ncompile: no, which is tried on a CPU alone")


@pytest.mark.parametrize("asked", [True, False])
def test_an_answer_is_kept_without_a_trial(asked: bool) -> None:
    recipe = Recipe(compile=asked)
    assert with_compiler(recipe, lambda: 1 / 0, lambda: 1 / 0, 1) == (recipe, "")  # type: ignore[arg-type, return-value]


def test_a_resumed_run_keeps_the_answers_of_its_trials(tmp_path: Path) -> None:
    asked = Recipe(compile="auto", threads="auto", epochs=3)
    run = RunDirectory.create(tmp_path / "run", replace(asked, compile=False, threads=1))
    assert run.decided(asked) == replace(asked, compile=False, threads=1)
    run.check_recipe(asked)
    assert_refused_like((lambda: run.check_recipe(replace(asked, compile=True)), "compile was False, is now True"))


@pytest.mark.parametrize(
    ("asked", "seconds", "kept", "used", "told"),
    [
        ("auto", {4: 0.9, 2: 0.1, 1: 0.2}, 2, 2, "\nthreads: 2 of 4, the fastest in a trial"),
        ("auto", {4: 0.1, 2: 0.2, 1: 0.3}, 4, 4, "\nthreads: 4 of 4, the fastest in a trial"),
        (None, {4: 0.9, 2: 0.3, 1: 0.2}, None, 4,
         "\nthreads: 4, but 1 would be 4.5 times as fast just now: --threads 1 or auto"),
        (None, {4: 0.9, 2: 0.5, 1: 0.46}, None, 4, ""),
        (3, {}, 3, 3, ""),
    ],
)  # fmt: skip
def test_threads_are_tried_and_kept(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Any,
    seconds: dict[int, float], kept: int | None, used: int, told: str,
) -> None:  # fmt: skip
    now = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))

    def work(*_: object) -> Tensor:
        clock[0] += seconds[now[0]]
        return torch.zeros(1)

    recipe, line = with_threads(Recipe(threads=asked), work)
    assert (recipe.threads, now[0], line) == (kept, used, told)
    now[0] = 4
    images = ImageSet(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2), (), "train", torch.arange(2))
    recipe = try_threads(Recipe(threads=asked), images, work, 2)
    assert (recipe.threads, now[0], capsys.readouterr().out.strip()) == (kept, used, told.strip())
    assert recipe.processes <= (kept or 8), "processes that decode images are no more than these threads"
