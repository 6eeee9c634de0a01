"""The helper that runs a function in several processes: results by rank, failures and hangs told."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relgraph.processes import ProcessGroup
from tests.processes import run_on


def _total(processes: ProcessGroup, start: Tensor) -> tuple[int, Tensor]:
    return processes.rank, processes.sum(start + processes.rank)


def _fail_on_the_last(processes: ProcessGroup) -> None:
    if processes.rank == processes.count - 1:
        raise ValueError("the last one fails")
    processes.sum(torch.ones(1))


def _leave(processes: ProcessGroup) -> None:
    os._exit(3)


def _sleep(processes: ProcessGroup) -> None:
    if processes.rank == 1:
        time.sleep(600)
    processes.sum(torch.ones(1))


def test_results_come_by_rank(tmp_path: Path) -> None:
    for count in (1, 3):
        results = run_on(count, _total, tmp_path, torch.tensor([10.0]))
        assert [rank for rank, _ in results] == list(range(count))
        assert all(total == 10 * count + sum(range(count)) for _, total in results)


def test_a_failure_is_told_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"process 1 of 2:\nTraceback[^$]*the last one fails"):
        run_on(2, _fail_on_the_last, tmp_path)


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"2 processes ended with .*3"):
        run_on(2, _leave, tmp_path)


def test_a_hang_ends(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"^(?:process \d of 2|2 processes ended with)"):
        run_on(2, _sleep, tmp_path, seconds=3)
