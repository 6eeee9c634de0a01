"""The trainer: a job is trained epoch by epoch, can be resumed, and has its figures in one run directory."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from relgraph.errors import RelgraphError
from relgraph.files import write_json, writing
from relgraph.names import own_code_of
from relgraph.own_code import permitting
from relgraph.printing import tell
from relgraph.processes import ProcessGroup
from relgraph.training.callbacks import Callbacks, EpochEnd, check_callbacks
from relgraph.training.checkpoint import save_checkpoint
from relgraph.training.epochs import Job, Progress, train_epoch
from relgraph.training.loggers import Logger, find_loggers, open_loggers
from relgraph.training.resuming import checkpoint_of, inputs_of, resumed, write_first
from relgraph.training.runs import AnyRecipe, RunDirectory, check_free
from relgraph.training.stopping import ASKED, check_stop, stoppable


def run_job(
    open_job: Callable[[], Job], recipe: AnyRecipe, path: Path, *, resume: bool, callbacks: Callbacks = ()
) -> dict[str, Any]:
    """Train what `open_job` builds, in the run directory at `path`, and return the content of `result.json`.

    A run that is stopped and resumed ends with the same weights and figures as one that was not. Of several processes
    the first one writes, and names the directory; all of them must have access to it.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, its data or its teacher
            are others now, a file cannot be used, or a loss is not a number. The results of earlier epochs are kept.
        Stopped: if SIGTERM asked for it; a checkpoint holds all that was computed.
    """
    check_callbacks(callbacks)
    first = ProcessGroup.launched().first
    found = find_loggers(recipe, str(path) if resume else None)
    if resume:
        RunDirectory.open(path).check_recipe(recipe)
    elif first:
        check_free(path)
    with ExitStack() as held:
        held.enter_context(permitting(own_code_of(recipe)))
        if resume and first:
            held.enter_context(RunDirectory.open(path).locked())
        job = open_job()
        run = _open_run(job, path, held, resume=resume)
        progress = resumed(job, run) if resume else Progress()
        job.processes.wait()
        with stoppable(job.processes):
            if not progress.rows and progress.within is None:
                job.begin(run)
            write_first(job, run)
            done = len(progress.rows), max((int(row["step"]) for row in progress.diagnostics), default=-1)
            loggers = open_loggers(found, recipe, run, *done) if job.processes.first else []
            train_epochs(job, run, progress, loggers, callbacks)
        result = job.result(run, progress)
        if job.processes.first:
            write_json(run.result_file, result)
        job.processes.wait()
    for logger in loggers:
        logger.close()
    for callback in callbacks:
        callback.at_end(result)
    return result


def _open_run(job: Job, path: Path, held: ExitStack, *, resume: bool) -> RunDirectory:
    """Return the run's directory, which the first process makes and names, and keeps from others."""
    path = Path(job.processes.agreed(str(path)))
    inputs = {} if resume else inputs_of(job)
    if job.processes.first:
        tell(*job.note.split("\n"))
        if not resume:
            if job.recipe.bad_images == "stop":
                job.data.test.check()  # which is read when all is trained
            with writing(path):
                path.mkdir(parents=True, exist_ok=True)
            held.enter_context(RunDirectory(path).locked())
            RunDirectory.create(path, job.recipe, inputs)
    job.processes.wait()
    return RunDirectory.open(path)


def train_epochs(
    job: Job, run: RunDirectory, progress: Progress, loggers: Sequence[Logger] = (), callbacks: Callbacks = ()
) -> None:
    """Train the epochs that are missing from `progress`, each written to the run when it is done."""
    pauses = Amid(job, run, progress) if job.processes.count == 1 else None
    while not _over(job, progress):
        epoch = len(progress.rows)
        row, measured = train_epoch(job, epoch, progress, pauses, callbacks)
        _check_weights(job, epoch)
        row |= {f"{job.recipe.measured}_{name}": value for name, value in job.evaluate(epoch).items()}
        better = progress.add(row, measured, row.get(f"{job.recipe.select}_{job.score}"))
        if job.processes.first:
            for logger in loggers:
                logger.write(row, measured)
            _store(job, run, progress, better=better)
            line = job.line(row)
            if line is not None:
                tell(line)
        job.processes.wait()
        for callback in callbacks:
            callback.after_epoch(EpochEnd(epoch + 1, job.schedule.epochs, row, better, job.objective, run.path))
        if not _over(job, progress):
            check_stop()
    why = job.ending(progress)
    if why is not None and job.processes.first:
        tell(f"ended after epoch {len(progress.rows)} of {job.schedule.epochs}: {why}")


def _over(job: Job, progress: Progress) -> bool:
    return len(progress.rows) >= job.schedule.epochs or job.ending(progress) is not None


class Amid:
    """Checkpoints amid an epoch: by time, if the recipe has one, and where the run is asked to stop."""

    def __init__(self, job: Job, run: RunDirectory, progress: Progress) -> None:
        self.job, self.run, self.progress = job, run, progress
        self.last = time.monotonic()

    def due(self) -> bool:
        """Return whether a checkpoint is to be written now."""
        minutes = self.job.recipe.checkpoint_minutes
        return ASKED.is_set() or (minutes is not None and time.monotonic() - self.last > 60 * minutes)

    def save(self, within: dict[str, Any]) -> None:
        """Write one, with the state amid the epoch.

        Raises:
            Stopped: if the run is asked to stop.
        """
        save_checkpoint(self.run.last, checkpoint_of(self.job, replace(self.progress, within=within)))
        check_stop()
        self.last = time.monotonic()


def _store(job: Job, run: RunDirectory, progress: Progress, *, better: bool) -> None:
    """Write the epoch to disk, the last checkpoint at the end: an epoch that stopped before that is repeated."""
    state = checkpoint_of(job, progress)
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
