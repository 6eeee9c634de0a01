"""Several processes of one command, as torchrun starts them on one machine, without its log and its tracebacks."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from .show import say

MEETING = "RELGRAPH_MEETING"  # that of relgraph.processes, which would load torch

GRACE = 10.0  # seconds that the first process has to report what went wrong, once another has failed
LOST = 3  # exit status of a process that has lost the others


def launched() -> bool:
    """Return whether this is one of several processes already, started by this module or by torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Return whether this is the first process, whose output is shown."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def over_devices(devices: int | None) -> Iterator[None]:
    """Run a block in each of so many processes, of which the first prints; those that are missing are started.

    Raises:
        SystemExit: where they were started, once they have ended, with the status of them all.
        click.UsageError: if another number was launched.
    """
    if devices is not None and devices > 1 and not launched():
        raise SystemExit(launch(devices))
    count = os.environ.get("WORLD_SIZE", "1")
    if devices is not None and str(devices) != count:
        raise click.UsageError(f"--devices {devices} does not fit the {count} processes that were launched")
    if is_first():
        yield
    else:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    _leave_together()


def _leave_together() -> None:
    """Wait for the other processes and end the connection: torch's own threads may abort one that is left behind."""
    torch = _connected()
    if torch is not None:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def leave_alone(status: int) -> None:
    """End a process that is still connected to others, since it was stopped or failed; do nothing in any other.

    Communication that is under way holds tensors on threads of torch, which abort a process in which Python ends. The
    connection itself cannot be ended: that waits for the others, who wait for this one.
    """
    if _connected() is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _connected() -> Any:
    """Return torch where this process is connected to others by it, otherwise nothing."""
    torch = sys.modules.get("torch")  # a command that has not loaded it has no connection
    return torch if launched() and torch is not None and torch.distributed.is_initialized() else None


def lost_the_others(error: RuntimeError) -> bool:
    """Return whether an error means that the other processes cannot be reached."""
    return launched() and (type(error).__name__.startswith("Dist") or "gloo" in str(error))


def launch(count: int) -> int:
    """Run this very command in `count` processes and return its exit status; only the output of the first one is shown.

    When one fails, the others are ended. Its error message is shown, unless the first one itself failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        errors = [Path(folder) / str(rank) for rank in range(count)]
        asked = _signals()
        processes = [_start(rank, count, Path(folder) / "meeting", errors[rank]) for rank in range(count)]
        try:
            failed = _wait(processes, asked)
            if asked:
                return _interrupted(processes) if asked[0] == signal.SIGINT else 128 + asked[0]
        finally:
            _end(processes)
        status = processes[failed].returncode
        if failed > 0 or status < 0:
            messages = errors[failed].read_text(errors="replace").strip().splitlines() if failed else []
            ended = f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
            why = messages[-1].removeprefix("Error: ") if messages and status >= 0 else ended
            say(f"Error: process {failed} of {count} failed: {why}", err=True)
        return status if status >= 0 else 128 - status


def _signals() -> list[int]:
    """Return a list to which the signals that ask this program to end are added when they come.

    An exception amid a call of `subprocess` could leave its lock held, for which a later call would wait for ever.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a script, or behind nohup
            signal.signal(number, lambda number, frame: asked.append(number))
    return asked


def _interrupted(processes: "list[subprocess.Popen[bytes]]") -> int:
    """Wait until the first process has reported what is kept of the run, and return its exit status."""
    try:
        return processes[0].wait(1)  # Ctrl-C in a terminal reaches all of them
    except subprocess.TimeoutExpired:
        processes[0].send_signal(signal.SIGINT)  # the others are ended later: it would report that it has lost them
    try:
        return processes[0].wait(GRACE)
    except subprocess.TimeoutExpired:
        return 128 + signal.SIGINT


def _start(rank: int, count: int, meeting: Path, errors: Path) -> "subprocess.Popen[bytes]":
    """Start one process; only the first one shares this terminal."""
    # torch's C++ side warns of an intended search for parameters: a stage may leave some out.
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": threads, **os.environ}
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    environment |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment[MEETING] = str(meeting)
    # Nobody outside this machine is listened to.
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        environment = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback, **environment}
    command = [sys.executable, "-m", "relgraph", *sys.argv[1:]]
    if rank == 0:
        return subprocess.Popen(command, env=environment)
    with errors.open("wb") as stream:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stream)


def _wait(processes: "list[subprocess.Popen[bytes]]", asked: list[int]) -> int:
    """Return the number of the process whose exit status counts for all: the first one, unless another failed first.

    A signal that asks to end ends the wait.
    """
    failed, since = 0, None
    while processes[0].poll() is None and not asked:
        broken = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
        if broken and since is None:
            failed, since = broken[0], time.monotonic()
        if since is not None and time.monotonic() - since > GRACE:
            return failed
        time.sleep(0.1)
    if processes[0].returncode not in (0, LOST):
        return 0
    if failed > 0:
        return failed
    while any(process.poll() is None for process in processes) and not asked:
        time.sleep(0.1)
    return next((rank for rank, process in enumerate(processes) if process.poll() not in (0, LOST, None)), 0)


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
