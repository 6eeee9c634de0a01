"""The learning rate at a point of a training."""

import math
from dataclasses import dataclass
from typing import Literal

from relgraph.training.pretrain_recipe import PretrainRecipe
from relgraph.training.recipe import Recipe


@dataclass(frozen=True)
class Schedule:
    """A learning rate by epochs: a warm-up or a first stage, then steps of x 0.1, a cosine to 0, or a constant.

    Attributes:
        lr: The full rate.
        kind: What follows the start.
        epochs: Length of the training.
        start: Epoch at which the cosine begins.
        milestones: Epochs after which the steps come.
        warmup: Whether the rate rises linearly from 0 before the start; otherwise it is full.
        by_epoch: Whether the rate is that of the epoch's beginning in all of its steps.
    """

    lr: float
    kind: Literal["step", "cosine", "constant"]
    epochs: int
    start: int = 0
    milestones: tuple[float, ...] = ()
    warmup: bool = False
    by_epoch: bool = True

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a point in epochs and, unless it is constant in each, parts of them, from 0."""
        epoch = math.floor(epoch) if self.by_epoch else epoch
        if self.warmup and epoch < self.start:
            return self.lr * epoch / self.start
        if self.kind == "step":
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if self.kind == "constant":
            return self.lr
        done = max(0.0, epoch - self.start) / max(1e-9, self.epochs - self.start)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def student_schedule(recipe: Recipe) -> Schedule:
    """Return the schedule of a student, whose rate is constant in each epoch.

    Steps come after the milestones: by default after 62.5 %, 75 % and 87.5 % of the epochs, 150, 180 and 210 of 240 as
    in EGA's official code. Epochs in which a method trains alone have the full rate, and the schedule begins after
    them; milestones that the recipe names are epochs of the whole run.
    """
    first = recipe.initial_epochs
    rest = recipe.epochs - first
    milestones = recipe.milestones
    if milestones is None:
        milestones = tuple(first + round(rest * part) for part in (0.625, 0.75, 0.875))
    return Schedule(recipe.lr, recipe.schedule, recipe.epochs, first, milestones)


def pretraining_schedule(recipe: PretrainRecipe) -> Schedule:
    """Return the schedule of a pre-training, whose rate changes with every step, after a warm-up from 0.

    Steps come after a half and after three quarters of all epochs.
    """
    assert recipe.lr is not None and recipe.epochs is not None, "its objective fills in what is not given"
    milestones = recipe.epochs * 0.5, recipe.epochs * 0.75
    start = recipe.warmup_epochs or 0
    return Schedule(recipe.lr, recipe.schedule, recipe.epochs, start, milestones, warmup=True, by_epoch=False)
