"""The sequential strategy: the teacher's head is trained first, alone, and is then fixed."""

from collections.abc import Mapping
from dataclasses import replace

from relgraph.networks.heads import Head
from relgraph.outputs import Output, StepInputs
from relgraph.processes import ProcessGroup
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.epochs import Job
from relgraph.training.objective import LabelLoss, Losses, Objective, Stage, losses_of
from relgraph.training.optimisers import new_optimiser
from relgraph.training.recipe import Recipe
from relgraph.training.resuming import restore, write_first
from relgraph.training.runs import RunDirectory
from relgraph.training.schedule import Schedule, student_schedule
from relgraph.training.tasks import classes_of
from relgraph.training.trainer import train_epochs


class TeacherHead(Objective):
    """Projection and classifier of a frozen teacher, trained by labels."""

    def __init__(self, head: Head, label_loss: LabelLoss, processes: ProcessGroup) -> None:
        super().__init__()
        self.head, self.label_loss, self.processes = head, label_loss, processes

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of the labels."""
        assert inputs.teacher is not None
        embedding, logits = self.head(inputs.teacher.embedding)
        loss = self.label_loss(logits, inputs.batch.labels, self.processes)
        return losses_of("teacher_head", loss, Output(embedding, logits), self.processes)


class HeadTraining(Job):
    """The training of a teacher's head, of few epochs, before that of the student."""

    title = "teacher's head, epoch"
    stream = "teacher's head: "

    def line(self, row: Mapping[str, float]) -> str | None:
        """Return the figures of the last epoch."""
        done = int(row["epoch"])
        if done < self.schedule.epochs:
            return None
        epochs = f"{done} epoch{'s' if done > 1 else ''}"
        return f"teacher's head: {epochs}, loss {row['loss']:.4f}, train {row['train_top1']:.2f} %, now fixed"


def train_head(student: Job, head: Head, recipe: Recipe, run: RunDirectory) -> None:
    """Train the head of a job's teacher by cross-entropy on the labelled images, then leave it fixed.

    This is the "sequential" strategy of EGA (Ma, Chen, Akata, 2022, arXiv 2211.13264): the student's kind of optimiser
    at `teacher_lr`, on the student's schedule, in the student's proportion, without warm-up, `min_lr` and clipping.
    (The "joint" head has a constant rate.) The official release does not run it: with a CLIP teacher it ignores the
    trained head. Every epoch is kept in `head.ckpt`, and a stopped run goes on after it.

    Raises:
        RelgraphError: if the loss is not a number, or `head.ckpt` is not of this run.
    """
    head.requires_grad_(True)
    optimisers = {"optimiser": new_optimiser(recipe, head, head.parameters(), recipe.teacher_lr)}
    task, run = classes_of(student.task), run.of_head()
    objective, schedule = TeacherHead(head, task.loss, task.processes), head_schedule(recipe)
    job = HeadTraining(recipe, student.fabric, task, student.feed, objective, optimisers, schedule)
    progress = restore(job, run)
    write_first(job, run)
    train_epochs(job, run, progress)
    head.requires_grad_(False)


def head_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the head's own training: its epochs, its rate, steps in the student's proportion."""
    epochs = recipe.head_epochs or recipe.epochs
    milestones = recipe.milestones if epochs == recipe.epochs else None
    return replace(recipe, epochs=epochs, head_epochs=None, teacher_head="joint", lr=recipe.teacher_lr,
                   milestones=milestones, init_epochs=0, warmup_epochs=0, min_lr=0.0, patience=None)  # fmt: skip


def head_schedule(recipe: Recipe) -> Schedule:
    """Return the rates of the head's own training: the student's milestones in proportion to its epochs."""
    own = head_recipe(recipe)
    found = student_schedule(own)
    if recipe.milestones is None or own.milestones is not None:
        return found
    return replace(found, milestones=tuple(round(at * own.epochs / recipe.epochs) for at in recipe.milestones))
