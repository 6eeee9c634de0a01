"""Distillation: from a recipe to a student, what distils it and all that its training needs, from one seed."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relgraph import names
from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.data.neighbour_batches import ImageGraph
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.files import first_line, told_of
from relgraph.graph.kernels import pearson
from relgraph.graph.positions import pooled
from relgraph.graph.refine import Refined
from relgraph.methods import Method, RunFacts
from relgraph.methods.base import Shapes, Space, pool_of
from relgraph.names import build_method, read_arguments
from relgraph.networks.backbone import map_shapes
from relgraph.networks.batch_norm import synchronised
from relgraph.networks.depthwise import depthwise_in_float32
from relgraph.networks.files import fingerprint_of, load_ss_head, save_network, weights_fingerprint
from relgraph.networks.heads import Head, Student
from relgraph.networks.plain import PlainStudent
from relgraph.networks.teachers import Teacher
from relgraph.networks.vectors import VectorTeacher
from relgraph.outputs import Batch, BatchEdges, Output, StepInputs
from relgraph.printing import tell
from relgraph.processes import ProcessGroup
from relgraph.training.board import split_of, write_projector
from relgraph.training.building import batch_sizes, on_device, open_data, open_fabric, open_teacher, telling_batch
from relgraph.training.callbacks import Callbacks
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.epochs import FIGURES, Job, Progress
from relgraph.training.feed import Feed, Stored, open_feed
from relgraph.training.fitted_head import fit_head
from relgraph.training.head import train_head
from relgraph.training.moving_average import MovingAverage
from relgraph.training.objective import Distiller, Stage
from relgraph.training.optimisers import new_optimiser
from relgraph.training.recipe import Recipe
from relgraph.training.resuming import network_of
from relgraph.training.runs import RunDirectory
from relgraph.training.schedule import student_schedule
from relgraph.training.scope import check_anchored, open_scope, save_graph
from relgraph.training.starting import new_backbone, normalised, start_of
from relgraph.training.tasks import Classes, LabelledRetrieval, Neighbours, Pixels, PixelsAlone, Retrieval, Task
from relgraph.training.trainer import run_job
from relgraph.training.trials import decided, trial_step
from relgraph.training.validation_graph import FEWEST, OVERLAP, SELECTED, ValidationGraph, compares_features
from relgraph.training.vectors import open_vectors, vectors_of


@dataclass(eq=False)
class Distillation(Job):
    """The training of a student with or without a teacher."""

    recipe: Recipe
    objective: Distiller
    sample: ValidationGraph | None = None

    def __post_init__(self) -> None:
        """Refuse to wait for a score that there is none of."""
        super().__post_init__()
        if self.recipe.patience is not None and not (self._by_sample or self.task.scores(self.selecting)):
            told = f"patience needs a score, from images with labels in training and {self.recipe.select} split"
            raise RelgraphError(f"{told}, got {self.recipe.dataset} without them: leave it out, or see val_fraction")

    @property
    def student(self) -> Student:
        """The student that is evaluated and kept: its moving average, if there is one."""
        return self.objective.student if self.ema is None else self.ema.student

    @property
    def score(self) -> str:
        """The metric by which the best epoch is picked."""
        return OVERLAP if self._by_sample else self.task.score

    @property
    def _by_sample(self) -> bool:
        return self.sample is not None and self.sample.selects

    def stage(self, epoch: int) -> Stage:
        """Return the stage of the student's training in an epoch."""
        return self.recipe.stage(epoch)

    def begin(self, run: RunDirectory) -> None:
        """Keep the data set's graph, if there is one, and make the teacher's head, if the recipe does so first."""
        if self.graph is not None and self.processes.first:
            save_graph(run.graph_file, self.graph, self.data.train.index)
        head = self.objective.teacher_head
        if self.recipe.teacher_head == "sequential" and head is not None:
            train_head(self, head, self.recipe, run)
        if self.recipe.teacher_head == "fitted" and head is not None:
            self._fit(head)

    def _fit(self, head: Head) -> None:
        """Fit the teacher's head to its vectors, the same on all processes."""
        train = self.data.train
        right = fit_head(head, self.feed.vectors(train, self.recipe.processes), train.labels)
        head.load_state_dict(self.fabric.broadcast(head.state_dict()))  # rounding differs by machine
        if self.processes.first:
            labelled = int((train.labels >= 0).sum())
            tell(f"teacher's head: fitted to {labelled} labelled images, train {right:.2f} %, now fixed")

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the student's metrics on the split that selects, those of its graph included."""
        found = self.task.evaluate(self.judged, self.selecting)
        return found if self.sample is None else found | self.sample.measure(self._plain(analysed=True))

    @property
    def judged(self) -> Student | PlainStudent:
        """What the task evaluates: the student, or what makes its vectors."""
        return self._plain() if self.task.of_vectors else self.student

    def _plain(self, *, analysed: bool = False) -> PlainStudent:
        """Return what makes the student's vectors as its method compares them, or the nodes of its `analysed` graph."""
        space = Space("embedding") if analysed and not compares_features(self.recipe) else self._space()
        return PlainStudent(self.student.backbone, self.student.head, space.student, space.part, self.description())

    def ending(self, progress: Progress) -> str | None:
        """Return whether the recipe's patience is over: none is lost while a method trains alone, before the labels."""
        done, patience = len(progress.rows), self.recipe.patience
        waited = done - max(progress.best_epoch, self.recipe.initial_epochs)
        if patience is None or waited < patience or done == self.recipe.epochs:
            return None
        best = f"{self.recipe.select}_{self.score} than {progress.best_score:.2f} % of epoch {progress.best_epoch}"
        return f"{waited} epochs without a better {best}"

    def keep(self, run: RunDirectory) -> None:
        """Write the student."""
        save_network(run.student_file, self._whole(), self.description())

    def _whole(self) -> nn.Module:
        """Return what makes vectors of an image: the student with its projector, and the teacher's learned side."""
        space, student = self._space(), self.student
        refinement = None if (found := self._refined()) is None else found.refinement
        teacher = {"head": self.objective.teacher_head, "projector": space.teacher}
        parts = {"backbone": student.backbone, "head": student.head, "projector": space.student}
        if refinement is not None:
            teacher["refine"], parts["refine"] = refinement.teacher, refinement.student
        own = nn.ModuleDict({name: part for name, part in teacher.items() if part is not None})
        return nn.ModuleDict({name: part for name, part in {**parts, "teacher": own}.items() if part is not None})

    def _space(self) -> Space:
        method = self.objective.method
        return Space("embedding") if method is None else method.space()

    def _refined(self) -> Refined | None:
        """Return the refinement that the student's file holds: of maps, which have no vectors, it holds none."""
        found = None if self.objective.method is None else self.objective.method.refined()
        return None if found is None or found.part == "map" else found

    def _refinement(self) -> dict[str, Any]:
        """Return what is needed to build the refinement again."""
        found, recipe = self._refined(), self.recipe
        if found is None:
            return {}
        kernel = str(recipe.kernel) if recipe.kernel is not None and found.kernel is not pearson else "pearson"
        own, k = found.refinement, recipe.neighbours_of_each if recipe.topology == "knn" else 8
        widths = [own.dim, own.teacher_dim]
        return {"refine": {"name": own.name, "part": found.part, "k": k, "kernel": kernel, "widths": widths}}

    def _in_teacher_space(self) -> bool:
        """Return whether the student's vectors stand in the space of the teacher's own, without an alignment."""
        space = self._space()
        untouched = space.part == "feature" or self.recipe.target_space == "teacher"
        return space.joint and space.teacher is None and untouched

    def kept(self, run: RunDirectory) -> Path:
        """Return the student's file."""
        return run.student_file

    def description(self) -> dict[str, Any]:
        """Return what is needed to build and feed the student again, as it is stored beside its weights."""
        recipe, method = self.recipe, str(self.recipe.method)
        return {
            "objective": f"{method} ({recipe.graph_in_use})" if recipe.graph_in_use else method,
            "backbone": str(recipe.student),
            **({"stages": list(recipe.student_stages)} if recipe.student_stages else {}),
            "dim": None if isinstance(self.student.head.project, nn.Identity) else self.student.head.dim,
            "in_teacher_space": self._in_teacher_space(),
            **({"held_out": self.data.held_out} if self.data.unseen else {}),
            "classes": list(self.data.train.classes),
            "vectors": self._space().part,
            "learns_labels": recipe.learns_labels,
            **({} if self.task.of_images else {"pixels": True, "height": self.data.train.images.shape[-2]}),
            **self._refinement(),
            **super().description(),
        }

    def result(self, run: RunDirectory, progress: Progress) -> dict[str, Any]:
        """Return the run's figures: the test split is read here, at the end, for the last epoch and for the best."""
        recipe, data = self.recipe, self.data
        test = {"last": self.task.evaluate(self.judged, data.test, probe=True)}
        method, score = self.objective.method, f"{recipe.select}_{self.score}"
        selected: dict[str, Any] = {"note": (SELECTED if self._by_sample else self.task.selected)[recipe.select]}
        if recipe.select != "last":
            self.load(load_checkpoint(run.best))
            test["best"] = self.task.evaluate(self.judged, data.test, probe=True)
            found = any(score in row for row in progress.rows)
            told = {f"{score}_of_best": progress.best_score} if found else {"note": self.task.unscored}
            selected = {"best_epoch": progress.best_epoch, **selected, **told}
        if self.sample is not None and "tensorboard" in recipe.logger and self.processes.first:
            both = {"student": self.sample.vectors(self._plain(analysed=True)), "teacher": self.sample.teacher}
            write_projector(run.path / "tensorboard", both, self.sample.images)
        return {
            "method": str(recipe.method),
            "weights": {} if method is None else method.weights,
            "graph": recipe.graph_in_use,
            "test": test,
            "selected_on": recipe.select,
            **selected,
            "ended_early": self.ending(progress),
            "images": {"train": len(data.train), "labelled": int((data.train.labels >= 0).sum()),
                       "val": len(data.val), "test": len(data.test)},
            **super().result(run, progress),
        }  # fmt: skip


