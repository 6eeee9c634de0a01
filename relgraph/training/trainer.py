"""The trainer: a job is trained epoch by epoch, can be resumed, and has its figures in one run directory."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.errors import RelgraphError
from relgraph.outputs import Batch
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.seeding import generator
from relgraph.training.board import Board
from relgraph.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.feed import Feed, StepInputs
from relgraph.training.meter import Meter
from relgraph.training.objective import Losses, Objective, Stage
from relgraph.training.runs import AnyRecipe, Files, Run, check_free, write_json
from relgraph.training.schedule import Schedule
from relgraph.training.tasks import Task


@dataclass
class Progress:
    """The progress of a run: its state except the weights.

    Attributes:
        rows: One row of metrics an epoch.
        diagnostics: The diagnostics of some steps, with their `epoch` and `step`.
        best_epoch: Epoch of the best score on the split that selects, from 1; 0 before the first.
        best_score: That score, in percent.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0

    def add(
        self, row: dict[str, float], diagnostics: Sequence[dict[str, float]] = (), score: float | None = None
    ) -> bool:
        """Add an epoch, and return whether it is the best so far; without a score, the latest is."""
        self.rows.append(row)
        self.diagnostics += diagnostics
        better = score is None or score > self.best_score
        if better:
            self.best_epoch, self.best_score = len(self.rows), self.best_score if score is None else score
        return better


@dataclass(eq=False)
class Job:
    """What is trained: an objective with its optimisers, its data, and what is done with the result.

    Attributes:
        recipe: The recipe of the run.
        fabric: Lightning Fabric, which places and wraps the objective.
        data: The data set, on the device.
        task: What labels are, and how the network is evaluated.
        feed: Where the inputs of a step come from.
        objective: The module that is trained.
        module: Fabric's wrapper of it, which a step calls.
        optimisers: By name, as a checkpoint holds them.
        schedule: The learning rate of the first optimiser; the others keep theirs.
        note: A line for the user before the first epoch.
        processes: Those over which each batch is spread: all run every part of it, and the first one writes.
        labelled_share: Share of labelled images in a batch where some have none.
        diagnose_every: Steps from one diagnostics to the next; 0 for none.
    """

    recipe: AnyRecipe
    fabric: Any
    data: DataSet
    task: Task
    feed: Feed
    objective: Objective
    module: Any
    optimisers: Mapping[str, Optimizer]
    schedule: Schedule
    note: str = ""
    processes: ProcessGroup = SINGLE_PROCESS
    labelled_share: float = 1.0
    diagnose_every: int = 0

    title: ClassVar[str] = "epoch"  # of its progress bar and, as its purpose, of its random streams

    @property
    def score(self) -> str | None:
        """The metric by which the best epoch is picked; `None` if it is always the last."""
        return self.task.score

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        return {"objective": self.module, **self.optimisers}

    def stage(self, epoch: int) -> Stage:
        """Return the stage of the training in an epoch."""
        return "both"

    def begin(self, run: Run) -> None:
        """Run the preparations before the first epoch."""

    def backward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the losses of a batch, their gradient added to that of the parameters and averaged over processes."""
        losses: Losses = self.module(inputs, stage, diagnostics)
        self.fabric.backward(losses.total)
        return losses

    def average(self) -> None:
        """Make what the processes keep apart in an epoch one, at its end."""

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the split that selects after an epoch, by name."""
        return {}

    def keep(self, run: Run) -> None:
        """Write the network, the best so far, to the run."""

    def line(self, row: Mapping[str, float]) -> str | None:
        """Return a line for the user after an epoch, if it has one."""
        select = self.recipe.select
        words = {"train_top1": "train", f"{select}_top1": select, f"{select}_knn": f"{select} k-NN"}
        figures = [f"{word} {row[name]:.2f} %" for name, word in words.items() if name in row]
        if "overlap" in row:
            figures.append(f"overlap {row['overlap']:.2f}")
        start = f"epoch {row['epoch']:>3}/{self.schedule.epochs}", f"loss {row['loss']:.4f}"
        return "  ".join([*start, *figures, f"{row['images_per_s']:.0f} images/s"])

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the content of `result.json`, here what all jobs tell."""
        return {
            "epochs": self.schedule.epochs,
            "images_per_s": median(row["images_per_s"] for row in progress.rows),
            "seed": self.recipe.seed,
            "device": str(self.fabric.device),
            "processes": self.processes.count,
            "precision": str(self.fabric.strategy.precision.precision),
        }


def run_job(open_job: Callable[[], Job], recipe: AnyRecipe, path: Path, *, resume: bool) -> dict[str, Any]:
    """Train what `open_job` builds, in the run directory at `path`, and return the content of `result.json`.

    A run that is stopped and resumed ends with the same weights and figures as one that was not. Of several processes
    the first one writes, and names the directory; all of them must have access to it.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. The results of earlier epochs are kept.
    """
    if resume:
        Run.open(path).check_recipe(recipe)
    elif ProcessGroup.launched().first:
        check_free(path)
    job = open_job()
    run = _open_run(job, path, resume=resume)
    progress = restore(job, run.files) if resume else Progress()
    if not progress.rows:
        job.begin(run)
    board = Board(run, len(progress.rows), len(progress.diagnostics)) if job.processes.first else None
    train_epochs(job, run, run.files, progress, board)
    result = job.result(run, progress)
    if board is not None:
        board.close()
        write_json(run.result_file, result)
    job.processes.wait()
    return result


def _open_run(job: Job, path: Path, *, resume: bool) -> Run:
    """Return the run's directory, which the first process makes and names."""
    path = Path(job.processes.agreed(str(path)))
    if job.processes.first:
        tqdm.write(job.note)
        if not resume:
            Run.create(path, job.recipe)
    job.processes.wait()
    return Run.open(path)


