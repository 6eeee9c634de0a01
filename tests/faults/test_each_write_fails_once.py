"""A disk that is full, or an interrupt, at every write, sync and rename of a run: what was there stays, and goes on."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.errors import RelgraphError
from relgraph.files import LEFTOVER
from relgraph.training.checkpoint import load_checkpoint
from tests.checks import case
from tests.training.conftest import outcome
from tests.training.counting import SOME, counting, run

# What makes, fills and flushes a file; a table or a text is filled by `write_bytes`, a checkpoint by torch.
# The test of the trainer stops a run before each move.
CALLS: dict[str, tuple[Any, str]] = {
    "made": (tempfile, "mkstemp"),
    "filled": (Path, "write_bytes"),
    "filled by torch": (torch, "save"),
    "synced": (os, "fsync"),
}


@contextmanager
def failing(owner: Any, name: str, number: int, error: BaseException | None) -> Iterator[list[int]]:
    """Let the call of that number fail, half of what it writes written; yields the calls so far."""
    original: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) - 1 != number or error is None:
            return original(*arguments, **options)
        if name == "write_bytes":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if name == "save":
            arguments[1].write(b"PK\3\4")
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield calls


@pytest.mark.slow
def test_each_write_of_a_run_fails_once(tmp_path: Path) -> None:
    run(counting(SOME, "knn"), tmp_path / "whole")
    whole = outcome(tmp_path / "whole")
    after_the_first_epoch = 0
    for kind, (what, (owner, name)) in enumerate(CALLS.items()):
        with failing(owner, name, -1, None) as calls:
            run(counting(SOME, "knn"), tmp_path / f"counted {what}")
        # Of each kind every second pair of calls, in turn: a full disk, then an interrupt.
        for number in (number for number in range(len(calls)) if number // 2 % 2 == kind % 2):
            full = number % 2 == 0
            error: BaseException = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else KeyboardInterrupt()
            path = tmp_path / f"{what} {number}"
            with case(what, number), failing(owner, name, number, error):
                with pytest.raises(RelgraphError if full else KeyboardInterrupt) as told:
                    run(counting(SOME, "knn"), path)
                assert not full or "No space left on device" in str(told.value)
            left = [entry.name for entry in path.iterdir()] if path.exists() else []
            assert not any(map(LEFTOVER.fullmatch, left)), "an error or an interrupt leaves no half of a file"
            if "last.ckpt" in left:
                after_the_first_epoch += 1
                load_checkpoint(path / "last.ckpt")
            with case(what, number, "resumed"):
                run(counting(SOME, "knn"), path, resume="recipe.yaml" in left)
                assert outcome(path) == whole
    assert after_the_first_epoch > 20
