"""What a stopped run goes on from: its checkpoint, the data and the teacher that it was made of, its kept network."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from relgraph.data.fingerprint import check_unchanged, fingerprint
from relgraph.errors import RelgraphError
from relgraph.names import origins
from relgraph.networks.files import check_network
from relgraph.networks.teachers import Teacher
from relgraph.printing import tell
from relgraph.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from relgraph.training.epochs import Job, Progress
from relgraph.training.runs import AnyRecipe, RunDirectory

SPLITS = ("train", "val", "test")


def inputs_of(job: Job) -> dict[str, Any]:
    """Return the fingerprints of what a job is made of: its splits, which the first process has, and its teacher.

    Image files that were skipped are in it with the reason.
    """
    skipped = {"skipped": job.data.left_out.skipped} if job.data.left_out.skipped else {}
    data = {split: fingerprint(getattr(job.data, split), job.processes) for split in SPLITS}
    return {"data": data, **skipped, **job.frozen,
            **({"held_out": job.data.held_out} if job.data.unseen else {}),
            **({"code": code} if (code := origins(job.recipe)) else {})}  # fmt: skip


def checkpoint_of(job: Job, progress: Progress) -> dict[str, Any]:
    """Return what a checkpoint of a job holds."""
    return {**job.parts, "progress": asdict(progress), "random": random_state()}


def write_first(job: Job, run: RunDirectory) -> None:
    """Write a checkpoint before the first epoch, if there is none: from then on a run without one has lost it."""
    if job.processes.first and not run.last.exists():
        save_checkpoint(run.last, checkpoint_of(job, Progress()))


def resumed(job: Job, run: RunDirectory) -> Progress:
    """Restore a job to its last checkpoint, once all that it goes on from is as it was, and return its progress.

    Of the best epoch's files, what is missing or damaged is written anew from the others where that is possible.

    Raises:
        RelgraphError: if the data or the teacher are others now, the last checkpoint is gone or damaged, or the weights
            of the best epoch are in no file.
    """
    check_inputs(job, run)
    progress = restore(job, run)
    kept = _check_kept(job, run, progress) if job.processes.first and progress.best_epoch > 0 else 0
    if int(job.processes.agreed(str(kept))) > len(progress.rows):
        progress.forget_best()
    return progress


def check_inputs(job: Job, run: RunDirectory) -> None:
    """Raise RelgraphError if a run's data or teacher are others now."""
    known = run.inputs()
    for split in SPLITS:
        of_split = known.get("data", {}).get(split, {})
        told = check_unchanged(getattr(job.data, split), of_split, str(run.path), job.processes)
        if told is not None:
            tell(told)
    check_frozen(known, job.frozen, str(run.path))
    if job.processes.first:
        tell(*changed_code(known, job.recipe, str(run.path)))


def changed_code(known: Mapping[str, Any], recipe: AnyRecipe, owner: str) -> list[str]:
    """Return a line for each part of a run whose code of one's own is not what its inputs say."""
    was = known.get("code", {})
    return [
        f"the code of the {part}, {now['spelling']}, is not that with which {owner} was begun"
        for part, now in origins(recipe).items()
        if any(was.get(part, {}).get(word) != now.get(word) for word in ("sha256", "version"))
    ]


def check_frozen(known: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]], owner: str) -> None:
    """Raise RelgraphError if frozen networks of a run, by their part in it, are others now than its inputs say."""
    for part, network in now.items():
        if known.get(part, {}).get("fingerprint") != network["fingerprint"]:
            told = f"expected those with which {owner} was begun, found others"
            raise RelgraphError(f"the weights of the {part} {network['name']}: {told}")


def network_of(teacher: Teacher) -> dict[str, str]:
    """Return a teacher's name and fingerprint."""
    return {"name": teacher.name, "fingerprint": teacher.fingerprint()}


def restore(job: Job, run: RunDirectory) -> Progress:
    """Restore a job to its last checkpoint, and return its progress; without one, at the beginning.

    Raises:
        RelgraphError: if the checkpoint cannot be read, and neither can that of the best epoch, or is not of this job.
    """
    if not run.last.exists() and not run.metrics_file.exists():  # a checkpoint comes before the metrics
        return Progress()
    state = _last(job, run)
    try:
        for name, part in job.parts.items():
            part.load_state_dict(state[name])
        set_random_state(state["random"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelgraphError(f"{run.last} does not belong to this run's recipe: {reason}") from error


def _last(job: Job, run: RunDirectory) -> dict[str, Any]:
    """Return the last checkpoint; if it is gone or damaged that of the best epoch, which then takes its place."""
    try:
        return load_checkpoint(run.last)
    except RelgraphError as error:
        if job.score is None or not run.best.is_file():
            raise RelgraphError(f"{error}: put back a copy, or begin another run") from error
        state = load_checkpoint(run.best)
        if job.processes.first:
            save_checkpoint(run.last, state)
            tell(f"{error}: the run goes on after epoch {len(state['progress']['rows'])}, from {run.best.name}")
        return state


def _check_kept(job: Job, run: RunDirectory, progress: Progress) -> int:
    """Write the best epoch's checkpoint and network again, if one is missing or damaged, and return which epoch it is.

    It is one that is not in `progress` where the run was stopped between the two checkpoints of that epoch.
    """
    last = load_checkpoint(run.last)
    best = last
    if job.score is not None:
        try:
            best = load_checkpoint(run.best)
        except RelgraphError as error:
            if progress.best_epoch < len(progress.rows) or progress.within is not None:
                told = f"the weights of the best epoch, {progress.best_epoch}, are in no other file"
                raise RelgraphError(f"{error}; {told}: begin another run") from error
            save_checkpoint(run.best, last)
            tell(f"{run.best} was missing or damaged: written again from {run.last.name}")
    file = job.kept(run)
    try:
        if file is not None:
            check_network(file)
    except RelgraphError as error:
        job.load(best)
        job.keep(run)
        job.load(last)
        source = run.last if best is last else run.best
        turned = ", without a rotation of relgraph align, if it had one" if file == run.student_file else ""
        tell(f"{error}: written again from {source.name}{turned}")
    return len(best["progress"]["rows"])
