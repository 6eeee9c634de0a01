"""The training loops that the benchmark compares, each built from shared parts: images, teacher, stored embeddings.

Images and weights are random: speed depends on neither.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from relgraph.analysis.original import Original
from relgraph.analysis.timing import Start
from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore, StoreWriter, checksums_digest
from relgraph.data.images import ImageSet
from relgraph.data.manifest import Contents
from relgraph.names import build_backbone, untrained_teacher
from relgraph.networks.files import save_ss_head
from relgraph.networks.heads import Head, Projector
from relgraph.networks.student import Student
from relgraph.networks.teachers import Teacher
from relgraph.training.building import open_fabric
from relgraph.training.loop import step, train_epoch
from relgraph.training.meter import Meter
from relgraph.training.recipe import Recipe
from relgraph.training.setup import Setup, assemble, new_distiller, reads_maps
from relgraph.training.teacher_features import Feed, Online, Plan, Stored, WithoutTeacher, make_plan

VIEWS = 4  # of every image in the store


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        student: a student's name.
        batch_size: images in a batch.
        teacher: `timm:NAME` or `open_clip:NAME`, which gets random weights.
        steps: most steps in a window of time; slow ones are fewer.
        rounds: windows of each loop.
        device: auto, cpu or cuda.
        compile: whether the student is measured compiled as well.
        memory: whether peak memory is measured as well, each loop in a process of its own.
        image_size: side of the images in pixels.
        classes: number of classes.
    """

    student: str = "resnet8x4"
    batch_size: int = 64
    teacher: str = "open_clip:ViT-B-32"
    steps: int = 10
    rounds: int = 5
    device: str = "auto"
    compile: bool = False
    memory: bool = True
    image_size: int = 32
    classes: int = 100


@dataclass(frozen=True)
class BenchmarkLoop:
    """One training loop: a method, where the teacher's features come from, and how numbers are computed."""

    name: str
    method: str = "none"
    graph: str | None = None
    teacher: str = "none"  # none, stored, online, or the original's
    precision: str = "auto"
    compile: bool = False

    @property
    def label(self) -> str:
        """The name, with what else distinguishes loops."""
        return f"{self.name}, {self.precision}{', compiled' if self.compile else ''}"


STUDENT_ALONE = BenchmarkLoop("cross-entropy alone")
STORED = BenchmarkLoop("EGA, stored embeddings", "ega", teacher="stored")
KNN = BenchmarkLoop("EGA on 8 neighbours, stored", "ega", "knn", "stored")
KD = BenchmarkLoop("KD, stored embeddings", "kd", teacher="stored")
ONLINE = BenchmarkLoop("EGA, online teacher", "ega", teacher="online")
ORIGINAL = BenchmarkLoop("the original's way", "ega", teacher="original", precision="32-true")


