"""The learning rate of an epoch."""

import math

from relgraph.training.recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the student's learning rate in an epoch, counted from 0.

    Steps of x 0.1 come after the milestones: by default after 62.5 %, 75 % and 87.5 % of the epochs, 150, 180 and
    210 of 240 as in EGA's official code. Epochs in which a method trains alone have the full rate, and the schedule
    begins after them; milestones that the recipe names are epochs of the whole run.
    """
    if recipe.schedule == "step" and recipe.milestones is not None:
        return recipe.lr * 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)
    first = recipe.initial_epochs
    epochs, epoch = recipe.epochs - first, max(0, epoch - first)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if recipe.schedule == "constant":
        return recipe.lr
    milestones = recipe.milestones
    if milestones is None:
        milestones = tuple(round(epochs * part) for part in (0.625, 0.75, 0.875))
    return recipe.lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)
