"""Worker processes: what they leave behind, and what an interrupt prints."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.data.stream import _uninterrupted, stream
from relgraph.errors import RelgraphError
from tests.checks import assert_refused_like

INDICES = [torch.tensor([i, i + 1]) for i in range(12)]


def decode(index: np.ndarray) -> Tensor:
    return torch.from_numpy(index.astype(np.uint8))


def refuse_three(index: np.ndarray) -> Tensor:
    if 3 in index:
        raise RelgraphError("expected no three, found 3")
    return decode(index)


def die(index: np.ndarray) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return decode(index)


def batches(decoder: object = decode, workers: int = 2, indices: Sequence[Tensor] = INDICES):  # type: ignore[no-untyped-def]
    return stream(decoder, indices, workers, pin_memory=False)  # type: ignore[arg-type]


def no_children() -> bool:
    """Return whether all worker processes are gone; they are joined, so none needs to be waited for."""
    return multiprocessing.active_children() == []


def test_all_batches_and_then_no_workers_nor_other_random_numbers() -> None:
    before = torch.get_rng_state()
    for workers in (0, 2):
        assert [batch.tolist() for batch in batches(workers=workers)] == [[i, i + 1] for i in range(12)]
        assert no_children() and torch.equal(torch.get_rng_state(), before)


def test_workers_have_work_and_end_with_it() -> None:
    for early in (batches(), batches(workers=8, indices=INDICES[:2])):
        next(early)
        assert len(multiprocessing.active_children()) == 2
        early.close()
        assert no_children()


def test_an_exception_in_the_consumer_ends_the_workers() -> None:
    def consume() -> None:
        for batch in batches():
            assert batch.tolist() == [0, 1]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert no_children()


def test_an_error_in_a_worker_is_the_same_error_here() -> None:
    failing = batches(refuse_three)
    assert [next(failing).tolist(), next(failing).tolist()] == [[0, 1], [1, 2]]
    with pytest.raises(RelgraphError, match=r"^expected no three, found 3$"):
        next(failing)
    assert no_children(), "though the exception is still alive"


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    told = r"a process that decodes images failed \(.*try fewer --workers"
    assert_refused_like((lambda: next(batches(die)), told))


def test_an_interrupt_while_workers_start_or_end_comes_afterwards() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell switches it off in the background
    seen = []
    try:
        with pytest.raises(KeyboardInterrupt), _uninterrupted():
            signal.raise_signal(signal.SIGINT)
            seen.append("the end of the block")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["the end of the block"]


# Workers start and end all the time, since that is when an interrupt does most harm.
INTERRUPTED = """
import sys, torch
from relgraph.data.stream import stream

if __name__ == "__main__":
    indices = [torch.tensor([i]) for i in range(6)]
    try:
        for epoch in range(1000):
            for batch in stream(torch.from_numpy, indices, 2, False):
                pass
            if epoch == 2:
                print("ready", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
def test_an_interrupt_of_the_whole_group_prints_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,  # a group of its own, as a shell gives it, for Ctrl-C to reach
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    with pytest.raises(ProcessLookupError):  # none is left, or will be in a moment
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.05)
