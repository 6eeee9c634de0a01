"""Tasks: what the labels of a run are, which head its network has, which loss they give, and how it is evaluated."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from relgraph.analysis.retrieval import CUTS, retrieval
from relgraph.analysis.segmentation import confusion, figures
from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.data.label_maps import IGNORED
from relgraph.graph.positions import on_grid
from relgraph.networks.backbone import Backbone
from relgraph.networks.heads import Student
from relgraph.networks.plain import PlainStudent, VectorsAlone
from relgraph.networks.segmenter import Segmenter, check_size, scored
from relgraph.outputs import Output
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.evaluation import accuracy, embed, knn_accuracy, linear_probe
from relgraph.training.spread import labelled_cross_entropy

BATCH = 512  # images that are evaluated at a time
PIXELS = 2**20  # of images that are evaluated at a time where each has a class
# Number of training images among which neighbours are searched: more would cost time and hardly change the result.
KNOWN = 10_000
NEIGHBOURS = 20

LAST = "the last epoch: none was picked; the test split was only read at the end"
SELECTED_LAST = "there are no labelled images to pick the best epoch by: it is the last"


Labels = Callable[[Tensor, Tensor], Tensor]  # from labels and logits to other labels


class Embedder(Protocol):
    """A network whose features are evaluated."""

    @property
    def backbone(self) -> Backbone:
        """The part of it that gives them."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is trained for, with the data that it is evaluated on.

    Attributes:
        data: The data set, on the device.
        student_input: From uint8 images `(B, C, H, W)` to what the network reads.
        device: Where it runs.
        workers: Processes that decode streamed images.
        processes: Those over which an evaluation is spread.
        loss: What labels teach by, of logits `(N, C)` and labels `(N,)`, -1 where unknown.
        by_label: Whether labelled and unlabelled images are mixed in each batch.
        of_vectors: Whether `evaluate` is given what makes a student's vectors, in place of the student.
        of_images: Whether it is images that have classes and relations; otherwise positions of an image, and then the
            teacher's logits are its own, not those of a head that labels train beside the student.
        at: From labels and logits to the labels with which the classes of a training step are compared; `None` for all.
        accuracy: What the share of those that are right is called.
        score: The metric of `evaluate` by which the best epoch is picked.
        selected: A sentence on how it was picked, by the split that selects.
        unscored: A sentence where there was no score to pick it by.
    """

    data: DataSet
    student_input: Callable[[Tensor], Tensor]
    device: torch.device
    workers: int = 0
    processes: ProcessGroup = SINGLE_PROCESS

    loss: ClassVar = staticmethod(labelled_cross_entropy)
    by_label: ClassVar[bool]
    of_vectors: ClassVar[bool] = False
    of_images: ClassVar[bool] = True
    at: ClassVar[Any] = None
    accuracy: ClassVar[str] = "train_top1"
    score: ClassVar[str]
    selected: ClassVar[dict[str, str]]
    unscored: ClassVar[str] = SELECTED_LAST

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the views that a training step reads."""
        height, width = self.data.train.images.shape[-2:]
        return height, width

    @property
    def image_labels(self) -> Tensor:
        """The class of each training image, `(N,)`; -1 where it is unknown, or there are no classes of images."""
        return self.data.train.labels

    def example_labels(self, count: int) -> Tensor:
        """Return labels of the shape that those of `count` views have, on the CPU."""
        return self.image_labels[:count].cpu()

    def student(self, backbone: Backbone, dim: int | None) -> Student:
        """Return a new student: the backbone with a head, whose embeddings have the width `dim` (see `Head`)."""
        if self.size[0] != self.size[1]:  # it was measured with a square
            check_size(backbone, self.data.train.images.shape[1], self.size, "--image-size")
        return Student(backbone, dim, len(self.data.train.classes))

    def evaluate(self, network: Embedder, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return the metrics of a network on a split, in percent; none where the images have no labels.

        With `probe` also those that are too slow for every epoch.
        """
        raise NotImplementedError

    def embed(self, network: nn.Module, images: ImageSet) -> Tensor:
        """Return what a network gives of images, `(N, width)`; of several processes each embeds its share."""
        share = torch.arange(len(images))[self.processes.share(len(images))]
        # More processes than images leave one without any: it embeds one for the width, and gives no row.
        own = images.select(share if len(share) else torch.zeros(1, dtype=torch.long))
        found = embed(network, own, self.student_input, BATCH, self.device, None, self.workers)
        return self.processes.collect(found[: len(share)].to(self.device))

    def scores(self, images: ImageSet) -> bool:
        """Return whether `evaluate` finds the `score` of a split."""
        return True

    def figures(self, row: dict[str, float]) -> dict[str, float]:
        """Return the means of an epoch's steps, but for the accuracy of a classifier that no label teaches."""
        return row if self.by_label else {name: value for name, value in row.items() if name != self.accuracy}


class Classes(Task):
    """Each image has one class, which the network's classifier learns: `top1` and `top5`, in float32."""

    by_label = True
    score = "top1"
    selected: ClassVar = {
        "val": "best epoch picked on a validation split held out from the training set; the test split was only read "
        "at the end",
        "test": "best epoch picked on the test split itself, as the original code does: the figure of the best epoch "
        "is optimistic",
        "last": LAST,
    }

    @torch.no_grad()
    def evaluate(self, network: Embedder, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return the accuracy of the network's own classifier on a split."""
        if len(images) == 0:
            return {}
        assert isinstance(network, Student)
        network.eval()
        own = torch.arange(len(images))[self.processes.share(len(images))]
        # More processes than images leave one without any.
        logits = [torch.zeros(0, len(images.classes), device=self.device)]
        with closing(images.batches(torch.split(own, BATCH), self.workers)) as batches:
            for batch in batches:
                # `forward` itself: the compiled call would be compiled anew for evaluation and for the last batch.
                output = network.forward(self.student_input(batch.to(self.device, non_blocking=True)))
                assert output.logits is not None
                logits.append(output.logits)
        return accuracy(self.processes.collect(torch.cat(logits)), images.labels)


class Neighbours(Task):
    """No label teaches the network, and its features are evaluated by those of the nearest training images.

    `knn` is the accuracy of their vote and, with `probe`, `linear` that of a logistic regression on the features.
    """

    by_label = False
    score = "knn"
    selected: ClassVar = {
        "val": "best epoch picked by the k-NN accuracy of the features on a validation split held out from the "
        "training set: it reads labels, by which no classifier of the student was taught; the test split was only "
        "read at the end",
        "test": "best epoch picked by the k-NN accuracy of the features on the test split itself: the figure of the "
        "best epoch is optimistic",
        "last": LAST,
    }

    def evaluate(self, network: Embedder, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return the accuracies of the features of the network's backbone on a split.

        Neighbours and probe use at most `KNOWN` training images, drawn once, with their true labels, including those
        that were hidden from the training: the figures evaluate features, and nothing is trained by them. Returns `{}`
        where training images or the split have no labels. Of several processes each embeds its share of the images.
        """
        train, labels = self.data.train, self.data.train.true_labels.cpu()
        labelled = (labels >= 0).nonzero().flatten()
        if not self.scores(images):
            return {}
        chosen = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))[:KNOWN]]

        def features(part: ImageSet) -> Tensor:
            return self.embed(network.backbone, part).cpu()

        pairs = features(train.select(chosen)), labels[chosen], features(images), images.true_labels.cpu()
        accuracies = {"knn": knn_accuracy(*pairs, k=NEIGHBOURS)}
        if probe and bool((pairs[1] != pairs[1][0]).any()):
            accuracies["linear"] = linear_probe(*pairs)
        return accuracies

    def scores(self, images: ImageSet) -> bool:
        """Return whether training images have labels, and all images of a split."""
        known = bool((self.data.train.true_labels >= 0).any())
        return known and len(images) > 0 and bool((images.true_labels >= 0).all())


class Retrieval(Task):
    """Validation and test images are of unseen classes, and its vectors are evaluated by which of them they find.

    Each image of a split is a query among all others: `recall@1`, `recall@5`, `recall@10`, `mAP` and `mAP@R` of
    `relgraph.analysis.retrieval`. No label of these classes teaches anything. The vectors are those of a student's
    file, in the space in which its method compared them; of another network its features.
    """

    by_label = False
    of_vectors = True
    score = "mAP"
    selected: ClassVar = {
        "val": "best epoch picked by the mAP of the student's vectors among the images of validation classes, of which "
        "no training image is; the test classes were only read at the end",
        "test": "best epoch picked by the mAP of the student's vectors among the images of the test classes "
        "themselves: the figure of the best epoch is optimistic",
        "last": LAST,
    }
    unscored = "there are no images of two validation classes to pick the best epoch by: it is the last"

    def evaluate(self, network: Embedder, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return how well the vectors of a split find others of their class; `{}` where that says nothing.

        At most `KNOWN` images, drawn once, are read, all with `probe`. Of several processes each embeds its share.
        """
        if not self.scores(images):
            return {}
        if not probe and len(images) > KNOWN:
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:KNOWN]
            images = images.select(chosen.sort().values)
        vectors = VectorsAlone(network) if isinstance(network, PlainStudent) else network.backbone
        found, labels = self.embed(vectors, images), images.true_labels.cpu()
        k = [each for each in CUTS if each < len(images)]
        return retrieval(found, found, labels, labels, torch.arange(len(images)), k)

    def scores(self, images: ImageSet) -> bool:
        """Return whether a split has two classes, or each image finds its own, and one of them two images."""
        known = images.true_labels[images.true_labels >= 0]
        return len(known) > 0 and bool((known != known[0]).any()) and int(known.bincount().max()) > 1


class LabelledRetrieval(Retrieval):
    """`Retrieval` of a student whose classifier learns the training classes."""

    by_label = True


def pixel_cross_entropy(logits: Tensor, labels: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return the mean cross-entropy over the pixels that have a class; 0 if none has.

    The logits `(B, classes, h, w)` are brought to the size of the labels `(B, H, W)` (bilinear), -1 where a pixel has
    no class. Of a batch over processes it is a share, as `labelled_cross_entropy`.
    """
    return labelled_cross_entropy(on_grid(logits, labels.shape[-2:]), labels, processes)


def _at_positions(labels: Tensor, logits: Tensor) -> Tensor:
    """Return the labels `(B, H, W)` of the pixels in which the positions of logits `(B, classes, h, w)` lie."""
    grid = [(torch.arange(n, device=labels.device) * 2 + 1) * side // (2 * n)
            for n, side in zip(logits.shape[-2:], labels.shape[-2:], strict=True)]  # fmt: skip
    return labels[:, grid[0][:, None], grid[1]]


def unlabelled_as(maps: Tensor) -> Tensor:
    """Return label maps uint8 as labels int64, -1 where they have 255."""
    return maps.long().masked_fill(maps == IGNORED, -1)


@dataclass(frozen=True, eq=False)
class Pixels(Task):
    """Each pixel has one class, which the network's scores learn: `miou`, `pixel_accuracy` and `iou_NAME` by class.

    They are in percent, from one confusion matrix of a whole split, at the size of its labels (see
    `relgraph.analysis.segmentation`).

    Attributes:
        crop: Height and width of the views that a training step reads; those of the images if not given.
    """

    crop: tuple[int, int] | None = None

    loss: ClassVar = staticmethod(pixel_cross_entropy)
    by_label = True
    of_images = False
    at = staticmethod(_at_positions)
    accuracy = "train_pixel_accuracy"
    score = "miou"
    selected: ClassVar = {
        "val": "best epoch picked by the mIoU on a validation split held out from the training set; the test split was "
        "only read at the end",
        "test": "best epoch picked by the mIoU on the test split itself: the figure of the best epoch is optimistic",
        "last": LAST,
    }

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the crops."""
        return super().size if self.crop is None else self.crop

    @property
    def image_labels(self) -> Tensor:
        """No classes of images, `(N,)`."""
        return torch.full_like(self.data.train.labels, -1)

    def example_labels(self, count: int) -> Tensor:
        """Return labels of pixels of which none is known."""
        return torch.full((count, *self.size), -1)

    def student(self, backbone: Backbone, dim: int | None) -> Student:
        """Return a new student: the backbone with a head for the scores of each position."""
        train = self.data.train
        network = scored(backbone, len(train.classes), train.images.shape[1], train.images.shape[-1])
        for size in {self.size, super().size}:
            check_size(backbone, train.images.shape[1], size, "--image-size and --crop-size")
        return Segmenter(network, dim)

    @torch.no_grad()
    def evaluate(self, network: Embedder, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return the figures of the network's scores on a split."""
        if not self.scores(images):
            return {}
        assert isinstance(network, nn.Module)
        network.eval()
        return self.measure(network.forward, images)

    @torch.no_grad()
    def measure(self, outputs: Callable[[Tensor], Output], images: ImageSet) -> dict[str, float]:
        """Return the figures of the scores that a function gives, brought to the size of each label (bilinear)."""
        return figures(self.processes.sum(self._confusion(outputs, images)), images.classes)

    def _confusion(self, outputs: Callable[[Tensor], Output], images: ImageSet) -> Tensor:
        """Return the confusion matrix `(C, C)` of this process's share of a split."""
        classes, maps = len(images.classes), images.maps
        assert maps is not None
        total = torch.zeros(classes, classes, dtype=torch.long, device=self.device)
        own = torch.arange(len(images))[self.processes.share(len(images))]
        positions = torch.split(own, max(1, PIXELS // images.images.shape[-2:].numel()))
        with closing(images.batches(positions, self.workers)) as batches:
            for position, batch in zip(positions, batches, strict=True):
                logits = outputs(self.student_input(batch.to(self.device, non_blocking=True))).logits
                assert logits is not None
                by_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
                for row, number in enumerate(position.tolist()):
                    labels = maps.own(number)
                    by_size.setdefault(labels.shape, []).append((row, labels))
                for size, found in by_size.items():
                    few = max(1, PIXELS // size.numel())  # labels may be much larger than the images
                    for part in (found[first : first + few] for first in range(0, len(found), few)):
                        rows, labels = torch.tensor([row for row, _ in part]), torch.stack([each for _, each in part])
                        predicted = on_grid(logits[rows.to(self.device)], size).argmax(1)
                        total += confusion(predicted, labels.to(self.device), classes)
        return total

    def scores(self, images: ImageSet) -> bool:
        """Return whether a split has images."""
        return len(images) > 0


class PixelsAlone(Pixels):
    """`Pixels` of a student that relations between positions teach and no label: its scores are not trained."""

    by_label = False

    def scores(self, images: ImageSet) -> bool:
        """Return that there is no score."""
        return False


def classes_of(task: Task) -> Classes:
    """Return the task of classes on the data of another one: that of a teacher's head, which labels always teach."""
    return Classes(task.data, task.student_input, task.device, task.workers, task.processes)
