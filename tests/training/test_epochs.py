"""Any job by epochs, where a student's training does not show it: nothing to pick by, figures of some epochs alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from relgraph.errors import RelgraphError
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.epochs import Progress, run_epochs
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.runs import Run


class Counting:
    """A job without data: its one weight counts the epochs, and it writes down what it is asked for."""

    def __init__(self, recipe: PretrainRecipe, score: str | None, found: list[dict[str, float]]) -> None:
        self.recipe, self.score, self.found = recipe, score, found
        self.epochs = len(found)
        self.fabric = Fabric(accelerator="cpu", devices=1)
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.note = "counting"
        self.asked: list[str] = []

    @property
    def processes(self) -> ProcessGroup:
        return SINGLE_PROCESS

    @property
    def parts(self) -> Mapping[str, Any]:
        return {"network": self.network}

    def begin(self, run: Run) -> None:
        assert run.recipe_file.is_file()
        self.asked.append("begin")

    def train_epoch(self, epoch: int) -> dict[str, float]:
        self.asked.append(f"train {epoch}")
        with torch.no_grad():
            self.network.weight += 1
        return {"epoch": epoch + 1, "loss": 1 / (1 + epoch), "images_per_s": 1.0}

    def evaluate(self, epoch: int) -> dict[str, float]:
        if math.isnan(self.found[epoch].get("knn", 0)):
            raise KeyboardInterrupt
        return self.found[epoch]

    def diagnostics(self) -> list[dict[str, float]]:
        return [{"step": 0, "overlap": self.network.weight.item() / 4}]

    def keep(self, run: Run) -> None:
        self.asked.append(f"keep {self.network.weight.item():.0f}")

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        return {"best": progress.best_epoch, "of": progress.best_top1, "rows": len(progress.rows)}


RECIPE = resolve_pretraining({"epochs": 4})
SOME = [{}, {"knn": 90.0}, {}, {"knn": 30.0}]
STOPPED = [*SOME[:2], {"knn": math.nan}, *SOME[3:]]


def run(job: Counting, path: Path, resume: bool = False) -> dict[str, Any]:
    return run_epochs(lambda: job, RECIPE, path, resume=resume)


def test_where_nothing_picks_every_epoch_is_kept_and_none_is_the_best(tmp_path: Path) -> None:
    job = Counting(RECIPE, None, SOME)
    assert run(job, tmp_path / "run") == {"best": 4, "of": -1.0, "rows": 4}
    assert job.asked[0] == "begin"
    assert [asked for asked in job.asked if asked.startswith("keep")] == ["keep 1", "keep 2", "keep 3", "keep 4"]
    assert not Run(tmp_path / "run").best.exists() and Run(tmp_path / "run").last.exists()


def test_a_score_picks(tmp_path: Path) -> None:
    job = Counting(RECIPE, "knn", [{"knn": 10.0}, {"knn": 90.0}, {"knn": 90.0}, {"knn": 30.0}])
    assert run(job, tmp_path / "run") == {"best": 2, "of": 90.0, "rows": 4}
    assert [asked for asked in job.asked if asked.startswith("keep")] == ["keep 1", "keep 2"]
    best = load_checkpoint(Run(tmp_path / "run").best, "network")
    assert best["network"]["weight"].item() == 2


def test_the_newest_is_the_best_where_no_epoch_has_a_score(tmp_path: Path) -> None:
    job = Counting(RECIPE, "knn", [{}, {}, {}, {}])
    assert run(job, tmp_path / "run") == {"best": 4, "of": -1.0, "rows": 4}
    assert load_checkpoint(Run(tmp_path / "run").best, "network")["network"]["weight"].item() == 4


def test_what_is_not_measured_is_an_empty_cell(tmp_path: Path) -> None:
    run(Counting(RECIPE, None, SOME), tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    header, *lines = opened.metrics_file.read_text().splitlines()
    assert header == "epoch,loss,images_per_s,val_knn"
    assert [line.split(",")[-1] for line in lines] == ["", "90.0", "", "30.0"]
    assert [row.get("val_knn") for row in opened.read_metrics()] == [None, 90.0, None, 30.0]


def test_a_stop_in_the_evaluation_and_on_from_there(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "stopped"
    expected = run(Counting(RECIPE, None, SOME), whole)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(RECIPE, None, STOPPED), path)
    assert len(Run(path).read_metrics()) == 2 and not Run(path).result_file.exists()
    job = Counting(RECIPE, None, SOME)
    assert run(job, path, resume=True) == expected
    assert job.asked == ["train 2", "keep 3", "train 3", "keep 4"], "what comes first came before"
    assert Run(path).metrics_file.read_bytes() == Run(whole).metrics_file.read_bytes()
    again = Counting(RECIPE, None, SOME)
    assert run(again, path, resume=True) == expected and again.asked == []


def test_tensorboard_has_each_figure_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(Counting(RECIPE, None, STOPPED), path)
    run(Counting(RECIPE, None, SOME), path, resume=True)
    events = EventAccumulator(str(path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_knn")] == [(2, 90.0), (4, 30.0)]
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    job = Counting(RECIPE, None, SOME)
    train = job.train_epoch

    def spoil(epoch: int) -> dict[str, float]:
        row = train(epoch)
        if epoch == 1:
            job.network.weight.data.fill_(math.inf)
        return row

    job.train_epoch = spoil  # type: ignore[method-assign]
    with pytest.raises(RelgraphError, match=r"^the weights are not a number after epoch 2: weight first; a smaller"):
        run(job, tmp_path / "run")
    assert "keep inf" not in job.asked and len(Run(tmp_path / "run").read_metrics()) == 1


def test_a_job_that_cannot_be_opened_leaves_no_directory(tmp_path: Path) -> None:
    def fail() -> Counting:
        raise RelgraphError("no such data")

    with pytest.raises(RelgraphError, match="no such data"):
        run_epochs(fail, RECIPE, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
