"""The student as it is trained, stored and loaded: a backbone with its head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import described, load_strictly, read_network
from relgraph.networks.heads import Head
from relgraph.networks.sources import StudentSource
from relgraph.outputs import Output


class Student(nn.Module):
    """A backbone with its head, `(N, C, H, W) -> Output` of embedding (N, dim), logits, feature (N, width) and maps.

    For a data set without classes the logits are one number an image, which is not trained.
    """

    def __init__(self, backbone: Backbone, dim: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(backbone.width, dim, classes)

    def forward(self, images: Tensor) -> Output:
        """Return the student's outputs for a batch."""
        maps, feature = self.backbone.stages(images)
        embedding, logits = self.head(feature)
        return Output(embedding, logits, feature, maps)


def read_student(path: Path, find: Callable[[str], StudentSource]) -> tuple[Student, dict[str, Any]]:
    """Return a trained student, in evaluation mode, and its description, from a run or its `student.safetensors`.

    `find` turns the name of its backbone into a source; see `relgraph.load_student`.

    Raises:
        RelgraphError: if the file is missing, truncated, without a head, or of another architecture than it declares.
    """
    path = path / "student.safetensors" if path.is_dir() else path
    tensors, info = read_network(path)
    if "dim" not in info or "classes" not in info:
        raise RelgraphError(
            f"{path} holds a backbone without a head: expected the student.safetensors of a training run"
        )
    student = Student(described(info, find), info["dim"], len(info["classes"]))
    load_strictly(student, tensors, path)
    return student.eval(), info
