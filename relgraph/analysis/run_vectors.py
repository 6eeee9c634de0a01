"""The vectors of a run's two networks: the student's as its file gives them, and the teacher's own."""

import torch
from torch import Tensor, nn

from relgraph.analysis.run_loading import BATCH, TrainedRun
from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.data.views import Normalise
from relgraph.names import is_vectors
from relgraph.networks.plain import PlainStudent
from relgraph.training.evaluation import embed
from relgraph.training.feed import input_of
from relgraph.training.vectors import open_vectors

# TO-MERGE: `TrainedRun.plain`, `TrainedRun.vectors`, `VectorsAlone` and `in_original` of the branch of the space.


class VectorsOf(nn.Module):
    """The vectors of a student without its logits."""

    def __init__(self, student: PlainStudent) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors `(B, D)` of a normalised batch."""
        vectors: Tensor = self.student(images)[0]
        return vectors


def in_original(data: DataSet, images: ImageSet) -> bool:
    """Return whether the images of a split were drawn from the data set's original training split."""
    if images.split == "train":
        return True
    return images.split == "val" and not set(data.train.index.tolist()) & set(data.val.index.tolist())


def student_vectors(run: TrainedRun, student: PlainStudent, images: ImageSet) -> Tensor:
    """Return the vectors `(N, D)` of images by the student as its file has it, on the CPU."""
    prepare = Normalise(student.preprocess.mean, student.preprocess.std)
    return embed(VectorsOf(student.to(run.device)), images, prepare, BATCH, run.device, None, run.recipe.processes)


def teacher_vectors(run: TrainedRun, images: ImageSet) -> Tensor | None:
    """Return the teacher's own vectors `(N, D)` of images, on the CPU; `None` where they cannot be had.

    Of a teacher `vectors:FILE` they are known of training images alone.
    """
    if run.teacher is not None:
        return embed(run.teacher, images, input_of(run.teacher), BATCH, run.device, None, run.recipe.processes)
    if not is_vectors(run.recipe.teacher) or images.split != "train":
        return None
    known = open_vectors(run.recipe, run.data)
    return known.rows(torch.searchsorted(run.data.train.index.cpu(), images.index.cpu()))
