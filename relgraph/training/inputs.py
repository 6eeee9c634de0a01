"""Images as the networks of a run read them."""

from torch import Tensor

from relgraph.data.views import prepare
from relgraph.networks.teachers import Teacher


def teacher_input(teacher: Teacher, images: Tensor) -> Tensor:
    """Return uint8 images `(N, C, H, W)` as the teacher reads them: its size, channels and normalisation."""
    return prepare(images, teacher.input_size, teacher.channels, teacher.mean, teacher.std)
