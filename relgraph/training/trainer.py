"""The trainer: a job is trained epoch by epoch, can be resumed, and has its figures in one run directory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from relgraph.errors import RelgraphError
from relgraph.processes import ProcessGroup
from relgraph.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from relgraph.training.epochs import Job, Progress, train_epoch
from relgraph.training.runs import AnyRecipe, Run, check_free, write_json


class Board:
    """Writes a run's metrics for TensorBoard.

    Args:
        run: The run.
        epochs: Epochs that are written already.
        measured: Measured steps that are.
    """

    def __init__(self, run: Run, epochs: int, measured: int) -> None:
        self.measured = measured
        self.epochs, self.steps = _logger(run, epochs), _logger(run, measured, "steps")

    def write(self, row: Mapping[str, float], measured: Sequence[Mapping[str, float]]) -> None:
        """Write an epoch and its measured steps."""
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


def _logger(run: Run, done: int, version: str = "") -> Any:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    # Steps after the last checkpoint of a stopped run are hidden, since they are trained again.
    return TensorBoardLogger(
        run.path, name="tensorboard", version=version, default_hp_metric=False, purge_step=done + 1
    )


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
    progress = restore(job, run) if resume else Progress()
    if not progress.rows:
        job.begin(run)
    board = Board(run, len(progress.rows), len(progress.diagnostics)) if job.processes.first else None
    train_epochs(job, run, progress, board)
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


def train_epochs(job: Job, run: Run, progress: Progress, board: Board | None = None) -> None:
    """Train the epochs that are missing from `progress`, each written to the run when it is done."""
    for epoch in range(len(progress.rows), job.schedule.epochs):
        row, measured = train_epoch(job, epoch)
        _check_weights(job, epoch)
        row |= {f"{job.recipe.select}_{name}": value for name, value in job.evaluate(epoch).items()}
        better = progress.add(row, measured, row.get(f"{job.recipe.select}_{job.score}"))
        if job.processes.first:
            if board is not None:
                board.write(row, measured)
            _store(job, run, progress, better=better)
            line = job.line(row)
            if line is not None:
                tqdm.write(line)
        job.processes.wait()


def restore(job: Job, run: Run) -> Progress:
    """Restore a job to its last checkpoint, and return its progress; without one, at the beginning.

    Raises:
        RelgraphError: if the checkpoint cannot be read, or is not one of this job.
    """
    if not run.last.exists():
        return Progress()
    state = load_checkpoint(run.last)
    try:
        for name, part in job.parts.items():
            part.load_state_dict(state[name])
        set_random_state(state["random"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelgraphError(f"{run.last} does not belong to this run's recipe: {reason}") from error


def _store(job: Job, run: Run, progress: Progress, *, better: bool) -> None:
    """Write the epoch to disk, the last checkpoint at the end: an epoch that stopped before that is repeated."""
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
    for name, tensor in job.objective.state_dict().items():
        if not bool(tensor.isfinite().all()):
            told = f"the weights are not a number after epoch {epoch + 1}: {name} first"
            raise RelgraphError(f"{told}; a smaller learning rate may help")
