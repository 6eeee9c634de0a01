"""The training loops that the benchmark compares, each built from shared parts: images, teacher, stored embeddings.

Images and weights are random: speed depends on neither.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmark.original import Original
from benchmark.ours import Run, device_and_precision
from benchmark.timing import Start
from benchmark.untrained import untrained_teacher
from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore, StoreWriter
from relgraph.data.fingerprint import ImageRecord
from relgraph.data.images import ImageSet
from relgraph.data.manifest import Contents
from relgraph.names import build_backbone
from relgraph.networks.files import save_ss_head
from relgraph.networks.heads import Head, Projector, Student
from relgraph.networks.teachers import Teacher
from relgraph.training.recipe import Recipe

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
BARE = BenchmarkLoop("cross-entropy alone, a bare loop")
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
        self.device, self.precision = device_and_precision(self.recipe(STUDENT_ALONE))
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

    def run(self, loop: BenchmarkLoop) -> Run:
        """Return the training run.

        Raises:
            RelgraphError: for a student or a teacher that is unknown, or cannot be used here.
        """
        recipe = self.recipe(loop)
        teacher = self.teacher if recipe.uses_teacher else None
        store = self.store if loop.teacher == "stored" else None
        return Run(recipe, self.data, teacher, store, loop.name)

    def steps(self, loop: BenchmarkLoop) -> Start:
        """Return n of relgraph's steps, from uint8 images to running sums, for `timing`; of the bare loop its own."""
        run = self.run(loop)
        if loop.name == BARE.name:
            return run.bare
        indices = torch.arange(len(self.data.train), device=self.device).view(-1, self.settings.batch_size)
        batches = run.batches(list(indices))

        def start(n: int) -> Iterator[None]:
            yield
            for index, images in batches[:n]:
                run.step(index, images)

        return start

    def epoch(self, loop: BenchmarkLoop) -> Start:
        """Return an epoch of n batches, by relgraph's loop or the original's, for `timing`."""
        if loop == ORIGINAL:
            return self._original().start
        run = self.run(loop)

        def start(n: int) -> Iterator[None]:
            train = run.epoch(n * self.settings.batch_size)
            yield
            train()

        return start

    def _original(self) -> Original:
        settings, dim = self.settings, self.recipe(ORIGINAL).projected(None)
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
    train, record = data.train, ImageRecord.of(data.train)
    contents = Contents(
        dataset=data.name,
        images=len(train),
        image_shape=tuple(train.images.shape[1:]),
        streamed=False,
        checksums=record.sha256,
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
    StoreWriter(path, contents, record).write(0, torch.randn(len(train), VIEWS, teacher.width))