def train(recipe: Recipe, path: Path, *, resume: bool = False, callbacks: Callbacks = ()) -> dict[str, Any]:
    """Train a student and return the content of `result.json`; the run directory at `path` then holds everything.

    A run that is stopped and resumed ends with the same weights and figures as one that was not.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. The results of earlier epochs are kept.
    """
    if resume:
        recipe = RunDirectory.open(path).decided(recipe)
    # A run that has a checkpoint reads its weights there, and no others.
    restored = resume and RunDirectory(path).last.exists()
    kept = RunDirectory(path).graph_file if resume else None
    opened = partial(build, recipe, restored=restored, kept=kept)
    return run_job(opened, recipe, path, resume=resume, callbacks=callbacks)


def build(recipe: Recipe, *, restored: bool = False, kept: Path | None = None) -> Distillation:
    """Return the job of a recipe; one whose weights will be `restored` is built without those it started from.

    The data set's graph, if the recipe has one, is read from the file that its run `kept`, if that is there.

    Raises:
        RelgraphError: for names that are not known, files that cannot be read, or values that do not fit the data.
    """
    fabric, data = open_fabric(recipe), open_data(recipe)
    teacher = _teacher(recipe, data).to(fabric.device) if recipe.uses_teacher else None
    recipe, data = normalised(recipe, teacher, data)
    task = open_task(recipe, on_device(data, fabric.device), fabric.device)
    distiller = new_distiller(recipe, task, teacher, restored=restored)
    frozen = frozen_networks(recipe, teacher)
    if (start := start_of(recipe)) and not restored:
        frozen["student weights"] = {"name": start, "fingerprint": weights_fingerprint(distiller.student.backbone)}
    precision = str(fabric.strategy.precision.precision)
    sample = _validation_graph(recipe, task, teacher)  # before the feed may hold the teacher in less than float32
    feed, recipe, note = open_feed(recipe, task, teacher, precision, distiller.method)
    if not restored:
        distiller.to(fabric.device).fill(feed.known, len(task.data.train))
    images, graph = max(1, recipe.batch_size // recipe.accumulate // task.processes.count), None
    if recipe.scope == "dataset":
        scope = open_scope(recipe, task, partial(feed.vectors, task.data.train, recipe.processes), fabric, kept)
        graph, frozen["graph of the data set"] = scope.graph, scope.record
        note += scope.note

    def squares(student: nn.Module, inputs: StepInputs) -> Tensor:  # needs no teacher and no other process
        loss: Tensor = student(inputs.images).embedding.square().mean()
        return loss

    trial = partial(trial_step, fabric, distiller.student, squares, feed, task.data.train, images)
    steps = recipe.epochs * recipe.accumulate * _steps(recipe, task, frozen)
    recipe, line = decided(recipe, trial, steps, task.processes)
    if start:
        note += f"\nstudent: from the weights of {start}, its images normalised as the {recipe.normalise}'s"
    if teacher is not None:
        note += _narrow(recipe, distiller.student.backbone.width, teacher.width) + _positions(distiller, task)
    if isinstance(feed, Stored):
        where, contents = feed.store.path.absolute(), feed.store.contents  # another working directory finds it as well
        frozen["stored embeddings"] = {"name": str(where), "fingerprint": contents.sha256}
    return assemble(recipe, fabric, task, feed, distiller, note + line, frozen, sample, graph)


def _validation_graph(recipe: Recipe, task: Task, teacher: Teacher | None) -> ValidationGraph | None:
    """Return the graph that is measured after each epoch; `None` with too few images, or none that a teacher knows.

    It picks the best epoch of a student that stands in the teacher's own space and learns no class, which is to find
    there what the teacher finds; of unseen classes their task does.
    """
    images = task.data.val if recipe.measured == "val" else task.data.test
    selects = recipe.target_space == "teacher" and not recipe.learns_labels and not task.data.unseen
    few = (recipe.diagnose_every == 0 and not selects) or len(images) < FEWEST
    if few or not task.of_images or teacher is None:
        return None
    if isinstance(teacher, VectorTeacher):
        teacher = vectors_of(recipe, task.data, images, teacher.file)
    return None if teacher is None else ValidationGraph(task, images, teacher, selects=selects)


def _steps(recipe: Recipe, task: Task, frozen: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many steps an epoch has, by the record of the data set's graph where there is one."""
    if recipe.scope == "dataset":
        return int(frozen["graph of the data set"]["steps"])
    return len(epoch_batches(task.data.train.labels.cpu(), batch_size=recipe.batch_size, seed=recipe.seed, epoch=0,
                             labelled_share=recipe.labelled_share, by_label=task.by_label,
                             drop_last=recipe.drop_last))  # fmt: skip


def _narrow(recipe: Recipe, width: int, of_teacher: int) -> str:
    """Return a line for a student whose vectors cannot fill the teacher's space."""
    if recipe.target_space == "projection" or width >= of_teacher:
        return ""
    told = f"the student's features have the width {width}, the teacher's vectors {of_teacher}"
    return f"\n{told}: its vectors span {width} dimensions of theirs at most"


def _positions(distiller: Distiller, task: Task) -> str:
    """Return a line for each method that compares the positions of an image: how many there are, and what is left."""
    told = ""
    for owner, method in [] if distiller.spread is None else distiller.spread.each():
        if (pool := pool_of(method)) is not None:
            shapes = map_shapes(distiller.student.backbone, task.data.train.images.shape[1], task.size)
            height, width = shapes[-1][1:]
            left = pooled(torch.zeros(1, 1, height, width), pool).shape[-2:]
            less = f", pooled to {left[0]} x {left[1]} (pool {pool:g})" if tuple(left) != (height, width) else ""
            told += f"\n{owner or type(method).__name__.lower()}: the {height} x {width} positions of an image{less}"
    return told


def _teacher(recipe: Recipe, data: DataSet) -> Teacher:
    if names.is_vectors(recipe.teacher):
        return open_vectors(recipe, data)
    return open_teacher(recipe, recipe.teacher_stages)


def open_task(recipe: Recipe, data: DataSet, device: torch.device) -> Task:
    """Return what the recipe's student is trained for: classes of images or pixels, or what is learned without."""
    shared = data, Normalise(data.mean, data.std, device=device), device, recipe.processes, ProcessGroup.current()
    if data.of_pixels:
        return (Pixels if recipe.learns_labels else PixelsAlone)(*shared, recipe.crop)
    kind: type[Task] = Classes if recipe.learns_labels else Neighbours
    if data.unseen:
        kind = LabelledRetrieval if recipe.learns_labels else Retrieval
    return kind(*shared)


def frozen_networks(recipe: Recipe, teacher: Teacher | None) -> dict[str, dict[str, str]]:
    """Return name and fingerprint of the frozen networks that a run reads: its teacher, and that one's SSKD head."""
    found = {}
    if teacher is not None:
        found["teacher"] = network_of(teacher)
    if recipe.ss_head is not None:
        found["self-supervision head"] = {"name": recipe.ss_head, "fingerprint": fingerprint_of(Path(recipe.ss_head))}
    return found


def assemble(
    recipe: Recipe, fabric: Any, task: Task, feed: Feed, distiller: Distiller, note: str = "",
    frozen: Mapping[str, Mapping[str, Any]] | None = None, sample: ValidationGraph | None = None,
    graph: ImageGraph | None = None,
) -> Distillation:  # fmt: skip
    """Return the job of networks that are built, with their optimisers."""
    if task.processes.count > 1 and recipe.batch_norm == "sync":
        synchronised(distiller, task.processes)
    optimisers = {"student_optimiser": new_optimiser(recipe, distiller, distiller.student_parameters(), recipe.lr)}
    of_teacher = list(distiller.teacher_parameters())
    if of_teacher:
        rates = {} if distiller.method is None else distiller.method.teacher_rates()
        optimisers["teacher_optimiser"] = new_optimiser(recipe, distiller, of_teacher, recipe.teacher_lr, rates)
    ema = MovingAverage(distiller.to(fabric.device).student, recipe.ema) if recipe.ema > 0 else None
    job = Distillation(recipe, fabric, task, feed, distiller, optimisers, student_schedule(recipe), note,
                       recipe.labelled_share, recipe.diagnose_every, frozen or {}, recipe.clip_norm, ema,
                       graph, sample)  # fmt: skip
    if recipe.compile:
        distiller.student.compile()
    return job


def new_distiller(recipe: Recipe, task: Task, teacher: Teacher | None, *, restored: bool = False) -> Distiller:
    """Return a new student with what distils it; the weights are drawn from the recipe's seed.

    The method is called with one batch of zeros, so that errors are raised before the training.

    Raises:
        RelgraphError: for names that are not known, or options, widths or maps that do not fit, or parts of one image
            where batch norm needs several.
    """
    torch.manual_seed(recipe.seed)
    data, (channels, _, side) = task.data, task.data.train.images.shape[1:]
    classes = len(data.train.classes)
    backbone = new_backbone(recipe, channels, side, restored=restored)
    # Convolutions run 1.2 to 1.4 times as fast with the channels last.
    dim = recipe.projected(None if teacher is None else teacher.width)
    if not (task.of_images or recipe.compares_embeddings):
        dim = None  # a projection that nothing would train
    student = depthwise_in_float32(task.student(backbone, dim).to(memory_format=torch.channels_last))
    _check_batch_norm(recipe, task, student.backbone, channels)
    head = None if teacher is None else _teacher_head(recipe, teacher, task, dim)
    method = None
    if teacher is not None:
        scores = _score_shapes(task, student, teacher)
        facts = _facts(recipe, task, student, teacher, scores[0])
        shared = {**vars(recipe), "nodes": recipe.chosen_nodes, "graph": recipe.graph_of_batches}
        method = build_method(recipe.method, facts, shared, recipe.method_args, recipe.beta)
        _check_scores(recipe, task, teacher, method, scores[1])
        if method is not None:
            assert head is not None
            _check_space(recipe, method)
            if recipe.scope == "dataset":
                check_anchored(method)
            sizes = batch_sizes(recipe, data)
            for images in sizes:
                with telling_batch(images, sizes):
                    rehearse(method, head, recipe, facts, task.example_labels, scores, images)
    read = recipe.reads_teacher_classifier and task.of_images
    # Without classes, or readers, it is not trained either, and weight decay alone would shrink it.
    return Distiller(
        student, head, method, gamma=recipe.label_weight, alpha=recipe.alpha,
        temperature=4.0 if recipe.temperature is None else recipe.temperature,
        head_fixed=recipe.teacher_head != "joint" or classes == 0 or not read, head_read=read,
        own_logits=not task.of_images, label_loss=task.loss, processes=task.processes, local=recipe.relation == "local",
        parts=recipe.accumulate,
    )  # fmt: skip


def _teacher_head(recipe: Recipe, teacher: Teacher, task: Task, dim: int | None) -> Head:
    """Return a new head for the teacher, or the one that it came with."""
    in_own_space, classes = recipe.target_space == "teacher", task.data.train.classes
    if recipe.teacher_head != "own":
        return Head(teacher.width, None if in_own_space else dim, len(classes) if task.of_images else 0)
    weights = None if recipe.teacher_weights is None else Path(recipe.teacher_weights)
    head, own = names.teacher(recipe.teacher).classifier(weights)
    # A published file names no classes.
    if classes != own and (own is not None or len(classes) != head.classify.out_features):
        raise RelgraphError(
            f"teacher_head 'own' needs a teacher of the same classes: expected the {len(classes)} of {recipe.dataset}, "
            f"got {head.classify.out_features} or other names in {recipe.teacher}"
        )
    if head.width != teacher.width:
        told = f"the classifier of {recipe.teacher} reads features of width {head.width}"
        raise RelgraphError(f"{told}, the teacher gives {teacher.width}")
    if in_own_space and isinstance(head.project, nn.Linear):
        told = f"the own head of {recipe.teacher} has a projection, and target_space 'teacher' none of the teacher's"
        raise RelgraphError(f"{told}: expected teacher_head 'joint', 'sequential' or 'fitted'")
    return head


def _check_space(recipe: Recipe, method: Method) -> None:
    """Raise RelgraphError if vectors are to be compared in the teacher's own space, and layers lead out of it."""
    if recipe.target_space == "teacher" and method.space().teacher is not None:
        told = "has layers of its own on the teacher's vectors, which target_space 'teacher' compares as they are"
        raise RelgraphError(f"{recipe.method} {told}: use 'projection'")


def _score_shapes(task: Task, student: Student, teacher: Teacher) -> list[tuple[int, ...] | None]:
    """Return the shapes of both networks' logits for one image; `None` of a teacher without scores of positions."""
    classes = len(task.data.train.classes)
    if task.of_images:
        return [(max(1, classes),)] * 2
    with torch.no_grad():
        logits = student.eval()(torch.zeros(1, task.data.train.images.shape[1], *task.size)).logits
    student.train()
    return [logits.shape[1:], teacher.score_shape(task.size)]


def _check_scores(
    recipe: Recipe, task: Task, teacher: Teacher, method: Method | None, found: tuple[int, ...] | None
) -> None:
    """Raise RelgraphError if scores of positions are to be compared of which the teacher has none, or other classes."""
    classes = task.data.train.classes
    by_method = method is not None and any("logits" in part.method.reads for part in method.summands())
    reads = recipe.alpha > 0 or by_method
    if task.of_images or not reads or teacher.scores(classes, task.size):
        return
    own = "none"
    if found is not None:
        count = f"{found[0]} in {teacher.name}"
        own = count if found[0] != len(classes) else f"{count} of other names or in another order"
    told = "expected a teacher checkpoint:RUN of a run of relgraph train, or another with scores of positions"
    name = recipe.method if by_method else "alpha"
    raise RelgraphError(f"{name} compares scores of the {len(classes)} classes of {recipe.dataset}: {told}, "
                        f"got {own}")  # fmt: skip


def _check_batch_norm(recipe: Recipe, task: Task, backbone: nn.Module, channels: int) -> None:
    """Raise RelgraphError if a part of a batch is one image, of which batch norm has no statistics over 1 x 1."""
    processes = task.processes.count
    images = min(recipe.batch_size, len(task.data.train)) // recipe.accumulate // processes
    if images > 1 or (processes > 1 and recipe.batch_norm == "sync"):
        return
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            deepcopy(backbone).train()(torch.zeros(1, channels, *task.size))
    except ValueError as error:
        told = f"{recipe.student} has batch norm, which takes no statistics of one image ({first_line(error)})"
        raise RelgraphError(f"{told}: choose a larger batch_size, or a smaller accumulate") from error


def _facts(recipe: Recipe, task: Task, student: Student, teacher: Teacher, scores: tuple[int, ...] | None) -> RunFacts:
    """Return the facts of the run for methods: widths, shapes of maps, images and scores, the training set's labels."""
    train, size = task.data.train, task.size
    return RunFacts(
        dim=student.head.dim, student_width=student.backbone.width, teacher_width=teacher.width,
        student_maps=map_shapes(student.backbone, train.images.shape[1], size), teacher_maps=teacher.map_shapes(size),
        images=len(train), labels=task.image_labels, ss_head=_ss_head(recipe, teacher),
        of_data_set=recipe.scope == "dataset",
        scores=None if scores is None or task.of_images else (scores[0], scores[1], scores[2]),
        image=(train.images.shape[1], *size),
    )  # fmt: skip


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


@torch.no_grad()
def rehearse(
    method: Method, head: Head, recipe: Recipe, facts: RunFacts, labels: Callable[[int], Tensor],
    scores: Sequence[tuple[int, ...] | None], images: int,
) -> None:  # fmt: skip
    """Call a method with a batch of zeros in the shapes of the run; a teacher's own head has a width of its own.

    `labels` returns those of so many images, and `scores` are the shapes of student's and teacher's logits. A batch has
    as many `images`, of all processes.

    Raises:
        RelgraphError: if it cannot, where the first step would fail with the same message, or if a term of its loss is
            called like another figure of a run.
    """
    n, own = images, head.dim
    if recipe.relation == "local":
        n //= ProcessGroup.launched().count

    def output(dim: int, width: int, shapes: Shapes, scores: tuple[int, ...] | None) -> Output:
        logits = None if scores is None else torch.zeros(n, *scores)
        vectors = Output(torch.zeros(n, dim), logits, torch.zeros(n, width))
        views = 0 if method.views is None else method.views.each
        extra = vectors.each(lambda x: torch.cat([x] * views)) if views else None
        return vectors._replace(maps=tuple(torch.zeros(n, *shape) for shape in shapes), extra=extra)

    student = output(facts.dim, facts.student_width, facts.student_maps, scores[0])
    teacher = output(own, facts.teacher_width, facts.teacher_maps, scores[1])
    edges = None
    if recipe.scope == "dataset":  # one anchor and its neighbours
        k = min(recipe.neighbours_of_each, n - 1)
        edges = BatchEdges(torch.stack([torch.arange(1, k + 1), torch.zeros(k, dtype=torch.long)]), 1, k)
    shown = any("image" in part.method.reads for part in method.summands())
    pixels = torch.zeros(n, *facts.image) if facts.image and shown else None
    method.eval()  # or norms would count it
    try:
        terms = method.terms(student, teacher, Batch(torch.arange(n), labels(n), edges, pixels))
    except Exception as error:  # layers of a refinement raise torch's errors, a method of one's own any
        if own == facts.dim or recipe.head == "linear" or not isinstance(error, (RelgraphError, RuntimeError)):
            if isinstance(error, RelgraphError):
                raise
            raise RelgraphError(f"{recipe.method} cannot compare a batch: {told_of(error)}") from error
        raise RelgraphError(
            f"{recipe.method} does not compare embeddings of width {facts.dim} with those of the teacher's own head, "
            f"{own}: use --dim {own} ({first_line(error)})"
        ) from error
    for name in terms:
        if name in FIGURES or split_of(name):
            told = f"{recipe.method} has a term called {name}, as another figure of a run is"
            raise RelgraphError(f"{told}: expected another name")
    method.train()
