"""relgraph's own trainer as the benchmark and the checks for a GPU use it: built from a recipe, then step by step.

All that they know of the trainer's inner functions stands in this file.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from relgraph.training.loop import step, train_epoch
from relgraph.training.meter import Meter
from relgraph.training.setup import assemble, new_distiller, reads_maps
from relgraph.training.teacher_features import Feed, Online, Stored, WithoutTeacher, make_plan
from torch import Tensor

from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore
from relgraph.methods import Batch
from relgraph.networks.teachers import Teacher
from relgraph.training.building import open_fabric
from relgraph.training.recipe import Recipe


def device_and_precision(recipe: Recipe) -> tuple[torch.device, str]:
    """Return where a run of the recipe computes, and in which precision."""
    fabric = open_fabric(recipe)
    return fabric.device, str(fabric.strategy.precision.precision)


class Run:
    """A training run: the teacher's features come from the store if there is one, else from the teacher if there is."""

    def __init__(
        self, recipe: Recipe, data: DataSet, teacher: Teacher | None, store: EmbeddingStore | None, name: str
    ) -> None:
        fabric = open_fabric(recipe)
        self.distiller = new_distiller(recipe, data, teacher)
        method = self.distiller.method
        plan = make_plan(recipe.augmentation, data, None if method is None else method.views)
        self.feed: Feed
        if store is not None:
            self.feed = Stored(plan, data, store, fabric.device, shared=True)
        elif teacher is not None:
            self.feed = Online(plan, teacher, fabric, shared=True, maps=reads_maps(method))
        else:
            self.feed = WithoutTeacher(plan)
        self.setup = assemble(recipe, fabric, data, self.distiller, self.feed, name)
        self.views, self.meter = self.setup.view_generator(0), Meter()

    def batches(self, indices: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the index and the images of each batch, on the device, and set the networks to training."""
        self.distiller.train()
        return list(zip(indices, self.setup.batches(indices), strict=True))

    def step(self, index: Tensor, images: Tensor) -> None:
        """Train on one batch, from uint8 images to running sums."""
        step(self.setup, images, index, self.views, self.meter)

    def teacher_features(self, index: Tensor) -> Tensor:
        """Return what the teacher gives `(N, W)` of these training images, each in some view."""
        train = self.setup.data.train
        found = self.feed(train.pixels[index], Batch(index, train.labels[index]), torch.Generator()).teacher
        assert found is not None and found.embedding is not None
        return found.embedding

    def epoch(self, images: int) -> Callable[[], object]:
        """Return what trains an epoch on the first so many training images."""
        data = self.setup.data
        few = replace(data, train=data.train.select(torch.arange(images)))
        return partial(train_epoch, replace(self.setup, data=few), 0)
