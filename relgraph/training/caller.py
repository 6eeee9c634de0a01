"""What a training leaves to the program that calls it as it was: torch's number of threads and its random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def caller_kept() -> Iterator[None]:
    """Put torch's number of threads and the state of its global generators back, however the block ends.

    The generators are that of the CPU and, if CUDA is in use already, those of all its devices.
    """
    threads = torch.get_num_threads()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if in_use else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)