def train_epochs(job: Job, run: Run, files: Files, progress: Progress, board: Board | None = None) -> None:
    """Train the epochs that are missing from `progress`, each written to `files` when it is done."""
    for epoch in range(len(progress.rows), job.schedule.epochs):
        row, measured = train_epoch(job, epoch)
        _check_weights(job, epoch)
        row |= {f"{job.recipe.select}_{name}": value for name, value in job.evaluate(epoch).items()}
        better = progress.add(row, measured, row.get(f"{job.recipe.select}_{job.score}"))
        if job.processes.first:
            if board is not None:
                board.write(row, measured)
            _store(job, run, files, progress, better=better)
            line = job.line(row)
            if line is not None:
                tqdm.write(line)
        job.processes.wait()


def train_epoch(job: Job, epoch: int) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Train for one pass over the training set, and return its row of metrics and the diagnostics of some steps."""
    meter, processes = Meter(job.processes), job.processes
    diagnostics = Diagnostics(job.diagnose_every, processes=processes) if job.diagnose_every else None
    start, done, rate = time.perf_counter(), 0, job.schedule.rate(epoch)
    job.module.train()
    with closing(steps(job, epoch)) as batches:
        for number, (index, images, views, bar) in enumerate(batches):
            if number == 0 or not job.schedule.by_epoch:
                rate = job.schedule.rate(epoch + number / bar.total)
                _set_rate(next(iter(job.optimisers.values())), rate)
            step(job, images, index, views, meter, job.stage(epoch), diagnostics)
            done += len(index) * processes.count
            if processes.first and meter.due():
                speed = done / (time.perf_counter() - start)
                bar.set_postfix_str(_so_far(job.task.figures(meter.read(epoch, whole=False)), diagnostics, speed))
    means = job.task.figures(meter.read(epoch))
    job.average()
    agreed = {} if diagnostics is None else diagnostics.means()
    speed = round(done / (time.perf_counter() - start), 1)
    measured = [] if diagnostics is None else [{"epoch": epoch + 1, **found} for found in diagnostics.read()]
    return {"epoch": epoch + 1, "lr": rate, **means, **agreed, "images_per_s": speed}, measured


def steps(job: Job, epoch: int) -> Generator[tuple[Tensor, Tensor, torch.Generator, Any], None, None]:
    """Yield for each step of an epoch the indices `(B,)` and uint8 images on the device, views' generator and bar.

    All of them depend on the seed and the epoch alone; the generator is on the CPU, so that all devices have the same
    views.
    """
    recipe, train, device = job.recipe, job.data.train, job.fabric.device
    views = generator(f"{job.title}: views", recipe.seed, epoch)
    batches = epoch_batches(
        train.labels.cpu(),
        batch_size=recipe.batch_size,
        labelled_share=job.labelled_share,
        seed=recipe.seed,
        epoch=epoch,
        by_label=job.task.by_label,
        processes=job.processes,
    )
    hidden = None if job.processes.first else True
    title = f"{job.title} {epoch + 1}/{job.schedule.epochs}"
    with (
        closing(train.batches(batches, recipe.processes)) as loaded,  # ends its processes in any case
        tqdm(batches, desc=title, unit="batch", leave=False, disable=hidden) as bar,
    ):
        for index, images in zip(bar, loaded, strict=True):
            yield index.to(device, non_blocking=True), images.to(device, non_blocking=True), views, bar


def step(
    job: Job,
    images: Tensor,
    index: Tensor,
    views: torch.Generator,
    meter: Meter,
    stage: Stage = "both",
    diagnostics: Diagnostics | None = None,
) -> None:
    """Train on the uint8 images of the training set at `index` (N,), of a batch over processes those of this one.

    Views -> student, teacher -> graph pair -> losses -> backward -> step. Some steps go to `diagnostics`, if given.
    """
    inputs = job.feed(images, Batch(index, job.data.train.labels[index]), views)
    for optimiser in job.optimisers.values():
        optimiser.zero_grad()
    measured = None if diagnostics is None else diagnostics.next_step()
    losses = job.backward(inputs, stage, measured)
    job.objective.remember(losses, inputs.batch)
    for optimiser in job.optimisers.values():
        optimiser.step()
    meter.add(losses, inputs.batch.labels)


def restore(job: Job, files: Files) -> Progress:
    """Restore a job to its last checkpoint, and return its progress; without one, at the beginning."""
    if not files.last.exists():
        return Progress()
    state = load_checkpoint(files.last)
    try:
        for name, part in job.parts.items():
            part.load_state_dict(state[name])
        set_random_state(state["random"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelgraphError(f"{files.last} does not belong to this run's recipe: {reason}") from error


def _store(job: Job, run: Run, files: Files, progress: Progress, *, better: bool) -> None:
    """Write the epoch to disk, the last checkpoint at the end: an epoch that stopped before that is repeated."""
    state = {**job.parts, "progress": asdict(progress), "random": random_state()}
    if better and files.best is not None and job.score is not None:
        save_checkpoint(files.best, state)
    if better:
        job.keep(run)
    run.write_metrics(progress.rows, files.metrics)
    if progress.diagnostics:
        run.write_metrics(progress.diagnostics, run.diagnostics_file)
    save_checkpoint(files.last, state)


def _check_weights(job: Job, epoch: int) -> None:
    """Raise an error for weights that are not finite: no loss follows the last step of an epoch."""
    for name, tensor in job.objective.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise RelgraphError(
                f"the weights are not a number after epoch {epoch + 1}: {name} first; a smaller learning rate may help"
            )


def _set_rate(optimiser: Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _so_far(means: Mapping[str, float], diagnostics: Diagnostics | None, speed: float) -> str:
    """Return the end of the progress bar."""
    agreed = None if diagnostics is None else diagnostics.means().get("overlap")
    accuracy = f", accuracy {means['train_top1']:.1f} %" if "train_top1" in means else ""
    overlap = "" if agreed is None else f", overlap {agreed:.2f}"
    return f"loss {means['loss']:.3f}{accuracy}{overlap}, {speed:.0f} images/s"
