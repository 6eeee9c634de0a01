"""Tasks: what the labels of a run are, which head its network has, which loss they give, and how it is evaluated."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from relgraph.analysis.retrieval import CUTS, retrieval
from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.networks.backbone import Backbone
from relgraph.networks.heads import Student
from relgraph.networks.plain import PlainStudent, VectorsAlone
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.evaluation import accuracy, embed, knn_accuracy, linear_probe
from relgraph.training.spread import labelled_cross_entropy

BATCH = 512  # images that are evaluated at a time
# Number of training images among which neighbours are searched: more would cost time and hardly change the result.
KNOWN = 10_000
NEIGHBOURS = 20

LAST = "the last epoch: none was picked; the test split was only read at the end"
SELECTED_LAST = "there are no labelled images to pick the best epoch by: it is the last"


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
    score: ClassVar[str]
    selected: ClassVar[dict[str, str]]
    unscored: ClassVar[str] = SELECTED_LAST

    def student(self, backbone: Backbone, dim: int | None) -> Student:
        """Return a new student: the backbone with a head, whose embeddings have the width `dim` (see `Head`)."""
        return Student(backbone, dim, len(self.data.train.classes))

    def evaluate(self, network: Embedder, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return the metrics of a network on a split, in percent; none where the images have no labels.

        With `probe` also those that are too slow for every epoch.
        """
        raise NotImplementedError

    def scores(self, images: ImageSet) -> bool:
        """Return whether `evaluate` finds the `score` of a split."""
        return True

    def figures(self, row: dict[str, float]) -> dict[str, float]:
        """Return those means of an epoch's steps that say something about this task."""
        return row


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
            own = part.select(torch.arange(len(part))[self.processes.share(len(part))])
            found = embed(network.backbone, own, self.student_input, BATCH, self.device, None, self.workers)
            return self.processes.collect(found.to(self.device)).cpu()

        pairs = features(train.select(chosen)), labels[chosen], features(images), images.true_labels.cpu()
        accuracies = {"knn": knn_accuracy(*pairs, k=NEIGHBOURS)}
        if probe and bool((pairs[1] != pairs[1][0]).any()):
            accuracies["linear"] = linear_probe(*pairs)
        return accuracies

    def scores(self, images: ImageSet) -> bool:
        """Return whether training images have labels, and all images of a split."""
        known = bool((self.data.train.true_labels >= 0).any())
        return known and len(images) > 0 and bool((images.true_labels >= 0).all())

    def figures(self, row: dict[str, float]) -> dict[str, float]:
        """Return the means but for the accuracy of a classifier that is not trained."""
        return {name: value for name, value in row.items() if name != "train_top1"}


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
        own = images.select(torch.arange(len(images))[self.processes.share(len(images))])
        part = embed(vectors, own, self.student_input, BATCH, self.device, None, self.workers)
        found, labels = self.processes.collect(part.to(self.device)), images.true_labels.cpu()
        k = [each for each in CUTS if each < len(images)]
        return retrieval(found, found, labels, labels, torch.arange(len(images)), k)

    def scores(self, images: ImageSet) -> bool:
        """Return whether a split has two classes, or each image finds its own, and one of them two images."""
        known = images.true_labels[images.true_labels >= 0]
        return len(known) > 0 and bool((known != known[0]).any()) and int(known.bincount().max()) > 1

    def figures(self, row: dict[str, float]) -> dict[str, float]:
        """Return the means but for the accuracy of a classifier that is not trained."""
        return row if self.by_label else {name: value for name, value in row.items() if name != "train_top1"}


class LabelledRetrieval(Retrieval):
    """`Retrieval` of a student whose classifier learns the training classes."""

    by_label = True


def classes_of(task: Task) -> Classes:
    """Return the task of classes on the data of another one: that of a teacher's head, which labels always teach."""
    return Classes(task.data, task.student_input, task.device, task.workers, task.processes)
