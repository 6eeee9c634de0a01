"""Where a batch's views and the teacher's features of them come from: a teacher that runs, or one that was stored."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from relgraph.data.augment import Augmentation, DrawnViews, make_augmentation
from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.extra_views import ExtraViews, make_extra_views
from relgraph.errors import RelgraphError
from relgraph.methods import Views
from relgraph.networks.teachers import Teacher
from relgraph.outputs import Batch, Output
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.inputs import StepInputs, teacher_input
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Wanted, find_store


@dataclass(frozen=True)
class Plan:
    """How the views of a run are drawn.

    Of a batch that is spread over processes each draws the views of all images, and applies those of its own: the views
    do not depend on the number of processes.
    """

    augmentation: Augmentation
    extra: ExtraViews | None = None
    processes: ProcessGroup = SINGLE_PROCESS

    def first(self, images: Tensor, generator: torch.Generator) -> "FirstView":
        """Draw a view of each of `images` `(B, C, H, W)`, those of this process."""
        (height, width), count = images.shape[-2:], self.processes.count * len(images)
        return FirstView(self.augmentation.draw(count, height, width, generator), self.processes.rows(count))

    def rest(self, images: Tensor, first: "FirstView", generator: torch.Generator) -> Tensor | None:
        """Return extra views of the images, `(V * B, C, h, w)`, mirrored as the first one is where it matters."""
        if self.extra is None:
            return None
        height, width = images.shape[-2:]
        flip = first.drawn.flip
        return self.extra.draw(len(flip), height, width, flip, generator).part(first.rows).apply(images)


class FirstView(NamedTuple):
    """A view drawn for each image of a batch, of which this process holds some rows."""

    drawn: DrawnViews
    rows: slice

    def apply(self, images: Tensor) -> Tensor:
        """Return the view of this process's `images`."""
        return self.drawn.part(self.rows).apply(images)


def make_plan(name: str, data: DataSet, views: Views | None, processes: ProcessGroup = SINGLE_PROCESS) -> Plan:
    """Return how views are drawn: an augmentation by name, and the extra views that a method needs.

    Raises:
        RelgraphError: for an unknown name, or views that the images do not have.
    """
    channels, height, side = data.train.images.shape[1:]
    augmentation = make_augmentation(name, padding=data.crop_padding, flip=data.flip, channels=channels)
    if views is None:
        return Plan(augmentation, processes=processes)
    extra = make_extra_views(
        views.kind, views.each, padding=data.crop_padding, flip=data.flip, augmentation=augmentation, side=side
    )
    # One is drawn now, so that an error for images without such views is raised before the training.
    extra.draw(1, height, side, torch.zeros(1, dtype=torch.bool), torch.Generator())
    return Plan(augmentation, extra, processes)


class Feed(Protocol):
    """A map from a batch of the training set to the inputs of a step."""

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return the views of images `(B, C, H, W)`, uint8 on the device, and the teacher's features of them.

        `batch` has their positions in the training set; what is random comes from `generator`, on the CPU.
        """
        ...


class WithoutTeacher:
    """Views for a student alone."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return fresh views, and no features."""
        return StepInputs(self.plan.first(images, generator).apply(images), None, batch)


class Online:
    """The teacher runs in every step, on the student's view or, with `views: independent`, on one of its own.

    With `maps` it returns its stage maps as well. Extra views are the same for both networks. A batch passes through it
    in `parts`.
    """

    def __init__(
        self, plan: Plan, teacher: Teacher, fabric: Any, *, shared: bool, maps: bool = False, parts: int = 1
    ) -> None:
        self.plan, self.teacher, self.fabric, self.shared, self.maps = plan, teacher, fabric, shared, maps
        self.parts = parts

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return fresh views, and the teacher's features of them or of other fresh views."""
        drawn = self.plan.first(images, generator)
        student = other = drawn.apply(images)
        if not self.shared:
            other = self.plan.first(images, generator).apply(images)
        extra = self.plan.rest(images, drawn, generator)
        own, of_extra = self._both(other, extra)
        return StepInputs(student, own, batch, extra, of_extra)

    def _both(self, images: Tensor, extra: Tensor | None) -> tuple[Output, Output | None]:
        """Return the teacher's features of its views and of the extra ones, those of one size in one pass."""
        with self.fabric.autocast():
            prepared = teacher_input(self.teacher, images)
            if extra is None:
                return self._features(prepared), None
            more = teacher_input(self.teacher, extra)
            if more.shape[1:] != prepared.shape[1:]:
                return self._features(prepared), self._features(more)
            both = self._features(torch.cat([prepared, more]))
        first, rest = (
            both.each(lambda x, rows=rows: x[rows])  # type: ignore[misc]
            for rows in (slice(len(images)), slice(len(images), None))
        )
        return first, rest

    def _features(self, prepared: Tensor) -> Output:
        found = [
            self.teacher.features(part) if self.maps else bare(self.teacher(part))
            for part in prepared.chunk(self.parts)
        ]
        if len(found) == 1:
            return found[0]
        maps = tuple(torch.cat(stage) for stage in zip(*(part.maps for part in found), strict=True))
        return bare(torch.cat([part.embedding for part in found]))._replace(maps=maps)


