"""The trainer: what it keeps of a job, picks and tells, and a run that was stopped before any of its writes."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.errors import RelgraphError
from relgraph.training import epochs, trainer
from relgraph.training.checkpoint import load_checkpoint, save_checkpoint
from relgraph.training.epochs import Progress
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.runs import RunDirectory
from relgraph.training.trainer import run_job
from tests.checks import assert_refused_like
from tests.training.conftest import allowed, call_before, interrupt, outcome
from tests.training.counting import RECIPE, SOME, STEPS, Counting, counting, run


def test_a_score_picks_the_first_best_epoch_and_without_one_the_newest_is_kept(tmp_path: Path) -> None:
    cases: tuple[tuple[str | None, list[dict[str, float]], list[float], int, int | None], ...] = (
        (None, SOME, [4, -1.0], 4, None),
        ("knn", [{"knn": 10.0}, {"knn": 90.0}, {"knn": 90.0}, {"knn": 30.0}], [2, 90.0], 2, 2),
        ("knn", [{}, {}, {}, {}], [4, -1.0], 4, 4),
    )
    for number, (picked, found, best, kept, weights) in enumerate(cases):
        job = counting(found, picked)
        result = run(job, tmp_path / str(number))
        opened = RunDirectory.open(tmp_path / str(number))
        assert result["best"] == best and result["rows"] == result["epochs"] == 4
        assert [asked for asked in job.asked if asked.startswith("keep")] == [f"keep {epoch}" for epoch in range(kept)]
        assert opened.best.exists() == (weights is not None)
        if weights is not None:
            assert len(load_checkpoint(opened.best)["progress"]["rows"]) == weights
        header, *lines = opened.metrics_file.read_text().splitlines()
        assert header.startswith("epoch,lr,loss,product,degenerate,batch_overlap,images_per_s")
        assert len(lines) == 4 and len(opened.read_metrics(opened.diagnostics_file)) == 8


@pytest.mark.slow
def test_a_run_that_is_stopped_before_any_write_ends_as_if_it_had_not(tmp_path: Path) -> None:
    """Of any epoch: what a stopped epoch wrote is written again, no epoch is trained twice, and each is told once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    whole = tmp_path / "whole"
    expected = run(counting(SOME, "knn"), whole)
    # Inputs, environment, recipe, a first checkpoint, the files of each epoch, the best ones', the result.
    writes = 4 + 4 * 3 + 3 + 1
    for number in range(1, writes + 1):
        path = tmp_path / str(number)
        with allowed(number), pytest.raises(KeyboardInterrupt) if number < writes else nullcontext():
            run(counting(SOME, "knn"), path)
        done = len(load_checkpoint(path / "last.ckpt")["progress"]["rows"]) if (path / "last.ckpt").exists() else 0
        job = counting(SOME, "knn")
        result = run(job, path, resume=(path / "recipe.yaml").exists())  # which makes it a run
        assert {**result, "images_per_s": 0} == {**expected, "images_per_s": 0} and outcome(path) == outcome(whole)
        assert [words for words in job.asked if words[0] == "e"] == [f"evaluate {epoch}" for epoch in range(done, 4)]
        assert ("begin" in job.asked) == (done == 0)
        folder, rows = path / "tensorboard", RunDirectory(path).read_metrics()
        epochs, steps = (EventAccumulator(str(place)).Reload() for place in (folder, folder / "steps"))
        told = {
            name: [(event.step, event.value) for event in epochs.Scalars(name)] for name in ("loss/loss", "val/knn")
        }
        assert told["loss/loss"] == [(int(row["epoch"]), pytest.approx(row["loss"], rel=1e-6)) for row in rows]
        assert told["val/knn"] == [(2, 90.0), (4, 30.0)]
        assert [event.step for event in steps.Scalars("batch/overlap")] == [0, 2, 3, 5, 6, 8, 9, 11]
    assert job.asked == [], "a finished run stays as it is"
    assert [row.get("val_knn") for row in rows] == [None, 90.0, None, 30.0], "empty cells"


