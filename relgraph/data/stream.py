"""Batches of images decoded ahead of their use by worker processes."""

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Generator as RandomGenerator
from torch import Tensor
from torch.utils.data import DataLoader

from relgraph.errors import RelgraphError

T = TypeVar("T")


def stream(
    decode: Callable[[NDArray[np.int64]], T], indices: Iterable[Tensor], workers: int, pin_memory: bool
) -> Generator[T, None, None]:
    """Yield `decode(index)` for each index tensor, in order; close it to end the workers.

    Each worker is two batches ahead; with 0 workers this process decodes, without being ahead.

    Raises:
        RelgraphError: what `decode` raises, or if a worker dies.
    """
    # numpy: each tensor sent to a spawned worker would hold a file open.
    batches: Any = [index.cpu().numpy() for index in indices]
    options: dict[str, Any] = {"num_workers": min(workers, len(batches)), "pin_memory": pin_memory}
    # Its own generator: a seed drawn from torch's would change the random numbers of the training.
    options |= {"worker_init_fn": _keep_quiet, "generator": RandomGenerator()}
    with _uninterrupted(), warnings.catch_warnings():
        # The number of workers is the user's choice; and workers touch nothing that the threads of this process hold.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        loaded = iter(DataLoader(batches, batch_size=None, collate_fn=partial(_decoded, decode), **options))
    try:
        for _ in batches:
            batch = next(loaded)
            if isinstance(batch, str):
                raise RelgraphError(batch)
            yield batch
    except RuntimeError as error:  # what DataLoader raises for a worker that was killed or lacks memory
        reason = " ".join(str(error).split())
        raise RelgraphError(f"a process that decodes images failed ({reason}): try fewer --workers, or 0") from error
    finally:
        with _uninterrupted():
            del loaded  # the last reference: this ends the workers


def _decoded(decode: Callable[[NDArray[np.int64]], T], index: NDArray[np.int64]) -> T | str:
    """Return a decoded batch, or the error message where decoding failed."""
    try:
        return decode(index)
    except RelgraphError as error:
        return str(error)  # raised here, it would reach the user inside the worker's traceback


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: workers that are half started or half ended print tracebacks."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # interrupts are not raised here, or not by Python
        return
    late: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: late.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if late:
            signal.raise_signal(signal.SIGINT)


def _keep_quiet(worker: int) -> None:
    # Ctrl-C reaches the whole group of processes; the main one ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Through this hook alone, a thread of multiprocessing reports that the main process left amid a batch.
    sys.excepthook = lambda kind, error, traceback: None
