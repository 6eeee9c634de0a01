"""Checkpoints amid an epoch, by time and by a scheduler's signal: from each a run ends as if it had not stopped."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from relgraph.files import read_json
from relgraph.training import epochs, trainer
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import train
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import pretrain
from relgraph.training.runs import RunDirectory
from relgraph.training.stopping import Stopped
from tests.checks import case
from tests.faults.conftest import Make
from tests.training.conftest import after_each_step

VARIANTS: dict[str, dict[str, Any]] = {
    "few labels and a memory": {"labels_per_class": 2, "method": "crd", "method_args": ("negatives=4",)},
    "a head first": {"teacher_head": "sequential", "head_epochs": 1},
    "neighbourhoods": {"scope": "dataset", "k": 1, "epochs": 1},
    "streamed": {"images": "stream", "schedule": "cosine"},
}


def outcome(path: Path) -> Any:
    """Return what a run must give again: weights, and all figures but the speed."""
    rows = [{**row, "images_per_s": 0} for row in RunDirectory(path).read_metrics()]
    files = {file.name: load_checkpoint(file)["objective"] for file in (path / "last.ckpt", path / "best.ckpt")}
    weights = {name: [x.numpy().tobytes() for x in part.values()] for name, part in files.items()}
    diagnostics = RunDirectory(path).read_metrics(path / "diagnostics.csv")
    return weights, rows, diagnostics, {**read_json(path / "result.json"), "images_per_s": 0}


@pytest.mark.slow
def test_a_run_that_stops_after_each_step(make: Make, tmp_path: Path) -> None:
    for name, options in VARIANTS.items():
        recipe, whole, path = (
            make(checkpoint_minutes=1e-9, **options),
            tmp_path / name / "whole",
            tmp_path / name / "run",
        )
        with case(name):
            train(recipe, whole)
            stops = after_each_step(lambda resume: train(recipe, path, resume=resume), path)  # noqa: B023 (at once)
            assert stops >= 4, "several checkpoints lie within its epochs"
            assert outcome(path) == outcome(whole)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_amid_the_epoch(
    make: Make, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def counted(*arguments: Any, step: Any = epochs.step, **options: Any) -> None:
        nonlocal steps
        step(*arguments, **options)
        steps += 1
        if steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(epochs, "step", counted)
    with pytest.raises(Stopped) as stopped:
        train(make(), tmp_path / "run")
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["progress"]["within"]["step"] == 2
    train(make(), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(finished)


@pytest.mark.slow
def test_sigterm_before_the_first_step_is_heard(
    make: Make, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*arguments: Any) -> list[Any]:
        assert (tmp_path / "run" / "last.ckpt").is_file()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr(trainer, "open_loggers", opened)
    with pytest.raises(Stopped):
        train(make(), tmp_path / "run")
    monkeypatch.undo()
    train(make(), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(finished)


@pytest.mark.slow
def test_a_pre_training_goes_on_amid_an_epoch(images: Path, tmp_path: Path) -> None:
    options = {"dataset": f"folder:{images}", "network": "resnet8", "epochs": 2, "batch_size": 9, "device": "cpu",
               "checkpoint_minutes": 1e-9, "objective": "moco", "queue": 18}  # fmt: skip
    recipe, run = resolve_pretraining(options), tmp_path / "run"
    pretrain(recipe, tmp_path / "whole")
    assert after_each_step(lambda resume: pretrain(recipe, run, resume=resume), run) > 1
    read = [(tmp_path / name / "network.safetensors").read_bytes() for name in ("whole", "run")]
    assert read[0] == read[1]
