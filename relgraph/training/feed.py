"""From a batch of images to the inputs of a step: the views of both networks, and the teacher's outputs for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from relgraph.data.augment import Augmentation, make_augmentation
from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.extra_views import ExtraViews, make_extra_views
from relgraph.data.images import ImageSet
from relgraph.data.label_maps import LabelMaps
from relgraph.data.pixel_views import PixelAugmentation, PixelView
from relgraph.data.views import Drawn, DrawnViews, FixedViews, Normalise
from relgraph.errors import RelgraphError
from relgraph.graph.search import Rows
from relgraph.methods import Method, Views
from relgraph.networks.pieces import pieces
from relgraph.networks.teachers import Teacher
from relgraph.networks.vectors import VectorTeacher
from relgraph.outputs import Batch, Output, StepInputs, bare, of_views
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.evaluation import embed
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Wanted, find_store
from relgraph.training.tasks import BATCH, Task, unlabelled_as

Input = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ViewPlan:
    """How the views of a batch are drawn.

    Of a batch that is spread over processes each draws the views of all images, and applies those of its own: the views
    do not depend on the number of processes.

    Attributes:
        augmentation: The views of each image.
        extra: The extra views that a method needs.
        processes: Those that hold the batch.
    """

    augmentation: Augmentation
    extra: ExtraViews | None = None
    processes: ProcessGroup = SINGLE_PROCESS

    def draw(self, images: Tensor, generator: torch.Generator) -> DrawnViews:
        """Draw a view for each image of the whole batch, of which `images` `(B, C, H, W)` are those of this process."""
        height, width = images.shape[-2:]
        return self.augmentation.draw(self.processes.count * len(images), height, width, generator)

    def apply(self, view: Drawn, images: Tensor) -> Tensor:
        """Return the view of this process's images; of extra views `(V * B, C, h, w)`."""
        if self.processes.count > 1:
            view = view.part(self.processes.rows(self.processes.count * len(images)))
        return view.apply(images)


def make_plan(name: str, data: DataSet, views: Views | None, processes: ProcessGroup = SINGLE_PROCESS) -> ViewPlan:
    """Return how views are drawn: an augmentation by name, and the extra views that a method needs.

    Raises:
        RelgraphError: for an unknown name, or views that the images do not have.
    """
    channels, height, side = data.train.images.shape[1:]
    augmentation = make_augmentation(name, padding=data.crop_padding, flip=data.flip, channels=channels)
    if views is None:
        return ViewPlan(augmentation, processes=processes)
    extra = make_extra_views(views.kind, views.each, padding=data.crop_padding, flip=data.flip,
                             augmentation=augmentation, side=side)  # fmt: skip
    # One is drawn now, so that an error for images without such views is raised before the training.
    extra.draw(1, height, side, torch.zeros(1, dtype=torch.bool), torch.Generator())
    return ViewPlan(augmentation, extra, processes)


@dataclass(frozen=True, eq=False)
class Feed:
    """A map from a batch of the training set to the inputs of a step: `feed(images, batch, generator)`.

    Attributes:
        plan: How views are drawn.
        student_input: From images `(B, C, H, W)`, uint8 or in 0..1, to what the student reads.
    """

    plan: ViewPlan
    student_input: Input

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return the inputs for the uint8 images `(B, C, H, W)` of this process, on the device.

        `batch` has their positions in the training set; what is random comes from `generator`, on the CPU.
        """
        view = self.plan.draw(images, generator)
        return StepInputs(self.student_input(self.plan.apply(view, images)), batch)

    def known(self, position: Tensor) -> Output | None:
        """Return what is known of the teacher's outputs for training images at positions `(B,)`, without running it."""
        return None

    def vectors(self, train: ImageSet, workers: int) -> Rows:
        """Return the teacher's own vectors of all training images, `(N, width)`: those that are known, or computed."""
        return KnownVectors(self, len(train))


class KnownVectors:
    """The vectors that a feed knows of its teacher, read when they are asked for: `relgraph.graph.search.Rows`."""

    def __init__(self, feed: Feed, count: int) -> None:
        self.feed, self.shape = feed, (count, self._read(feed, torch.arange(1)).shape[1])

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return the vectors of some images, `(B, width)`."""
        index = torch.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        return self._read(self.feed, index)

    @staticmethod
    def _read(feed: Feed, index: Tensor) -> Tensor:
        found = feed.known(index)
        assert found is not None
        return found.embedding


@dataclass(frozen=True, eq=False)
class TwoViews(Feed):
    """Two views of each image for one network, of which the second is the `extra` one."""

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return both views."""
        first, second = super().__call__(images, batch, generator), super().__call__(images, batch, generator)
        return first._replace(extra=second.images)


