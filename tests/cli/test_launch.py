"""`relgraph train --devices N` and torchrun: processes of this machine as one program."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from relgraph.training.runs import RunDirectory
from tests.cli.conftest import Failing, Program

LINUX = sys.platform == "linux"
SINGLE_PROCESS = ("--method", "none")
QUICK = ("--epochs", "1", "--labelled-share", "1", "--batch-size", "30", "--lr", "0.001", "--batch-norm", "sync")


def relgraph(*arguments: str, launcher: tuple[str, ...] = (), **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a program of its own, as a user does."""
    command, environment = [sys.executable, *launcher, "-m", "relgraph", *arguments], {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def listening(pids: set[int]) -> set[str]:
    """Return the addresses, as the kernel writes them, at which some processes listen."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(file))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.add(local.split(":")[0])
    return found


def children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    own = {int(child) for file in tasks for child in file.read_text().split()}
    return own.union(*map(children, own)) if own else own


@pytest.mark.slow
def test_two_devices_train_one_student(program: Program, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "relgraph", "train", "--devices", "2", *QUICK, "--out", "two"]
    addresses = set[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as two:
        while LINUX and two.poll() is None:
            with suppress(OSError):  # of a process that has just ended
                addresses |= listening({two.pid, *children(two.pid)})
            time.sleep(0.05)  # they need the cores
        printed, errors = two.communicate(timeout=200)
    assert (two.returncode, errors) == (0, "")
    assert not LINUX or addresses == {"0100007F"}, "they listen to 127.0.0.1 alone"
    one = program("train", *QUICK, "--out", "one")
    told, expected = printed.splitlines(), one.stdout.replace("one", "two").splitlines()
    assert len(told) == len(expected), "one process speaks"
    assert told[0] == expected[0] and told[-1] == expected[-1]
    (single,), (both,) = (RunDirectory(tmp_path / run).read_metrics() for run in ("one", "two"))
    for name in ("loss", "node", "edge", "cross_entropy", "teacher_head", "val_top1"):
        assert both[name] == pytest.approx(single[name], rel=1e-3), name
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("one", "two")]
    assert [result["processes"] for result in results] == [1, 2]
    assert results[0]["images"] == results[1]["images"]
    # By torchrun, and on with another number of processes.
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    again = relgraph("train", "--resume", "one", launcher=launcher)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == one.stdout.splitlines()[-1]


@pytest.mark.slow
def test_what_one_process_says_when_it_fails_is_shown(tmp_path: Path) -> None:
    """The second process stops in the middle; the first one knows only that it has lost it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from relgraph.errors import RelgraphError\n"
        "    from relgraph.training import epochs\n"
        "    def stop(*arguments):\n"
        "        raise RelgraphError('this device is too warm')\n"
        "    epochs.step = stop\n"
    )
    found = relgraph("train", "--devices", "2", *QUICK, *SINGLE_PROCESS, PYTHONPATH=str(tmp_path))
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert found.stderr.splitlines() == [
        "Error: another process has stopped, or cannot be reached",
        "Error: process 1 of 2 failed: this device is too warm",
    ]


# What `-m relgraph` starts in a folder that has a package of this name, in which nothing is imported or trained. The
# launcher is the real one: its script lies elsewhere.
STARTED = """
import os, sys, time

if sys.argv[1] == "refuse":
    sys.exit("Error: every batch is split evenly")
open(f"{os.environ['RANK']} has begun", "w").close()
time.sleep(60)
"""
LAUNCHER = "import sys; from relgraph_cli.launch import launch; sys.exit(launch(2))"


def begin(program: list[str], waited_for: list[Path]) -> "subprocess.Popen[str]":
    """Start a program with processes of its own, and wait until these files are there."""
    begun = subprocess.Popen(
        [sys.executable, *program],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        # A program that was started in the background of a script ignores Ctrl-C, and so would this one.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while not all(file.exists() for file in waited_for) and time.monotonic() < end:
        time.sleep(0.05)
    return begun


@pytest.fixture
def launcher(tmp_path: Path) -> list[str]:
    """Return the program that launches the one above."""
    for file, code in (("relgraph/__main__.py", STARTED), ("elsewhere/launcher.py", LAUNCHER)):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(code)
    return ["elsewhere/launcher.py"]


@pytest.fixture
def waiting(launcher: list[str], tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start two processes that end after a minute."""
    program = begin([*launcher, "wait"], [tmp_path / f"{rank} has begun" for rank in (0, 1)])
    yield program
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)


def test_an_error_of_all_is_one_line(launcher: list[str]) -> None:
    found = subprocess.run([sys.executable, *launcher, "refuse"], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (1, "Error: every batch is split evenly\n")


def test_no_process_is_left_behind(waiting: "subprocess.Popen[str]") -> None:
    """All of them hold the pipe of errors: it ends when the last one does."""
    waiting.terminate()
    waiting.communicate(timeout=30)
    assert waiting.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(waiting.pid, 0)


@pytest.mark.skipif(not LINUX, reason="only /proc tells who started whom")
def test_a_process_that_was_killed_is_told(waiting: "subprocess.Popen[str]") -> None:
    os.kill(min(children(waiting.pid)), signal.SIGKILL)
    _, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 128 + signal.SIGKILL
    assert errors.splitlines()[-1] == "Error: process 0 of 2 failed: signal 9 ended it"


@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it reaches the launcher alone, as from an editor's button.

    Threads of torch that still communicate sometimes abort a process in which Python ends; here it always is.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\nif 'RANK' in os.environ:\n    atexit.register(os.abort)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ("--devices", "2", *QUICK, *SINGLE_PROCESS, "--epochs", "2000", "--out", "run")
    program = begin(["-m", "relgraph", "train", *options], [tmp_path / "run" / "last.ckpt"])
    program.send_signal(signal.SIGINT)
    try:
        _, errors = program.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    expected = "stopped; finished epochs are kept, continue with: relgraph train --resume run"
    assert (program.returncode, errors.splitlines()[-1:]) == (130, [expected]), errors
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_what_does_not_fit_the_launcher(failure: Failing, misuse: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = "relgraph export runs in one process, got 2: train, pretrain and embed take several"
    assert failure("export") == told
    for name in ("train", "pretrain", "embed"):
        assert misuse(name, "--devices", 3) == "--devices 3 does not fit the 2 processes that were launched"
    told = "--devices is for stores: a table, v.npy, is written by one process"
    assert misuse("embed", "--devices", 2, "-o", "v.npy") == told
    assert (
        failure("embed", "-o", "v.npy") == "a table of vectors is written by one process, got 2: a store takes several"
    )
