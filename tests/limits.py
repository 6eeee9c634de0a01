"""A program that may hold little memory."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])


def limit_data(more: int) -> int:
    """Let this process have so many bytes of data more than it has now, and return how many it has.

    Linux counts private writable memory as data; files that are mapped to be read it does not.
    """
    import resource  # which other systems have not

    lines = Path("/proc/self/status").read_text().splitlines()
    held = 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (held + more, resource.RLIM_INFINITY))
    return held


def run(code: str, *arguments: object, threshold: int = 1_000_000) -> "subprocess.CompletedProcess[str]":
    """Return how Python code ended that may import `limit_data` from here, on one thread.

    What is freed of at least `threshold` bytes goes back to the system, so that a limit is on what is held.
    """
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(threshold), "PYTHONPATH": ROOT}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)
