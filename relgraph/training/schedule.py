"""The learning rate at a point of a training."""

import math
from dataclasses import dataclass
from typing import Literal

from relgraph.training.pretrain_recipe import PretrainRecipe
from relgraph.training.recipe import Recipe

POWER = 0.9  # of `poly`, in all published trainings of segmentation


@dataclass(frozen=True)
class Schedule:
    """A learning rate by epochs: a warm-up or a first stage, then steps of x 0.1, a cosine, a power, or a constant.

    With `poly` it is `lr * (1 - done) ** 0.9`, where `done` is the share of the epochs that have passed.

    Attributes:
        lr: The full rate.
        kind: What follows the start.
        epochs: Length of the training.
        start: Epoch at which the cosine or the power begins.
        milestones: Epochs after which the steps come.
        warmup: Epochs in which the rate rises linearly from 0, with every step: else it would be 0 in all of the first.
        by_epoch: Whether the rate, after the warm-up, is that of the epoch's beginning in all of its steps.
        min_lr: The rate at the end of the cosine.
    """

    lr: float
    kind: Literal["step", "cosine", "poly", "constant"]
    epochs: int
    start: int = 0
    milestones: tuple[float, ...] = ()
    warmup: int = 0
    by_epoch: bool = True
    min_lr: float = 0.0

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a point in epochs and parts of them, from 0."""
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        epoch = math.floor(epoch) if self.by_epoch else epoch
        if self.kind == "step":
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if self.kind == "constant":
            return self.lr
        done = min(1.0, max(0.0, epoch - self.start) / max(1e-9, self.epochs - self.start))
        if self.kind == "poly":
            return float(self.lr * (1 - done) ** POWER)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def student_schedule(recipe: Recipe) -> Schedule:
    """Return the schedule of a student, constant in each epoch but in a warm-up, with `schedule_by` or `poly`.

    Steps come after the milestones. Epochs in which a method trains alone have the full rate behind the warm-up, and
    the cosine begins after both; milestones that the recipe names are epochs of the whole run.
    """
    start = max(recipe.initial_epochs, recipe.warmup_epochs)
    return Schedule(recipe.lr, recipe.schedule, recipe.epochs, start, recipe.milestones_in_use, recipe.warmup_epochs,
                    recipe.schedule_by == "epoch" and recipe.schedule != "poly", recipe.min_lr)  # fmt: skip


def pretraining_schedule(recipe: PretrainRecipe) -> Schedule:
    """Return the schedule of a pre-training, whose rate changes with every step, after a warm-up from 0.

    Steps come after a half and after three quarters of all epochs.
    """
    assert recipe.lr is not None and recipe.epochs is not None, "its objective fills in what is not given"
    milestones = recipe.epochs * 0.5, recipe.epochs * 0.75
    start = recipe.warmup_epochs or 0
    return Schedule(recipe.lr, recipe.schedule, recipe.epochs, start, milestones, start, False, recipe.min_lr)
