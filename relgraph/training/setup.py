"""From a recipe to everything that a run needs, built in a fixed order from one seed."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from relgraph import names
from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.data.views import prepare
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.methods import Batch, Method, Output, RunFacts
from relgraph.methods.base import Shapes
from relgraph.names import build_backbone, build_method, read_arguments
from relgraph.networks.backbone import map_shapes
from relgraph.networks.batch_norm import synchronised
from relgraph.networks.files import load_head, load_network, load_ss_head, load_strictly
from relgraph.networks.heads import Head
from relgraph.networks.student import Student
from relgraph.networks.teachers import Teacher
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.building import on_device, open_data, open_fabric, open_teacher
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.objective import Distiller
from relgraph.training.recipe import Recipe
from relgraph.training.teacher_features import Feed, open_feed, resolved


@dataclass
class Setup:
    """The setup of a run: data and networks on the device, and their optimisers.

    `distiller` is Fabric's wrapper of the `objective`, which the step calls. `feed` draws a batch's views and returns
    the teacher's features of them, and `note` describes how.
    """

    recipe: Recipe
    fabric: Any
    data: DataSet
    feed: Feed
    note: str
    distiller: Any
    objective: Distiller
    student_optimiser: Optimizer
    teacher_optimiser: Optimizer
    diagnostics: Diagnostics | None = None
    processes: ProcessGroup = SINGLE_PROCESS

    def new_diagnostics(self) -> Diagnostics:
        """Return the diagnostics of a new epoch, empty yet, which `diagnostics` then is."""
        self.diagnostics = Diagnostics(self.recipe.diagnose_every, processes=self.processes)
        return self.diagnostics

    @property
    def student(self) -> Student:
        """The student that is trained."""
        return self.objective.student

    def student_input(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W), uint8 or in 0..1, as the student reads them, with the channels last in memory."""
        return network_input(images, self.data.mean, self.data.std)

    def batches(self, indices: Sequence[Tensor], images: ImageSet | None = None) -> Iterator[Tensor]:
        """Yield the uint8 images (N, C, H, W) at each of `indices` on the device, of the training set by default."""
        chosen = self.data.train if images is None else images
        yield from batches_on(self.fabric.device, chosen, indices, self.recipe.processes)

    def view_generator(self, epoch: int) -> torch.Generator:
        """Return the generator of an epoch's views, on the CPU, so that every device uses the same views."""
        return view_generator(self.recipe.seed, epoch)

    @property
    def trains_head(self) -> bool:
        """Whether the teacher's head is trained before the student."""
        return self.recipe.teacher_head == "sequential" and self.distiller.teacher_head is not None

    def description(self) -> dict[str, Any]:
        """Return what is needed to build and feed the student again, as it is stored beside its weights."""
        recipe, train = self.recipe, self.data.train
        return {
            "objective": f"{recipe.method} ({recipe.graph_in_use})" if recipe.graph_in_use else recipe.method,
            "backbone": recipe.student,
            "dim": recipe.dim,
            "classes": list(train.classes),
            "in_channels": train.images.shape[1],
            "image_size": train.images.shape[-1],
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "dataset": recipe.dataset,
        }


