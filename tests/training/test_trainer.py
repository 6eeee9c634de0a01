"""The trainer on a job of one weight: the order of a step, what a job is asked for, and what is kept of it."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD

from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.data.fixed_views import FixedViews
from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.outputs import Batch, Output
from relgraph.seeding import generator
from relgraph.training import trainer
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.feed import Feed, StepInputs, make_plan
from relgraph.training.head import HeadTraining
from relgraph.training.meter import Meter
from relgraph.training.objective import Losses, Objective, Stage
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.runs import Run
from relgraph.training.schedule import Schedule
from relgraph.training.tasks import Classes, Neighbours
from relgraph.training.trainer import Job, Progress, run_job, train_epoch
from tests.training.conftest import allowed, call_before, interrupt, outcome

RECIPE = resolve_pretraining({"epochs": 4, "batch_size": 4})
SOME: list[dict[str, float]] = [{}, {"knn": 90.0}, {}, {"knn": 30.0}]
STEPS = 3  # 13 images, 4 a batch


class Weight(Objective):
    """One weight, whose loss is its product with the mean of the images; it writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.asked: list[str] = []

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        self.asked.append(stage)
        if diagnostics is not None:
            diagnostics.steps.append(diagnostics.step)
            diagnostics.found.append({"overlap": torch.tensor([1.0 + diagnostics.step, 4.0])})
        output = Output(inputs.images.flatten(1), torch.eye(len(inputs.images), 2))
        return Losses({"product": self.weight * inputs.images.mean()}, output, None, torch.tensor(0), {})

    def remember(self, losses: Losses, batch: Batch) -> None:
        gradient = self.weight.grad
        assert gradient is not None and not losses.student.embedding.requires_grad
        self.asked.append(f"remember {self.weight.item():.6f} {gradient.item():.6f}")


@dataclass(eq=False)
class Counting(Job):
    """A job that writes down what it is asked for; `found` is what its evaluations find, by epoch."""

    objective: Weight
    found: list[dict[str, float]] = field(default_factory=list)
    picked: str | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def score(self) -> str | None:
        return self.picked

    def stage(self, epoch: int) -> Stage:
        return "method" if epoch == 0 else "both"

    def begin(self, run: Run) -> None:
        assert run.recipe_file.is_file()
        self.asked.append("begin")

    def average(self) -> None:
        self.asked.append("average")

    def evaluate(self, epoch: int) -> dict[str, float]:
        self.asked.append(f"evaluate {epoch}")
        return self.found[epoch]

    def keep(self, run: Run) -> None:
        self.asked.append(f"keep {len(run.read_metrics()) if run.metrics_file.exists() else 0}")

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        best = progress.best_epoch, progress.best_score
        return {"best": list(best), "rows": len(progress.rows), **super().result(run, progress)}


def images(count: int, labels: Tensor, split: str) -> ImageSet:
    random = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=random, dtype=torch.uint8)
    return ImageSet(pixels, labels, ("a", "b"), split, torch.arange(count))


def counting(
    found: list[dict[str, float]] = SOME, picked: str | None = None, *, by_epoch: bool = True, task: Any = Neighbours
) -> Counting:
    none = images(0, torch.zeros(0, dtype=torch.long), "test")
    data = DataSet("tiny", images(13, torch.arange(13) % 2, "train"), none, none, (0.5,), (0.5,), 1, True)
    fabric, objective = Fabric(accelerator="cpu", devices=1), Weight()
    module, optimiser = fabric.setup(objective, SGD(objective.parameters(), lr=99.0))
    feed = Feed(make_plan("crop", data, None), lambda x: x / 255)
    schedule = Schedule(0.5, "cosine", 4, by_epoch=by_epoch)
    of_device = task(data, feed.student_input, torch.device("cpu"))
    return Counting(RECIPE, fabric, data, of_device, feed, objective, module, {"optimiser": optimiser}, schedule,
                    note="counting", diagnose_every=2, found=found, picked=picked)  # fmt: skip


