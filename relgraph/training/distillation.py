"""Distillation: from a recipe to a student, what distils it and all that its training needs, from one seed."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from relgraph.data.datasets import DataSet
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.networks.batch_norm import average_statistics, synchronised
from relgraph.networks.files import save_network
from relgraph.networks.teachers import Teacher
from relgraph.outputs import StepInputs
from relgraph.processes import ProcessGroup
from relgraph.training.building import on_device, open_data, open_fabric, open_teacher
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.construction import new_distiller
from relgraph.training.epochs import Job, Progress
from relgraph.training.feed import Feed, open_feed
from relgraph.training.head import train_head
from relgraph.training.objective import Distiller, Stage
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.schedule import student_schedule
from relgraph.training.tasks import SELECTED_LAST, Classes, Neighbours, Task
from relgraph.training.threads import choose_threads, trial_step
from relgraph.training.trainer import run_job


@dataclass(eq=False)
class Distillation(Job):
    """The training of a student with or without a teacher."""

    recipe: Recipe
    objective: Distiller

    @property
    def score(self) -> str:
        """The metric by which the best epoch is picked."""
        return self.task.score

    def stage(self, epoch: int) -> Stage:
        """Return the stage of the student's training in an epoch."""
        return self.recipe.stage(epoch)

    def begin(self, run: Run) -> None:
        """Train the teacher's head, if the recipe trains it first."""
        head = self.objective.teacher_head
        if self.recipe.teacher_head == "sequential" and head is not None:
            train_head(self, head, self.recipe, run)

    def average(self) -> None:
        """Average the statistics of batch norms that each saw the images of one process."""
        if self.recipe.batch_norm == "local":
            average_statistics(self.objective, self.processes)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the student's metrics on the split that selects."""
        return self.task.evaluate(self.objective.student, self.selecting)

    def keep(self, run: Run) -> None:
        """Write the student."""
        save_network(run.student_file, self.objective.student, self.description())

    def description(self) -> dict[str, Any]:
        """Return what is needed to build and feed the student again, as it is stored beside its weights."""
        recipe = self.recipe
        return {
            "objective": f"{recipe.method} ({recipe.graph_in_use})" if recipe.graph_in_use else recipe.method,
            "backbone": recipe.student,
            "dim": recipe.dim,
            "classes": list(self.data.train.classes),
            **super().description(),
        }

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the run's figures: the test split is read here, at the end, for the last epoch and for the best."""
        recipe, data, student = self.recipe, self.data, self.objective.student
        last = self.task.evaluate(student, data.test, probe=True)
        self.module.load_state_dict(load_checkpoint(run.best)["objective"])
        best = self.task.evaluate(student, data.test, probe=True)
        method, score = self.objective.method, f"{recipe.select}_{self.score}"
        selected: dict[str, Any] = {"note": SELECTED_LAST}
        if any(score in row for row in progress.rows):
            selected = {f"{score}_of_best": progress.best_score, "note": self.task.selected[recipe.select]}
        return {
            "method": recipe.method,
            "weights": {} if method is None else method.weights,
            "graph": recipe.graph_in_use,
            "test": {"last": last, "best": best},
            "best_epoch": progress.best_epoch,
            "selected_on": recipe.select,
            **selected,
            "images": {"train": len(data.train), "labelled": int((data.train.labels >= 0).sum()),
                       "val": len(data.val), "test": len(data.test)},
            **super().result(run, progress),
        }  # fmt: skip


def train(recipe: Recipe, path: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a student and return the content of `result.json`; the run directory at `path` then holds everything.

    A run that is stopped and resumed ends with the same weights and figures as one that was not.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. The results of earlier epochs are kept.
    """
    return run_job(lambda: build(recipe), recipe, path, resume=resume)


def build(recipe: Recipe) -> Distillation:
    """Return the job of a recipe.

    Raises:
        RelgraphError: for names that are not known, files that cannot be read, or values that do not fit the data.
    """
    fabric, data = open_fabric(recipe), open_data(recipe)
    teacher = open_teacher(recipe).to(fabric.device) if recipe.uses_teacher else None
    if recipe.normalise == "teacher":
        # Also for a student alone, so that it is compared on the same input.
        data = _normalised_as(teacher or open_teacher(recipe), data)
    task = open_task(recipe, on_device(data, fabric.device), fabric.device)
    distiller = new_distiller(recipe, task, teacher)
    precision = str(fabric.strategy.precision.precision)
    feed, recipe, note = open_feed(recipe, task, teacher, precision, distiller.method)
    images = recipe.batch_size // recipe.accumulate
    trial = trial_step(fabric, distiller.student, _squares, feed, task.data.train, images)
    threads, line = choose_threads(recipe.threads, trial, task.processes)
    recipe = replace(recipe, threads=threads if recipe.threads == "auto" else recipe.threads)
    return assemble(recipe, fabric, task, feed, distiller, note if line is None else f"{note}\n{line}")


def _squares(student: nn.Module, inputs: StepInputs) -> Tensor:
    """Return a loss for a trial of threads: it needs no teacher and no other process."""
    embedding: Tensor = student(inputs.images).embedding
    return embedding.float().square().mean()


def open_task(recipe: Recipe, data: DataSet, device: torch.device) -> Task:
    """Return what the recipe's student is trained for: classes, or neighbours if no label teaches it."""
    kind = Classes if recipe.learns_labels else Neighbours
    return kind(data, Normalise(data.mean, data.std), device, recipe.processes, ProcessGroup.current())


def assemble(recipe: Recipe, fabric: Any, task: Task, feed: Feed, distiller: Distiller, note: str = "") -> Distillation:
    """Return the job of networks that are built, with their optimisers."""
    if task.processes.count > 1 and recipe.batch_norm == "sync":
        synchronised(distiller, task.processes)
    sgd = partial(SGD, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    optimisers: dict[str, Optimizer] = {"student_optimiser": sgd(distiller.student_parameters(), lr=recipe.lr)}
    of_teacher = list(distiller.teacher_parameters())
    if of_teacher:
        optimisers["teacher_optimiser"] = sgd(of_teacher, lr=recipe.teacher_lr)
    job = Distillation(recipe, fabric, task, feed, distiller, optimisers, student_schedule(recipe), note,
                       recipe.labelled_share, recipe.diagnose_every)  # fmt: skip
    if recipe.compile:
        distiller.student.compile()
    return job


def _normalised_as(teacher: Teacher, data: DataSet) -> DataSet:
    channels = data.train.images.shape[1]
    if teacher.channels != channels:
        raise RelgraphError(
            f"normalise 'teacher' needs images with the teacher's channels, got {channels} and {teacher.channels} of "
            f"{teacher.name}: use 'dataset', or another teacher"
        )
    return replace(data, mean=teacher.mean, std=teacher.std)
