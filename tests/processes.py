"""A function run in several processes at once, joined by gloo: what one process computes, n must compute as well."""

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import distributed

from relgraph.processes import ProcessGroup

ROOT = str(Path(__file__).parents[1])
# A server imports these once and forks each process, which finds them there.
PRELOADED = ["pytest", "torch.distributed", "torch._dynamo", "torch_geometric.data", "relgraph.training.distillation"]
T = TypeVar("T")


def run_on(count: int, function: Callable[..., T], tmp_path: Path, *args: object, seconds: float = 120) -> list[T]:
    """Return what `function(processes, *args)` returns in each of `count` processes, by rank.

    The function stands at the top of its module, so that its processes can import it; it and its arguments are
    pickled. Each process has one thread, torch's seed 0 and a default group of gloo. A failure in one of them fails the
    test with its traceback and ends the others; so does a run of more than `seconds`.
    """
    __tracebackhide__ = True
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    if ROOT not in sys.path:  # the processes look where this one does
        sys.path.insert(0, ROOT)
    processes: list[BaseProcess] = [
        context.Process(target=_run, args=(rank, count, folder, seconds, function, args), daemon=True)
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    complaint = _finish(processes, folder, seconds)
    if complaint:
        pytest.fail(complaint, pytrace=False)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _run(rank: int, count: int, folder: Path, seconds: float, function: Callable[..., T], args: tuple[object]) -> None:
    try:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        meeting, limit = f"file://{folder / 'meeting'}", timedelta(seconds=seconds)
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=limit)
        torch.save(function(ProcessGroup.current(), *args), folder / f"{rank}.pt")
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)


def _finish(processes: list[BaseProcess], folder: Path, seconds: float) -> str:
    """Wait for the processes, end them where one fails or the time is over, and return what went wrong."""
    end = time.monotonic() + seconds
    running = list(processes)
    while running and all(process.exitcode in (None, 0) for process in processes) and time.monotonic() < end:
        wait([process.sentinel for process in running], timeout=max(0, end - time.monotonic()))
        running = [process for process in running if process.is_alive()]
    for process in running:
        process.kill()
    for process in processes:
        process.join()
    # What broke first broke the others.
    errors = sorted(folder.glob("*.error"), key=lambda file: file.stat().st_mtime_ns)
    if errors:
        return "\n".join(f"process {file.stem} of {len(processes)}:\n{file.read_text('utf-8')}" for file in errors)
    if any(process.exitcode for process in processes):
        states = ", ".join(str(process.exitcode) for process in processes)
        return f"{len(processes)} processes ended with {states} after at most {seconds:g} seconds"
    return ""