def run(job: Counting, path: Path, resume: bool = False) -> dict[str, Any]:
    return run_job(lambda: job, RECIPE, path, resume=resume)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_an_epoch_is_a_plain_loop(by_epoch: bool) -> None:
    """Batches, views and rates as they should be; it remembers behind the gradient and before the step."""
    job, weight = counting(by_epoch=by_epoch), 0.0
    for epoch in range(2):
        job.objective.asked.clear()
        row, measured = train_epoch(job, epoch)
        views, losses, expected, rate = generator("epoch: views", 0, epoch), [], [], 0.0
        batches = epoch_batches(torch.zeros(13), batch_size=4, labelled_share=1, seed=0, epoch=epoch)
        for number, index in enumerate(batches):
            pixels = job.data.train.pixels[index]
            mean = (job.feed.plan.draw(pixels, views).apply(pixels) / 255).mean().item()
            rate = 0.25 * (1 + math.cos(math.pi * (epoch + (0 if by_epoch else number / STEPS)) / 4))
            losses.append(weight * mean)
            expected += ["method" if epoch == 0 else "both", f"remember {weight:.6f} {mean:.6f}"]
            weight -= rate * mean
        found = [words.split() for words in job.objective.asked]
        assert [words[0] for words in found] == [words.split()[0] for words in expected]
        for words, wanted in zip(found[1::2], expected[1::2], strict=True):
            assert [float(x) for x in words[1:]] == pytest.approx([float(x) for x in wanted.split()[1:]], abs=2e-6)
        assert job.objective.weight.item() == pytest.approx(weight, rel=1e-5)
        assert list(row) == ["epoch", "lr", "loss", "product", "degenerate", "overlap", "images_per_s"]
        assert (row["epoch"], row["lr"], row["overlap"]) == (epoch + 1, pytest.approx(rate), 0.5)
        assert row["loss"] == row["product"] == pytest.approx(sum(losses) / STEPS, rel=1e-5)
        steps = [{"epoch": epoch + 1, "step": step, "overlap": (1 + step) / 4} for step in (0, 2)]
        assert measured == steps and job.asked == ["average"] * (epoch + 1)


def test_the_task_chooses_the_batches_and_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the progress bar is due before a label was seen."""
    monkeypatch.setattr(Meter, "due", lambda self: True)
    drawn: list[dict[str, Any]] = []
    call_before(monkeypatch, trainer, "epoch_batches", 1, lambda labels, **options: drawn.append(options))
    assert "train_top1" not in train_epoch(counting(), 0)[0]
    call_before(monkeypatch, trainer, "epoch_batches", 1, lambda labels, **options: drawn.append(options))
    job = counting(task=Classes)
    job.data.train.labels[1:] = -1
    row, _ = train_epoch(job, 0)
    assert [options["by_label"] for options in drawn] == [False, True]
    assert all(options["labelled_share"] == 1 and options["seed"] == 0 for options in drawn)
    assert row["train_top1"] in (0, 100)


def test_no_two_purposes_share_a_stream() -> None:
    """Epochs of a training, those of a teacher's head, and the views of a store, of any two seeds."""
    plan, pixels = counting().feed.plan, torch.zeros(64, 1, 6, 6, dtype=torch.uint8)
    shifts = []
    for seed in (0, 1):
        for title in (Job.title, HeadTraining.title):
            shifts += [plan.draw(pixels, generator(f"{title}: views", seed, epoch)).flip for epoch in range(3)]
        shifts += list(FixedViews(64, 4, padding=1, flip=True, seed=seed).flip[1:])
    assert len({tuple(shift.tolist()) for shift in shifts}) == len(shifts) == 18


