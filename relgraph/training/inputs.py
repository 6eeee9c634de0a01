"""The inputs of one training step, and the conversion of images to a teacher's input."""

from typing import NamedTuple

from torch import Tensor

from relgraph.data.views import prepare
from relgraph.networks.teachers import Teacher
from relgraph.outputs import Batch, Output


class StepInputs(NamedTuple):
    """The inputs of one step, for a batch of B images.

    Attributes:
        images: The student's views, `(B, C, H, W)`: uint8 or in 0..1 as they are drawn, then as the student takes them.
        teacher: The teacher's features of them or of other views, if there is a teacher.
        batch: Indices and labels of the images.
        extra: The extra views that a method needs, `(V * B, C, h, w)`: row `v * B + i` is view v of image i.
        extra_teacher: The teacher's features of these.
    """

    images: Tensor
    teacher: Output | None
    batch: Batch
    extra: Tensor | None = None
    extra_teacher: Output | None = None


def teacher_input(teacher: Teacher, images: Tensor) -> Tensor:
    """Return uint8 images `(N, C, H, W)` as the teacher reads them: its size, channels and normalisation."""
    return prepare(images, teacher.input_size, teacher.channels, teacher.mean, teacher.std)
