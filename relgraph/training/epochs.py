"""Training by epochs: it can be resumed, is saved after every epoch, and has its figures in one run directory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from relgraph.errors import RelgraphError
from relgraph.processes import ProcessGroup
from relgraph.training.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from relgraph.training.runs import AnyRecipe, Run, check_free, write_json


@dataclass
class Progress:
    """The progress of a run: its state except the weights.

    Attributes:
        rows: One row of metrics an epoch.
        diagnostics: The diagnostics of some steps, with their `epoch` and `step`.
        best_epoch: Epoch of the best score on the split that selects, from 1; 0 before the first.
        best_top1: That score, in percent: top-1 accuracy, or that of the neighbours if no classifier is trained.
    """

    rows: list[dict[str, float]]
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_top1: float = -1.0

    def add(
        self, row: dict[str, float], diagnostics: Sequence[dict[str, float]] = (), score: float | None = None
    ) -> bool:
        """Add an epoch, and return whether it is the best so far; without a score, the latest is."""
        self.rows.append(row)
        self.diagnostics += diagnostics
        better = score is None or score > self.best_top1
        if better:
            self.best_epoch, self.best_top1 = len(self.rows), self.best_top1 if score is None else score
        return better


class Job(Protocol):
    """What is trained: a student, or a network without labels."""

    @property
    def recipe(self) -> AnyRecipe:
        """The recipe, with `select` and `seed`."""
        ...

    @property
    def epochs(self) -> int:
        """How many there are."""
        ...

    @property
    def processes(self) -> ProcessGroup:
        """The processes over which it is trained: all run each part of it, and the first one writes."""
        ...

    @property
    def note(self) -> str:
        """A line for the user before the first epoch."""
        ...

    @property
    def parts(self) -> Mapping[str, Any]:
        """What a checkpoint holds, by name; the first is the module."""
        ...

    @property
    def score(self) -> str | None:
        """The metric of `evaluate` by which the best epoch is picked; `None` if it is always the last."""
        ...

    def begin(self, run: Run) -> None:
        """Run the preparations before the first epoch."""
        ...

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch, counted from 0, and return its row of metrics."""
        ...

    def diagnostics(self) -> list[dict[str, float]]:
        """Return the diagnostics of the last epoch, a row for each measured step."""
        ...

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the split that selects, by name; without `score` if there are no labels."""
        ...

    def keep(self, run: Run) -> None:
        """Write the network, the best so far, to the run."""
        ...

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the content of `result.json`."""
        ...


def run_epochs(open_job: Callable[[], Job], recipe: AnyRecipe, path: Path, *, resume: bool) -> dict[str, Any]:
    """Train what `open_job` builds, epoch by epoch, and return the content of `result.json`.

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
    progress = _restore(job, run) if resume and run.last.exists() else Progress(rows=[])
    if not progress.rows:
        job.begin(run)
    board = _Board(run, progress) if job.processes.first else None
    for epoch in range(len(progress.rows), job.epochs):
        row = job.train_epoch(epoch)
        _check_weights(job, epoch)
        row |= {f"{recipe.select}_{name}": value for name, value in job.evaluate(epoch).items()}
        measured = [{"epoch": epoch + 1, **step} for step in job.diagnostics()]
        better = progress.add(row, measured, row.get(f"{recipe.select}_{job.score}"))
        if board is not None:
            board.write(row, measured)
            _store(job, run, progress, better=better)
            tqdm.write(_line(row, job))
        job.processes.wait()
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


def _store(job: Job, run: Run, progress: Progress, *, better: bool) -> None:
    """Write the epoch to disk, `last.ckpt` at the end: an epoch that stopped before that is repeated."""
    state = {**job.parts, "progress": asdict(progress), "random": random_state()}
    if better and job.score is not None:
        save_checkpoint(run.best, state)
    if better:
        job.keep(run)
    run.write_metrics(progress.rows)
    if progress.diagnostics:
        run.write_metrics(progress.diagnostics, run.diagnostics_file)
    save_checkpoint(run.last, state)


def _check_weights(job: Job, epoch: int) -> None:
    """Raise an error for weights that are not finite: no loss follows the last step of an epoch."""
    module = next(iter(job.parts.values()))
    for name, tensor in module.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise RelgraphError(
                f"the weights are not a number after epoch {epoch + 1}: {name} first; a smaller learning rate may help"
            )


def _restore(job: Job, run: Run) -> Progress:
    """Restore a run to its last checkpoint."""
    state = load_checkpoint(run.last, next(iter(job.parts)))
    try:
        for name, part in job.parts.items():
            part.load_state_dict(state[name])
        set_random_state(state["random"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelgraphError(f"{run.last} does not belong to this run's recipe: {reason}") from error


class _Board:
    """What is written for TensorBoard: a row an epoch, and one for each measured step."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self.measured = len(progress.diagnostics)
        self.epochs, self.steps = _tensorboard(run, len(progress.rows)), _tensorboard(run, self.measured, "steps")

    def write(self, row: Mapping[str, float], measured: Sequence[Mapping[str, float]]) -> None:
        """Write an epoch."""
        for step in measured:
            self.measured += 1
            self.steps.log_metrics({name: value for name, value in step.items() if name != "epoch"}, step=self.measured)
        figures = {name: value for name, value in row.items() if name != "epoch"}
        self.epochs.log_metrics(figures, step=int(row["epoch"]))
        self.epochs.save()
        self.steps.save()

    def close(self) -> None:
        """Close the files."""
        self.epochs.finalize("success")
        self.steps.finalize("success")


def _tensorboard(run: Run, done: int, version: str = "") -> Any:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    # Steps after the last checkpoint of a stopped run are hidden, since they are trained again.
    return TensorBoardLogger(
        run.path, name="tensorboard", version=version, default_hp_metric=False, purge_step=done + 1
    )


def _line(row: Mapping[str, float], job: Job) -> str:
    figures = [f"epoch {row['epoch']:>3}/{job.epochs}", f"loss {row['loss']:.4f}"]
    if "train_top1" in row:
        figures.append(f"train {row['train_top1']:.2f} %")
    select = job.recipe.select
    names = {f"{select}_top1": select, f"{select}_knn": f"{select} k-NN"}
    figures += [f"{words} {row[name]:.2f} %" for name, words in names.items() if name in row]
    if "overlap" in row:
        figures.append(f"overlap {row['overlap']:.2f}")
    return "  ".join([*figures, f"{row['images_per_s']:.0f} images/s"])
