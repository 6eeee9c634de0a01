"""`relgraph_cli.memory`: what the C library does with memory that was freed, in programs of their own."""

import ctypes
import os
import subprocess
import sys

import pytest
from relgraph_cli.memory import TUNED

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
# Prints for how many pages of 64 MiB, asked for and freed ten times, the system had to find memory.
PROGRAM = """
import resource
from relgraph_cli.memory import keep_memory
{before}
SIZE = 2**26  # not a constant expression
b"x" * SIZE
known = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * SIZE
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - known) * resource.getpagesize() / 2**26)
"""


def faults(before: str, **environment: str) -> float:
    """Return how many times the system had to find 64 MiB."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(TUNED)}
    program = [sys.executable, "-c", PROGRAM.format(before=before)]
    found = subprocess.run(program, env=bare | environment, capture_output=True, text=True, check=True)
    return float(found.stdout)


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_freed_memory_is_kept_unless_a_user_has_chosen() -> None:
    assert faults("keep_memory()") < 1
    as_before = faults("")
    assert as_before > 9
    assert faults("keep_memory()", MALLOC_ARENA_MAX="2") > 9