@dataclass(frozen=True, eq=False)
class Online(Feed):
    """The teacher runs in every step, on the student's view or on one of its own; extra views are the same for both.

    Attributes:
        teacher: The network.
        teacher_input: From images to what it reads.
        shared: Whether it reads the student's view.
        maps: Whether its stage maps are read.
        parts: Number of parts in which a batch passes through it, at least.
    """

    teacher: Teacher
    teacher_input: Input
    shared: bool = True
    maps: bool = False
    parts: int = 1

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return fresh views, and the teacher's outputs for them or for other fresh views."""
        view = self.plan.draw(images, generator)
        student = other = self.plan.apply(view, images)
        if not self.shared:
            other = self.plan.apply(self.plan.draw(images, generator), images)
        extra = more = None
        if self.plan.extra is not None:  # mirrored as the first view is, where it matters
            height, width = images.shape[-2:]
            drawn = self.plan.extra.draw(len(view.flip), height, width, view.flip, generator)
            found = self.plan.apply(drawn, images)
            extra, more = self.student_input(found), self.teacher_input(found)
        teacher = of_views(self.outputs, self.teacher_input(other), more)
        return StepInputs(self.student_input(student), batch, teacher, extra)

    def vectors(self, train: ImageSet, workers: int) -> Rows:
        """Return the teacher's vectors of all training images as they are, without a view: it runs once for each."""
        device = train.labels.device
        return embed(self.teacher, train, self.teacher_input, BATCH, device, "teacher's vectors", workers)

    def outputs(self, prepared: Tensor) -> Output:
        """Return the teacher's outputs for images as it reads them."""
        parts = (piece for part in prepared.chunk(self.parts) for piece in pieces(part))
        found = [self.teacher.features(part, maps=self.maps) for part in parts]
        if len(found) == 1:
            return found[0]
        return found[0].filled(map(torch.cat, zip(*(part.tensors() for part in found), strict=True)))


@dataclass(frozen=True, eq=False)
class PixelFeed(Feed):
    """Views of images and of the labels of their pixels by one draw; the teacher reads the student's view.

    Attributes:
        maps: The labels of the training images.
        online: What runs the teacher, if there is one.
    """

    maps: LabelMaps
    online: Online | None

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return fresh views, their labels `(B, h, w)`, -1 where a pixel has none, and the teacher's outputs."""
        drawn, processes = self.plan.draw(images, generator), self.plan.processes
        assert isinstance(drawn, PixelView)
        view = drawn.part(processes.rows(processes.count * len(images)))
        seen, labels = view.apply(images), unlabelled_as(view.apply_labels(self.maps.rows(batch.indices)))
        teacher = None if self.online is None else self.online.outputs(self.online.teacher_input(seen))
        return StepInputs(self.student_input(seen), batch._replace(labels=labels), teacher)


@dataclass(frozen=True, eq=False)
class Stored(Feed):
    """The teacher's outputs are read from a store, those of one of its fixed views of each image, drawn uniformly.

    Shared views: the student gets the same view, so its augmentation is limited to the store's few crops for the whole
    training, while an online teacher gets a new one in every epoch. Independent views: the student's crops are fresh,
    and the teacher's outputs are those of a stored view; with one view in the store, of the whole image.

    Attributes:
        store: The teacher's embeddings.
        position: Position of each training image in the store, on the device.
        shared: Whether the student reads the stored view.
    """

    store: EmbeddingStore
    position: Tensor
    shared: bool

    @cached_property
    def views(self) -> FixedViews:
        """The views of which the store holds the embeddings."""
        return self.store.views()

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return the student's views, and the teacher's outputs for stored ones."""
        device, processes = self.position.device, self.plan.processes
        position = self.position[batch.indices.to(device, non_blocking=True)]
        student = images if self.shared else self.plan.apply(self.plan.draw(images, generator), images)
        drawn = torch.randint(self.store.contents.views, (processes.count * len(images),), generator=generator)
        view = drawn[processes.rows(len(drawn))].to(device, non_blocking=True)
        if self.shared:
            student = self.views.take(view, position).apply(images)
        return StepInputs(self.student_input(student), batch, bare(self.store.rows(view, position)))

    def known(self, position: Tensor) -> Output:
        """Return the outputs for the first stored view."""
        position = self.position[position]
        return bare(self.store.rows(torch.zeros_like(position), position))


@dataclass(frozen=True, eq=False)
class Known(Feed):
    """The teacher's outputs are the vectors that are known of it, one an image; the student's views are fresh.

    Attributes:
        teacher: What knows them.
        device: Where they are needed.
    """

    teacher: VectorTeacher
    device: torch.device

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Return fresh views for the student, and the teacher's vectors."""
        return super().__call__(images, batch, generator)._replace(teacher=self.known(batch.indices))

    def known(self, position: Tensor) -> Output:
        """Return the vectors."""
        return bare(self.teacher.rows(position).to(self.device, non_blocking=True))