class LoopBuilder:
    """The parts that the loops share, made when they are first needed, and each loop built from them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Draw the images; the store of embeddings is to lie in `folder`.

        Raises:
            RelgraphError: if a number does not fit, or there is no such device.
        """
        torch.manual_seed(0)
        self.settings, self.folder = settings, folder
        fabric = open_fabric(self.recipe(STUDENT_ALONE))
        self.device: torch.device = fabric.device
        self.precision = str(fabric.strategy.precision.precision)
        self.data = random_data(settings)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, on the device."""
        return untrained_teacher(self.settings.teacher).to(self.device)

    @cached_property
    def store(self) -> EmbeddingStore:
        """Stored embeddings of the images, opened for the device."""
        write_random_store(self.folder / "store", self.data, self.teacher)
        return EmbeddingStore(self.folder / "store", self.device)

    @cached_property
    def ss_head(self) -> str:
        """The file of a self-supervision head for the teacher, with random weights."""
        file, width = self.folder / "ss_head.safetensors", self.teacher.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = Projector(width, width)
        save_ss_head(file, head, teacher=self.teacher.name, fingerprint=self.teacher.fingerprint())
        return str(file)

    def recipe(self, loop: BenchmarkLoop) -> Recipe:
        """Return the recipe of one loop."""
        settings = self.settings
        return Recipe(
            dataset="random images",
            student=settings.student,
            batch_size=settings.batch_size,
            method=loop.method,
            graph=loop.graph,
            k=min(8, settings.batch_size - 1) if loop.graph == "knn" else None,
            device=settings.device,
            precision=loop.precision,
            compile=loop.compile,
            ss_head=self.ss_head if loop.method == "sskd" else None,
        )

    def setup(self, loop: BenchmarkLoop) -> Setup:
        """Return the setup of the training loop.

        Raises:
            RelgraphError: for a student or a teacher that is unknown, or cannot be used here.
        """
        recipe = self.recipe(loop)
        fabric = open_fabric(recipe)
        distiller = new_distiller(recipe, self.data, self.teacher if recipe.uses_teacher else None)
        method = distiller.method
        plan = make_plan(recipe.augmentation, self.data, None if method is None else method.views)
        feed = self._feed(loop, plan, fabric, maps=reads_maps(method))
        return assemble(recipe, fabric, self.data, distiller, feed, loop.name)

    def _feed(self, loop: BenchmarkLoop, plan: Plan, fabric: Any, *, maps: bool) -> Feed:
        if loop.teacher == "stored":
            return Stored(plan, self.data, self.store, self.device, shared=True)
        if loop.teacher == "online":
            return Online(plan, self.teacher, fabric, shared=True, maps=maps)
        return WithoutTeacher(plan)

    def steps(self, loop: BenchmarkLoop) -> Start:
        """Return n steps of `relgraph.training.loop`, from uint8 images to running sums, for `timing`."""
        setup = self.setup(loop)
        indices = list(torch.arange(len(self.data.train), device=self.device).view(-1, self.settings.batch_size))
        batches = list(zip(indices, setup.batches(indices), strict=True))
        setup.distiller.train()
        views, meter = setup.view_generator(0), Meter()

        def start(n: int) -> Iterator[None]:
            yield
            for index, images in batches[:n]:
                step(setup, images, index, views, meter)

        return start

    def epoch(self, loop: BenchmarkLoop) -> Start:
        """Return an epoch of n batches, by `relgraph.training.loop` or the original's loop, for `timing`."""
        if loop == ORIGINAL:
            return self._original().start
        setup = self.setup(loop)
        train = setup.data.train

        def start(n: int) -> Iterator[None]:
            few = train.select(torch.arange(n * self.settings.batch_size))
            of_few = replace(setup, data=replace(setup.data, train=few))
            yield
            train_epoch(of_few, 0)

        return start

    def _original(self) -> Original:
        settings, dim = self.settings, self.recipe(ORIGINAL).dim
        teacher = untrained_teacher(settings.teacher)  # its own, since the other one has the channels last
        backbone = build_backbone(settings.student, 3, image_size=settings.image_size)
        return Original(
            Student(backbone, dim, settings.classes),
            Head(teacher.width, dim, settings.classes),
            teacher,
            self.data.train,
            batch_size=settings.batch_size,
            device=self.device,
        )


def random_data(settings: Settings) -> DataSet:
    """Return as many random images as the longest window needs, with CIFAR's augmentation; no validation, no test."""
    side, count = settings.image_size, settings.steps * settings.batch_size
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    classes = tuple(str(label) for label in range(settings.classes))
    train = ImageSet(images, torch.randint(settings.classes, (count,)), classes, "train", torch.arange(count))
    none, half = train.select(torch.arange(0)), (0.5, 0.5, 0.5)
    return DataSet("random images", train, none, none, half, half, crop_padding=side // 8, flip=True)


def write_random_store(path: Path, data: DataSet, teacher: Teacher) -> None:
    """Write a store that holds random numbers in place of the teacher's embeddings of the training images."""
    train, checksums = data.train, data.train.checksums()
    contents = Contents(
        dataset=data.name,
        images=len(train),
        image_shape=tuple(train.images.shape[1:]),
        streamed=False,
        checksums=checksums_digest(checksums),
        teacher=teacher.name,
        arguments=(),
        fingerprint="random",
        input_size=teacher.input_size,
        mean=teacher.mean,
        std=teacher.std,
        width=teacher.width,
        dtype="float32",
        precision="32-true",
        views=VIEWS,
        crop_padding=data.crop_padding,
        flip=data.flip,
        view_seed=0,
        images_per_shard=len(train),
    )
    StoreWriter(path, contents, checksums).write(0, torch.randn(len(train), VIEWS, teacher.width))
