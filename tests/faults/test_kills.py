"""Real processes, killed at any moment: each run ends byte for byte as one that was not. `make faults` kills sixty."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.runs import RunDirectory
from tests.training.conftest import outcome

KILLS = int(os.environ.get("RELGRAPH_KILLS", "1"))
OPTIONS = ["--epochs", "6", "--labelled-share", "1", "--batch-size", "30", "--threads", "1"]
LONG = 300.0  # seconds after which a program hangs

pytestmark = pytest.mark.slow


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "relgraph", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(program: "subprocess.Popen[str]") -> str:
    told, _ = program.communicate(timeout=LONG)
    return told


def wait_for(path: Path, program: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + LONG
    while not path.exists() and program.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = start(*OPTIONS, "--out", "whole")
    told = ended(program)
    assert program.returncode == 0, told
    whole, draw = outcome(tmp_path / "whole"), random.Random(0)
    for number in range(KILLS):
        run, kills = tmp_path / str(number), 0
        program = start(*OPTIONS, "--out", str(run))
        wait_for(run / ("last.ckpt" if number % 2 else "recipe.yaml"), program)
        while program.poll() is None:
            time.sleep(draw.uniform(0, 1.5))
            program.send_signal(signal.SIGKILL)
            kills += program.wait() == -signal.SIGKILL
            program.communicate()
            program = (
                start("--resume", str(run)) if (run / "recipe.yaml").is_file() else start(*OPTIONS, "--out", str(run))
            )
            if kills == 2:
                break
            wait_for(run / "last.ckpt", program)
            time.sleep(draw.uniform(0, 0.5))
        told = ended(program)
        assert program.returncode == 0, told
        assert outcome(run) == whole, number
        assert not [*run.glob(".*.part")]


def test_a_scheduler_ends_a_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = start(*OPTIONS, "--epochs", "500", "--out", "run")
    wait_for(tmp_path / "run" / "last.ckpt", program)
    program.send_signal(signal.SIGTERM)
    told = ended(program)
    assert program.returncode == 143 and "Traceback" not in told
    assert told.splitlines()[-1] == "stopped by SIGTERM; all of it is kept, continue with: relgraph train --resume run"
    progress = load_checkpoint(tmp_path / "run" / "last.ckpt")["progress"]
    assert len(progress["rows"]) == len(RunDirectory(tmp_path / "run").read_metrics())