def open_feed(
    recipe: Recipe, task: Task, teacher: Teacher | None, precision: str, method: Method | None
) -> tuple[Feed, Recipe, str]:
    """Return where views and outputs come from as the recipe's `teacher_mode` asks, and what to say of it.

    The recipe that is returned has `auto` replaced by the mode that was found, and names the store that is read, so
    that a resumed run goes on like this one.

    `auto` takes the first store that fits; where there is none, the line gives the reason why a store of the same data
    set and teacher was skipped. Stage maps, extra views and shared views other than crops are in no store: where the
    method reads these, the teacher runs, held in the `precision` in which it computes.

    Raises:
        RelgraphError: if the mode is `stored` and no store fits, or the run needs outputs that no store holds.
    """
    if not task.of_images:
        return _pixel_feed(recipe, task, teacher, precision)
    data, shared, maps = task.data, recipe.views == "shared", reads_maps(method)
    plan = make_plan(recipe.augmentation, data, None if method is None else method.views, task.processes)
    if teacher is None:
        return Feed(plan, task.student_input), recipe, "teacher: none"
    if isinstance(teacher, VectorTeacher):
        if reason := _not_stored(replace(recipe, views="independent"), method):
            raise RelgraphError(f"{teacher.name} will not do, since {reason}: expected a teacher with a network")
        told = f"teacher: {teacher.name}, a vector of width {teacher.width} an image, fresh views for the student"
        return Known(plan, task.student_input, teacher, task.device), recipe, told
    store, why = _chosen_store(recipe, task, teacher, method)
    if store is not None:
        position = data.train.index.to(task.device)
        fixed = replace(recipe, teacher_mode="stored", embeddings=str(store.path))
        return Stored(plan, task.student_input, store, position, shared), fixed, _stored_line(store, shared)
    held = teacher.hold(precision)
    feed = Online(plan, task.student_input, held, input_of(held), shared, maps, recipe.accumulate)
    return feed, replace(recipe, teacher_mode="online"), f"teacher: online{why}"


def _pixel_feed(recipe: Recipe, task: Task, teacher: Teacher | None, precision: str) -> tuple[Feed, Recipe, str]:
    """Return the feed of a task whose pixels have classes: no store of embeddings holds what its methods read."""
    low, high = recipe.crop_scale
    plan = ViewPlan(PixelAugmentation((low, high), task.size, task.data.flip), processes=task.processes)
    online, told = None, "none"
    if teacher is not None:
        recipe, told = replace(recipe, teacher_mode="online"), "online, in every step"
        held = teacher.hold(precision)
        online = Online(plan, task.student_input, held, input_of(held), maps=True, parts=recipe.accumulate)
    assert task.data.train.maps is not None
    return PixelFeed(plan, task.student_input, task.data.train.maps, online), recipe, f"teacher: {told}"


def _chosen_store(
    recipe: Recipe, task: Task, teacher: Teacher, method: Method | None
) -> tuple[EmbeddingStore | None, str]:
    """Return the store that the recipe's run reads, or the reason why it reads none."""
    needed, reason = recipe.teacher_mode == "stored", _not_stored(recipe, method)
    if needed and reason is not None:
        raise RelgraphError(f"stored embeddings will not do, since {reason}: use --teacher-mode online")
    if recipe.teacher_mode == "online" or reason is not None:
        return None, "" if reason is None else f", in every step ({reason})"
    store, reasons = find_store(Wanted(recipe, task.data, teacher, task.device, task.processes))
    if store is None and needed:
        none = f"{recipe.embeddings} holds none of {recipe.dataset} by {recipe.teacher}, relgraph embed makes them"
        raise RelgraphError(f"no stored embeddings fit: {'; '.join(reasons) or none}")
    if reasons:
        return store, f"\nno stored embeddings fit: {'; '.join(reasons)}"
    return store, ", in every step (relgraph embed would store its outputs, once)"


def reads_maps(method: Method | None) -> bool:
    """Return whether a method reads stage maps, which stores of embeddings do not hold; it may if it names no part."""
    return method is not None and not {"map", "maps"}.isdisjoint(method.reads or ("maps",))


def _stored_line(store: EmbeddingStore, shared: bool) -> str:
    found = store.contents
    drawn = "one of them drawn for both networks" if shared else "fresh ones for the student"
    number = f"{found.views} view{'s' if found.views > 1 else ''} an image, {drawn}"
    return f"teacher: stored embeddings {store.path}, {number}, computed in {found.precision}"


def _not_stored(recipe: Recipe, method: Method | None) -> str | None:
    """Return the parts of its teacher's output that a run reads and no store holds."""
    if method is not None and not method.reads:
        return f"{recipe.method} names no part that it reads, and may read all"
    if reads_maps(method):
        return f"{recipe.method} reads the teacher's stage maps"
    if method is not None and method.views is not None:
        return f"{recipe.method} reads the teacher's outputs of {method.views.each} extra views of an image"
    if recipe.augmentation != "crop" and recipe.views == "shared":
        return f"the teacher reads the student's own views, those of {recipe.augmentation}"
    return None


def input_of(teacher: Teacher) -> Normalise:
    """Return the map from images to what a teacher reads: its size, channels and normalisation."""
    return Normalise(teacher.mean, teacher.std, teacher.channels, teacher.input_size)
