"""relgraph's own trainer as the benchmark and the checks for a GPU use it: built from a recipe, then step by step.

All that they know of the trainer's inner functions stands in this file.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore
from relgraph.networks.teachers import Teacher
from relgraph.outputs import Batch
from relgraph.training.building import on_device, open_fabric
from relgraph.training.distillation import assemble, new_distiller, open_task
from relgraph.training.epochs import Meter, step, train_epoch
from relgraph.training.feed import Feed, Online, Stored, input_of, make_plan, reads_maps
from relgraph.training.recipe import Recipe


def device_and_precision(recipe: Recipe) -> tuple[torch.device, str]:
    """Return where a run of the recipe computes, and in which precision."""
    fabric = open_fabric(recipe)
    return fabric.device, str(fabric.strategy.precision.precision)


class Run:
    """A training run: the teacher's outputs come from the store if there is one, else from the teacher if there is."""

    def __init__(
        self, recipe: Recipe, data: DataSet, teacher: Teacher | None, store: EmbeddingStore | None, name: str
    ) -> None:
        fabric = open_fabric(recipe)
        task = open_task(recipe, on_device(data, fabric.device), fabric.device)
        distiller = new_distiller(recipe, task, teacher)
        method = distiller.method
        plan = make_plan(recipe.augmentation, data, None if method is None else method.views)
        if store is not None:
            self.feed: Feed = Stored(plan, task.student_input, store, data.train.index.to(fabric.device), True)
        elif teacher is not None:
            # A copy: the other loops cast the weights anew in every step, as they are.
            held = deepcopy(teacher).hold(str(fabric.strategy.precision.precision))
            self.feed = Online(plan, task.student_input, held, input_of(held), maps=reads_maps(method))
        else:
            self.feed = Feed(plan, task.student_input)
        self.job = assemble(recipe, fabric, task, self.feed, distiller, name)
        self.views, self.meter = torch.Generator().manual_seed(0), Meter()

    def batches(self, indices: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the index and the images of each batch, on the device, and set the networks to training."""
        self.job.module.train()
        device = self.job.fabric.device
        images: Iterator[Tensor] = self.job.data.train.batches(indices)
        return [(index, batch.to(device)) for index, batch in zip(indices, images, strict=True)]

    def step(self, index: Tensor, images: Tensor) -> None:
        """Train on one batch, from uint8 images to running sums."""
        step(self.job, images, index, self.views, self.meter)

    def bare(self, n: int) -> Iterator[None]:
        """Train n steps without the trainer: the same student, optimiser and precision, of one batch that is ready."""
        job = self.job
        student, (optimiser, *_) = job.objective.student, job.optimisers.values()
        index = torch.arange(min(job.recipe.batch_size, len(job.data.train)), device=job.fabric.device)
        images, labels = job.task.student_input(job.data.train.pixels[index]), job.data.train.labels[index]
        student.train()
        yield
        for _ in range(n):
            optimiser.zero_grad()
            with job.fabric.autocast():
                loss = functional.cross_entropy(student(images).logits.float(), labels)
            loss.backward()
            optimiser.step()

    def teacher_features(self, index: Tensor) -> Tensor:
        """Return what the teacher gives `(N, W)` of these training images, each in some view."""
        train = self.job.data.train
        found = self.feed(train.pixels[index], Batch(index, train.labels[index]), torch.Generator()).teacher
        assert found is not None
        return found.embedding

    def epoch(self, images: int) -> Callable[[], object]:
        """Return what trains an epoch on the first so many training images."""
        job, data = self.job, self.job.data
        few = replace(data, train=data.train.select(torch.arange(images)))
        of_few = assemble(job.recipe, job.fabric, replace(job.task, data=few), self.feed, job.objective, job.note)
        return partial(train_epoch, of_few, 0)