def test_the_best_checkpoint_is_of_the_epoch_that_is_told(tmp_path: Path) -> None:
    """A stop between both checkpoints of an epoch, which scores less when it is repeated, as on a GPU it can."""
    run_of = RunDirectory(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        call_before(patch, trainer, "save_checkpoint", 4)  # best and last of two epochs
        run(counting([{"knn": 10.0}, {"knn": 90.0}], "knn"), run_of.path)
    kept, last = (load_checkpoint(file)["progress"] for file in (run_of.best, run_of.last))
    assert (len(kept["rows"]), len(last["rows"]), last["best_epoch"]) == (2, 1, 1)
    result = run(counting([{}, {"knn": 5.0}, {"knn": 7.0}, {"knn": 3.0}], "knn"), run_of.path, resume=True)
    assert result["best"] == [3, 7.0], "the weights of the first epoch are gone"
    assert len(load_checkpoint(run_of.best)["progress"]["rows"]) == 3


def test_steps_of_a_run_follow_each_other() -> None:
    progress, first = Progress(), 0
    for epoch, steps in enumerate((5, 2, 7)):
        for _ in range(2):  # as where the epoch is gone on with
            assert progress.begin(epoch, steps) == first
        first += steps
    older = Progress(diagnostics=[{"epoch": 1.0, "step": 0.0}, {"epoch": 3.0, "step": 14.0}])
    assert older.begin(3, 5) == 15 and older.begin(4, 2) == 20, "as it was, where epochs have as many"
    older = Progress(diagnostics=[{"epoch": 1.0, "step": 0.0}, {"epoch": 3.0, "step": 14.0}])
    assert older.begin(3, 4) == 15 and older.begin(4, 2) == 19, "no step twice"


def test_a_checkpoint_of_an_earlier_version_knows_no_steps(tmp_path: Path) -> None:
    run(counting(SOME, "knn"), tmp_path / "whole")
    for epoch in (1, 3):
        path = tmp_path / str(epoch)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            call_before(patch, trainer, "train_epoch", epoch + 1)
            run(counting(SOME, "knn"), path)
        state = load_checkpoint(path / "last.ckpt")
        assert state["progress"].pop("steps") == [STEPS] * epoch
        save_checkpoint(path / "last.ckpt", state)
        run(counting(SOME, "knn"), path, resume=True)
        assert outcome(path) == outcome(tmp_path / "whole")


def test_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = counting([{"top1": 12.0}, {"knn": 90.0}, {}, {}])
    run(job, tmp_path / "run")
    note, first, second, third, _ = capsys.readouterr().out.splitlines()
    assert note == "counting" and first.startswith("epoch   1/4  loss ") and third.startswith("epoch   3/4  loss -")
    assert "  val 12.00 %  batch overlap 50.0 %  " in first and "  val k-NN 90.00 %  batch overlap 50.0 %  " in second
    assert "val" not in third and all(line.endswith(" images/s") for line in (first, second, third))
    row: Mapping[str, float] = {"epoch": 2, "loss": 1.5, "train_top1": 50.0, "val_top1": 40.0, "images_per_s": 7.4}
    line = "epoch   2/4  loss 1.5000  train 50.00 %  val 40.00 %  7 images/s"
    assert job.line(row) == line
    by_chance = math.log(len(job.data.train.classes))
    assert job.line({**row, "teacher_head": 1.9 * by_chance}) == line
    told = f"  teacher's head diverges: cross-entropy 1.23e+03, by chance {by_chance:.2f}; see --teacher-lr"
    assert job.line({**row, "teacher_head": 1234.5}) == line + told


def test_what_is_no_number_is_named_and_finished_epochs_are_kept(tmp_path: Path) -> None:
    """A finite loss can have a gradient that is not: after the last step of an epoch no loss shows it."""
    run(counting(), tmp_path / "whole")

    def spoil(job: Counting, *args: Any) -> None:
        job.objective.weight.data.fill_(math.inf)

    late = r"^the weights are not a number after epoch 2: weight first; a smaller learning rate may help$"
    early = (
        r"^the loss overflowed, it is infinite in epoch 2: product first; a smaller learning rate or weight may help$"
    )
    for owner, name, call, told in ((trainer, "_check_weights", 2, late), (epochs, "step", STEPS + 2, early)):
        path = tmp_path / name
        with pytest.MonkeyPatch.context() as patch:
            call_before(patch, owner, name, call, spoil)
            assert_refused_like((partial(run, counting(), path), told))
        assert (
            len(RunDirectory(path).read_metrics())
            == len(load_checkpoint(RunDirectory(path).last)["progress"]["rows"])
            == 1
        )
        run(counting(), path, resume=True)
        assert outcome(path) == outcome(tmp_path / "whole")


def test_what_is_refused_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"

    def fail() -> Counting:
        raise RelgraphError("no such data")

    def start(resume: bool = False) -> dict[str, Any]:
        return run(counting(), path, resume)

    resume = partial(start, resume=True)
    assert_refused_like(
        (resume, r"is not a run: expected a directory with recipe\.yaml"),
        (lambda: run_job(fail, RECIPE, path, resume=False), "no such data"),
    )
    assert not path.exists()
    start()
    before, kept = outcome(path), RunDirectory(path).last.read_bytes()
    other = resolve_pretraining({"epochs": 4, "batch_size": 4, "lr": 0.5})
    assert_refused_like(
        (start, r"exists already: continue it with --resume .*, or choose another --out$"),
        (lambda: run_job(counting, other, path, resume=True),
         r"run was started with another recipe: lr was 0\.002, is now 0\.5$"),
    )  # fmt: skip
    assert outcome(path) == before
    for told, content in (
        (r"last\.ckpt does not belong to this run's recipe: [^\n]*$", {"objective": {"other": torch.zeros(())}}),
        (r"last\.ckpt does not belong to this run's recipe: 'optimiser'$", {"objective": {"weight": torch.zeros(())}}),
    ):
        torch.save(content, RunDirectory(path).last)
        assert_refused_like((resume, told))
    RunDirectory(path).last.write_bytes(kept[: len(kept) // 2])
    assert_refused_like((resume, r"^cannot read the checkpoint .*last\.ckpt: it is damaged"))
    RunDirectory(path).last.write_bytes(kept)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_epoch", interrupt)
        resume()
    assert outcome(path) == before
