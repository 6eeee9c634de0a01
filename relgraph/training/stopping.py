"""A scheduler's request to stop (SIGTERM), which ends a training after the step that runs, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from relgraph.processes import ProcessGroup

ASKED = threading.Event()  # to stop


class Stopped(SystemExit):
    """The end of a run that was asked to stop; its code is that of a program that SIGTERM ended."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def stoppable(processes: ProcessGroup) -> Iterator[None]:
    """Let SIGTERM ask a training to stop in the block, in place of ending the process at once.

    Only of a single process, in its main thread, and where nobody else listens to the signal.
    """
    alone = processes.count == 1 and threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    ASKED.clear()
    signal.signal(signal.SIGTERM, lambda number, frame: ASKED.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ASKED.clear()


def check_stop() -> None:
    """Raise Stopped if the training was asked to stop."""
    if ASKED.is_set():
        raise Stopped