def bare(vectors: Tensor) -> Output:
    """Return vectors `(N, D)` as the output of a network without a head: both embedding and feature."""
    return Output(vectors, feature=vectors)


class Stored:
    """The teacher's features are read from a store, of one of its fixed views of each image, drawn uniformly.

    Shared views: the student gets the same view, so its augmentation is limited to the store's few crops for the whole
    training, while an online teacher gets a new one in every epoch. Independent views: the student's crops are fresh,
    and the teacher's features are those of a stored view; with one view in the store, of the whole image.
    """

    def __init__(
        self, plan: Plan, data: DataSet, store: EmbeddingStore, device: torch.device | str, *, shared: bool
    ) -> None:
        self.plan, self.store, self.shared = plan, store, shared
        self.views = store.views()
        self._stored_as = data.train.index.to(device)

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return the student's views, and the teacher's features of stored ones."""
        device, count = self._stored_as.device, len(batch.indices)
        stored_as = self._stored_as[batch.indices.to(device, non_blocking=True)]
        student = None if self.shared else self.plan.first(images, generator).apply(images)
        view = self._draw(count, generator).to(device, non_blocking=True)
        if student is None:
            student = self.views.take(view, stored_as).apply(images)
        return StepInputs(student, bare(self.store.rows(view, stored_as)), batch)

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        processes = self.plan.processes
        drawn = torch.randint(self.store.contents.views, (processes.count * n,), generator=generator)
        return drawn[processes.rows(len(drawn))]


def open_feed(
    recipe: Recipe,
    data: DataSet,
    teacher: Teacher | None,
    fabric: Any,
    *,
    maps: bool = False,
    views: Views | None = None,
) -> tuple[Feed, str]:
    """Return where views and features come from as the recipe's `teacher_mode` asks, and a line that describes it.

    `auto` takes the first store that fits; where there is none, the line gives the reason why a store of the same data
    set and teacher was skipped. Stage maps (`maps`), extra views (`views`) and shared views other than crops are in no
    store: there the teacher runs.

    Raises:
        RelgraphError: if the mode is `stored` and no store fits, or the run needs outputs that no store holds.
    """
    plan = make_plan(recipe.augmentation, data, views, ProcessGroup.current())
    if teacher is None:
        return WithoutTeacher(plan), "teacher: none"
    shared = recipe.views == "shared"
    online = Online(plan, teacher, fabric, shared=shared, maps=maps, parts=recipe.accumulate)
    reason = _not_stored(recipe, maps, views)
    if reason is not None:
        if recipe.teacher_mode == "stored":
            raise RelgraphError(f"stored embeddings will not do, since {reason}: use --teacher-mode online")
        return online, f"teacher: online, in every step ({reason})"
    if recipe.teacher_mode == "online":
        return online, "teacher: online"
    store, reasons = find_store(Wanted(recipe, data, teacher, fabric.device))
    if store is not None:
        found = store.contents
        drawn = "one of them drawn for both networks" if shared else "fresh ones for the student"
        number = f"{found.views} view{'s' if found.views > 1 else ''} an image, {drawn}"
        line = f"teacher: stored embeddings {store.path}, {number}, computed in {found.precision}"
        return Stored(plan, data, store, fabric.device, shared=shared), line
    if recipe.teacher_mode == "stored":
        none = f"{recipe.embeddings} holds none of {recipe.dataset} by {recipe.teacher}, relgraph embed makes them"
        raise RelgraphError(f"no stored embeddings fit: {'; '.join(reasons) or none}")
    if not reasons:
        return online, "teacher: online, in every step (relgraph embed would store its outputs, once)"
    return online, f"teacher: online, no stored embeddings fit: {'; '.join(reasons)}"


def _not_stored(recipe: Recipe, maps: bool, views: Views | None) -> str | None:
    """Return the parts of its teacher's output that a run reads and no store holds."""
    if maps:
        return f"{recipe.method} reads the teacher's stage maps"
    if views is not None:
        return f"{recipe.method} reads the teacher's outputs of {views.each} extra views of an image"
    if recipe.augmentation != "crop" and recipe.views == "shared":
        return f"the teacher reads the student's own views, those of {recipe.augmentation}"
    return None


def resolved(recipe: Recipe, feed: Feed) -> Recipe:
    """Return the recipe with `teacher_mode: auto` replaced by what was found, so that a resumed run goes on like it."""
    if isinstance(feed, Stored):
        return replace(recipe, teacher_mode="stored", embeddings=str(feed.store.path))
    return replace(recipe, teacher_mode="online") if isinstance(feed, Online) else recipe