def network_input(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images `(N, C, H, W)`, uint8 or in 0..1, normalised, with the channels last in memory."""
    return prepare(images, None, images.shape[1], mean, std).contiguous(memory_format=torch.channels_last)


def batches_on(device: torch.device, images: ImageSet, indices: Sequence[Tensor], processes: int) -> Iterator[Tensor]:
    """Yield the uint8 images (N, C, H, W) at each of `indices` on a device."""
    with closing(images.batches(indices, processes)) as batches:  # ends its processes in any case
        for batch in batches:
            yield batch.to(device, non_blocking=True)


def view_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of an epoch's views, on the CPU, so that every device uses the same views."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def build(recipe: Recipe) -> Setup:
    """Return the setup of a recipe.

    Raises:
        RelgraphError: for names that are not known, files that cannot be read, or values that do not fit the data.
    """
    fabric = open_fabric(recipe)
    data = open_data(recipe)
    teacher = open_teacher(recipe).to(fabric.device) if recipe.uses_teacher else None
    if recipe.normalise == "teacher":
        # Also for a student alone, so that it is compared on the same input.
        data = _normalised_as(teacher or open_teacher(recipe), data)
    distiller = new_distiller(recipe, data, teacher)
    method = distiller.method
    feed, note = open_feed(
        recipe, data, teacher, fabric, maps=reads_maps(method), views=None if method is None else method.views
    )
    return assemble(resolved(recipe, feed), fabric, data, distiller, feed, note)


def assemble(recipe: Recipe, fabric: Any, data: DataSet, distiller: Distiller, feed: Feed, note: str) -> Setup:
    """Return data and networks on the device, with the networks' optimisers."""
    momentum, decay, processes = recipe.momentum, recipe.weight_decay, ProcessGroup.current()
    distiller.spread_over(processes, local=recipe.relation == "local")
    if processes.count > 1 and recipe.batch_norm == "sync":
        synchronised(distiller, processes)
    students = SGD(distiller.student_parameters(), lr=recipe.lr, momentum=momentum, weight_decay=decay)
    # Without a teacher it has nothing to train; an optimiser without effect avoids a special case in the step.
    teachers = SGD(
        [{"params": list(distiller.teacher_parameters())}], lr=recipe.teacher_lr, momentum=momentum, weight_decay=decay
    )
    wrapped, students, teachers = fabric.setup(distiller, students, teachers)
    if recipe.compile:
        distiller.student.compile()
    data = on_device(data, fabric.device)
    return Setup(recipe, fabric, data, feed, note, wrapped, distiller, students, teachers, processes=processes)


def new_distiller(recipe: Recipe, data: DataSet, teacher: Teacher | None) -> Distiller:
    """Return a new student with what distils it; the weights are drawn from the recipe's seed.

    The method is called with one batch of zeros, so that errors are raised before the training.

    Raises:
        RelgraphError: for names that are not known, or options, widths or maps that do not fit.
    """
    torch.manual_seed(recipe.seed)
    classes, (channels, _, side) = len(data.train.classes), data.train.images.shape[1:]
    backbone = build_backbone(recipe.student, channels, image_size=side)
    _start_from(backbone, recipe)
    # Convolutions run 1.2 to 1.4 times as fast with the channels last.
    student = Student(backbone, recipe.dim, classes).to(memory_format=torch.channels_last)
    head = None if teacher is None else _teacher_head(recipe, teacher, data.train.classes)
    method = None
    if teacher is not None:
        facts = _facts(recipe, data, student, teacher)
        method = build_method(recipe.method, facts, vars(recipe), recipe.method_args, recipe.beta)
        if method is not None:
            assert head is not None
            _rehearse_with(head, method, recipe, max(1, classes), facts)
    return Distiller(
        student,
        head,
        method,
        gamma=recipe.label_weight,
        alpha=recipe.alpha,
        temperature=4.0 if recipe.temperature is None else recipe.temperature,
        # Without classes it is not trained either, and weight decay alone would shrink it.
        head_fixed=recipe.teacher_head != "joint" or classes == 0,
    )


def _teacher_head(recipe: Recipe, teacher: Teacher, classes: tuple[str, ...]) -> Head:
    """Return a new head for the teacher, or the one that it came with."""
    if recipe.teacher_head != "own":
        return Head(teacher.width, recipe.dim, len(classes))
    path = names.teacher(recipe.teacher).path
    assert path is not None, "the recipe has a checkpoint"
    head, own = load_head(path)
    if own != classes:
        raise RelgraphError(
            f"teacher_head 'own' needs a teacher of the same classes: expected the {len(classes)} of {recipe.dataset}, "
            f"got {len(own)} or other names in {path}"
        )
    if head.project.in_features != teacher.width:
        raise RelgraphError(
            f"the classifier in {path} reads features of width {head.project.in_features}, the teacher gives "
            f"{teacher.width}"
        )
    return head


def _start_from(backbone: nn.Module, recipe: Recipe) -> None:
    """Give a new student the backbone of an earlier run."""
    if recipe.init_from is None:
        return
    path = Path(recipe.init_from)
    found, info = load_network(path, names.student)
    if info["backbone"] != recipe.student:
        raise RelgraphError(f"{path} holds a {info['backbone']}: expected a {recipe.student}, the student")
    load_strictly(backbone, found.state_dict(), path)


def _facts(recipe: Recipe, data: DataSet, student: Student, teacher: Teacher) -> RunFacts:
    """Return the facts of the run for methods: widths, shapes of the stage maps, the training set's labels."""
    channels, _, side = data.train.images.shape[1:]
    return RunFacts(
        dim=recipe.dim,
        student_width=student.backbone.width,
        teacher_width=teacher.width,
        student_maps=map_shapes(student.backbone, channels, side),
        teacher_maps=teacher.map_shapes(),
        images=len(data.train),
        labels=data.train.labels,
        ss_head=_ss_head(recipe, teacher),
    )


def _ss_head(recipe: Recipe, teacher: Teacher) -> nn.Module | None:
    """Return the teacher's self-supervision head, if the recipe names one."""
    if recipe.ss_head is None:
        return None
    head, info = load_ss_head(Path(recipe.ss_head), teacher.width)
    if info["fingerprint"] != teacher.fingerprint():
        raise RelgraphError(
            f"the self-supervision head in {recipe.ss_head} was trained for another teacher: {info['teacher']}, "
            f"or other weights of it, than {recipe.teacher}"
        )
    options = read_arguments(recipe.methods, recipe.method_args).get("sskd", {})
    wanted, trained = options.get("transformations", "rotations"), info["transformations"]
    if wanted != trained:
        raise RelgraphError(
            f"the self-supervision head in {recipe.ss_head} was trained on transformations={trained}, sskd asks for "
            f"{wanted}: train one by relgraph pretrain --objective sskd-head --transformations {wanted}"
        )
    return head


def _rehearse_with(head: Head, method: Method, recipe: Recipe, classes: int, facts: RunFacts) -> None:
    """Call a method once with the teacher's head, which has a width of its own if it came with the teacher."""
    dim = head.project.out_features
    try:
        rehearse(method, recipe, classes, dim, facts)
    except (RelgraphError, RuntimeError) as error:  # layers of a refinement raise torch's errors
        if dim == recipe.dim:
            raise
        raise RelgraphError(
            f"{recipe.method} does not compare embeddings of width {recipe.dim} with those of the teacher's own head, "
            f"{dim}: use --dim {dim} ({first_line(error)})"
        ) from error


@torch.no_grad()
def rehearse(method: Method, recipe: Recipe, classes: int, dim: int, facts: RunFacts) -> None:
    """Call a method with one batch of zeros in the shapes of the run; `dim` is the width of the teacher's embedding.

    Raises:
        RelgraphError: if it cannot: the first step would fail with the same message.
    """
    n = min(recipe.batch_size, facts.images)
    if recipe.relation == "local":
        n //= ProcessGroup.launched().count

    def output(dim: int, width: int, shapes: Shapes) -> Output:
        def vectors(rows: int) -> Output:
            return Output(torch.zeros(rows, dim), torch.zeros(rows, classes), torch.zeros(rows, width))

        maps = tuple(torch.zeros(n, *shape) for shape in shapes)
        extra = None if method.views is None else vectors(method.views.each * n)
        return vectors(n)._replace(maps=maps, extra=extra)

    student = output(recipe.dim, facts.student_width, facts.student_maps)
    teacher = output(dim, facts.teacher_width, facts.teacher_maps)
    assert facts.labels is not None
    method.eval()  # or norms would count it
    method(student, teacher, Batch(torch.arange(n), facts.labels[:n].cpu()))
    method.train()


def reads_maps(method: Method | None) -> bool:
    """Return whether a method reads stage maps, which stores of embeddings do not hold."""
    return method is not None and not {"map", "maps"}.isdisjoint(method.reads)


def _normalised_as(teacher: Teacher, data: DataSet) -> DataSet:
    channels = data.train.images.shape[1]
    if teacher.channels != channels:
        raise RelgraphError(
            f"normalise 'teacher' needs images with the teacher's channels, got {channels} and {teacher.channels} of "
            f"{teacher.name}: use 'dataset', or another teacher"
        )
    return replace(data, mean=teacher.mean, std=teacher.std)
