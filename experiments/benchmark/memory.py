"""How much memory a process has held at most."""

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from relgraph.errors import RelgraphError


def peak_resident() -> int | None:
    """Return the most memory in bytes that this process has had resident, None where Linux's /proc is not there.

    `resource.getrusage` would not do: after `exec` it still counts the memory of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function, called in a new Python process.

    Raises:
        RelgraphError: if that process is killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise RelgraphError("a process that measured memory was killed: there may be too little of it") from error


def _quiet() -> None:
    """Silence in a new process the warnings that the command line silences in its own."""
    warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
