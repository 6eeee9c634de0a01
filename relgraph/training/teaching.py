"""Where a batch's views and the teacher's features of them come from: a teacher that runs, or one that was stored."""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.views import draw_view
from relgraph.errors import RelgraphError
from relgraph.networks.teachers import Features, Teacher
from relgraph.training.inputs import teacher_input
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Wanted, find_store


class Feed(Protocol):
    """A map from a batch of the training set to what student and teacher make of it."""

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Features | None]:
        """Return the student's view, uint8 `(B, C, H, W)`, and the teacher's features of the images, if any.

        `images` `(B, C, H, W)` uint8 lie on the device; `index` `(B,)` are their positions in the training set, and
        what is random comes from `generator`, on the CPU.
        """
        ...


class WithoutTeacher:
    """Views for a student alone."""

    def __init__(self, data: DataSet) -> None:
        self.padding, self.flip = data.crop_padding, data.flip

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> tuple[Tensor, None]:
        """Return fresh views, and no features."""
        return draw_view(len(images), self.padding, self.flip, generator).apply(images), None


class Online:
    """The teacher runs in every step, on the student's view or, with `views: independent`, on one of its own.

    With `maps` it hands on its stage maps as well.
    """

    def __init__(self, data: DataSet, teacher: Teacher, fabric: Any, *, shared: bool, maps: bool = False) -> None:
        self.padding, self.flip = data.crop_padding, data.flip
        self.teacher, self.fabric, self.shared, self.maps = teacher, fabric, shared, maps

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Features]:
        """Return fresh views, and the teacher's features of them or of other fresh views."""
        student = draw_view(len(images), self.padding, self.flip, generator).apply(images)
        seen = student
        if not self.shared:
            seen = draw_view(len(images), self.padding, self.flip, generator).apply(images)
        with self.fabric.autocast():
            prepared = teacher_input(self.teacher, seen)
            return student, self.teacher.features(prepared) if self.maps else Features(self.teacher(prepared))


class Stored:
    """The teacher's features are read from a store, of one of its fixed views of each image, drawn uniformly.

    Shared views: the student sees that very view, so its augmentation is the store's few crops for the whole training,
    where an online teacher sees a fresh one in every epoch. Independent views: the student's crops are fresh, and the
    teacher speaks of a stored view; with one view in the store, of the whole image.
    """

    def __init__(self, data: DataSet, store: EmbeddingStore, device: torch.device | str, *, shared: bool) -> None:
        self.padding, self.flip = data.crop_padding, data.flip
        self.store, self.shared = store, shared
        self.views = store.views()
        self._stored_as = data.train.index.to(device)

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Features]:
        """Return the student's views, and the teacher's features of stored ones."""
        device = self._stored_as.device
        stored_as = self._stored_as[index.to(device, non_blocking=True)]
        if self.shared:
            view = self._draw(len(index), generator).to(device, non_blocking=True)
            return self.views.take(view, stored_as).apply(images), Features(self.store.rows(view, stored_as))
        student = draw_view(len(images), self.padding, self.flip, generator).apply(images)
        view = self._draw(len(index), generator).to(device, non_blocking=True)
        return student, Features(self.store.rows(view, stored_as))

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.store.contents.views, (n,), generator=generator)


def open_feed(
    recipe: Recipe, data: DataSet, teacher: Teacher | None, fabric: Any, *, maps: bool = False
) -> tuple[Feed, str]:
    """Return where views and features come from as the recipe's `teacher_mode` says, and a line that tells it.

    `auto` takes the first store that fits; where there is none, the line says why a store of the same data set and
    teacher was passed over. Stage maps (`maps`) are in no store: there the teacher runs.

    Raises:
        RelgraphError: if the mode is `stored` and no store fits, or stage maps are asked for.
    """
    if teacher is None:
        return WithoutTeacher(data), "teacher: none"
    shared = recipe.views == "shared"
    online = Online(data, teacher, fabric, shared=shared, maps=maps)
    if maps:
        if recipe.teacher_mode == "stored":
            raise RelgraphError(
                f"{recipe.method} reads the teacher's stage maps, which no store holds: use --teacher-mode online"
            )
        return online, f"teacher: online, in every step ({recipe.method} reads its stage maps)"
    if recipe.teacher_mode == "online":
        return online, "teacher: online"
    store, reasons = find_store(Wanted(recipe, data, teacher, fabric.device))
    if store is not None:
        found = store.contents
        seen = "one of them drawn for both networks" if shared else "fresh ones for the student"
        views = f"{found.views} view{'s' if found.views > 1 else ''} an image, {seen}"
        line = f"teacher: stored embeddings {store.path}, {views}, computed in {found.precision}"
        return Stored(data, store, fabric.device, shared=shared), line
    if recipe.teacher_mode == "stored":
        none = f"{recipe.embeddings} holds none of {recipe.dataset} by {recipe.teacher}, relgraph embed makes them"
        raise RelgraphError(f"no stored embeddings fit: {'; '.join(reasons) or none}")
    if not reasons:
        return online, "teacher: online, in every step (relgraph embed would store what it says, once)"
    return online, f"teacher: online, no stored embeddings fit: {'; '.join(reasons)}"


def settled(recipe: Recipe, feed: Feed) -> Recipe:
    """Return the recipe with `teacher_mode: auto` replaced by what was found, so that a resumed run goes on like it."""
    if isinstance(feed, Stored):
        return replace(recipe, teacher_mode="stored", embeddings=str(feed.store.path))
    return replace(recipe, teacher_mode="online") if isinstance(feed, Online) else recipe