@pytest.mark.parametrize(
    ("picked", "found", "best", "kept", "weights"),
    [
        (None, SOME, [4, -1.0], 4, None),
        ("knn", [{"knn": 10.0}, {"knn": 90.0}, {"knn": 90.0}, {"knn": 30.0}], [2, 90.0], 2, 2),
        ("knn", [{}, {}, {}, {}], [4, -1.0], 4, 4),
    ],
)
def test_a_score_picks_the_first_best_epoch_and_without_one_the_newest_is_kept(
    picked: str | None, found: list[dict[str, float]], best: list[float], kept: int, weights: int | None, tmp_path: Path
) -> None:
    job = counting(found, picked)
    result = run(job, tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    assert result["best"] == best and result["rows"] == result["epochs"] == 4
    assert [asked for asked in job.asked if asked.startswith("keep")] == [f"keep {epoch}" for epoch in range(kept)]
    assert opened.best.exists() == (weights is not None)
    if weights is not None:
        assert len(load_checkpoint(opened.best)["progress"]["rows"]) == weights
    header, *lines = opened.metrics_file.read_text().splitlines()
    assert header.startswith("epoch,lr,loss,product,degenerate,overlap,images_per_s")
    assert len(lines) == 4 and len(opened.read_metrics(opened.diagnostics_file)) == 8


def test_a_run_that_is_stopped_before_any_write_ends_as_if_it_had_not(tmp_path: Path) -> None:
    """Of any epoch: what a stopped epoch wrote is written again, and no epoch is trained twice."""
    whole = tmp_path / "whole"
    expected = run(counting(SOME, "knn"), whole)
    writes = 2 + 4 * 3 + 3 + 1  # recipe and environment, the files of each epoch, the best ones', the result
    for number in range(1, writes + 1):
        path = tmp_path / str(number)
        with allowed(number), pytest.raises(KeyboardInterrupt) if number < writes else nullcontext():
            run(counting(SOME, "knn"), path)
        done = len(load_checkpoint(path / "last.ckpt")["progress"]["rows"]) if (path / "last.ckpt").exists() else 0
        job = counting(SOME, "knn")
        result = run(job, path, resume=True)
        assert {**result, "images_per_s": 0} == {**expected, "images_per_s": 0} and outcome(path) == outcome(whole)
        assert [words for words in job.asked if words[0] == "e"] == [f"evaluate {epoch}" for epoch in range(done, 4)]
        assert ("begin" in job.asked) == (done == 0)
    assert job.asked == [], "a finished run stays as it is"
    assert [row.get("val_knn") for row in Run(path).read_metrics()] == [None, 90.0, None, 30.0], "empty cells"


def test_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = counting([{"top1": 12.0}, {"knn": 90.0}, {}, {}])
    run(job, tmp_path / "run")
    note, first, second, third, _ = capsys.readouterr().out.splitlines()
    assert note == "counting" and first.startswith("epoch   1/4  loss ") and third.startswith("epoch   3/4  loss -")
    assert "  val 12.00 %  overlap 0.50  " in first and "  val k-NN 90.00 %  overlap 0.50  " in second
    assert "val" not in third and all(line.endswith(" images/s") for line in (first, second, third))
    row: Mapping[str, float] = {"epoch": 2, "loss": 1.5, "train_top1": 50.0, "val_top1": 40.0, "images_per_s": 7.4}
    assert job.line(row) == "epoch   2/4  loss 1.5000  train 50.00 %  val 40.00 %  7 images/s"


@pytest.mark.parametrize("late", [False, True])
def test_what_is_no_number_is_named_and_finished_epochs_are_kept(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss can have a gradient that is not: after the last step of an epoch no loss shows it."""
    path = tmp_path / "spoilt"
    run(counting(), tmp_path / "whole")

    def spoil(job: Counting, *args: Any) -> None:
        job.objective.weight.data.fill_(math.inf)

    told = r"^the weights are not a number after epoch 2: weight first; a smaller learning rate may help$"
    if not late:
        told = r"^the loss is not a number in epoch 2: product first; a smaller learning rate or weight may help$"
    with monkeypatch.context() as patch:
        name, call = ("_check_weights", 2) if late else ("step", STEPS + 2)
        call_before(patch, trainer, name, call, spoil)
        with pytest.raises(RelgraphError, match=told):
            run(counting(), path)
    assert len(Run(path).read_metrics()) == len(load_checkpoint(Run(path).last)["progress"]["rows"]) == 1
    run(counting(), path, resume=True)
    assert outcome(path) == outcome(tmp_path / "whole")


def test_what_is_refused_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with pytest.raises(RelgraphError, match=r"is not a run: expected a directory with recipe\.yaml"):
        run(counting(), path, resume=True)

    def fail() -> Counting:
        raise RelgraphError("no such data")

    with pytest.raises(RelgraphError, match="no such data"):
        run_job(fail, RECIPE, path, resume=False)
    assert not path.exists()
    run(counting(), path)
    before = outcome(path)
    with pytest.raises(RelgraphError, match=r"exists already: continue it with --resume .*, or choose another --out$"):
        run(counting(), path)
    other = resolve_pretraining({"epochs": 4, "batch_size": 4, "lr": 0.5})
    with pytest.raises(RelgraphError, match=r"run was started with another recipe: lr was 0\.002, is now 0\.5$"):
        run_job(counting, other, path, resume=True)
    assert outcome(path) == before
    kept = Run(path).last.read_bytes()
    wrong = {
        r"last\.ckpt does not belong to this run's recipe: [^\n]*$": {"objective": {"other": torch.zeros(())}},
        r"last\.ckpt does not belong to this run's recipe: 'optimiser'$": {"objective": {"weight": torch.zeros(())}},
        r"last\.ckpt is not a run's checkpoint: train it again$": {"network": {}},
        r"last\.ckpt is of a version of relgraph whose runs this one cannot read: train it again$": {"distiller": {}},
    }
    for told, content in wrong.items():
        torch.save(content, Run(path).last)
        with pytest.raises(RelgraphError, match=told):
            run(counting(), path, resume=True)
    Run(path).last.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(RelgraphError, match=r"^cannot read the checkpoint .*last\.ckpt, is it truncated\?"):
        run(counting(), path, resume=True)
    Run(path).last.write_bytes(kept)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_epoch", interrupt)
        run(counting(), path, resume=True)
    assert outcome(path) == before
