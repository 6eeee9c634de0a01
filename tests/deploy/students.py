"""Small untrained students as they come out of a run, and images for them."""

from typing import Any, Literal

import torch
from torch import Tensor

from relgraph.names import build_backbone
from relgraph.networks.heads import Head, Projector
from relgraph.networks.plain import PlainSegmenter, PlainStudent
from relgraph.networks.segmenter import scored


def student_of(
    backbone: Any, size: int = 32, channels: int = 3, classes: int = 10, dim: int | None = 8,
    part: Literal["embedding", "feature"] = "embedding", projected: bool = False,
) -> PlainStudent:  # fmt: skip
    """Return a student whose batch norms have seen images, so that they do something."""
    network = build_backbone(backbone, channels, image_size=size)
    info = {
        "backbone": backbone if isinstance(backbone, str) else "own.py:Own", "in_channels": channels,
        "image_size": size, "mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.25, 0.3][:channels], "dim": dim,
        "classes": [f"class {i}" for i in range(classes)], "vectors": part, "learns_labels": classes > 0,
    }  # fmt: skip
    head = Head(network.width, dim, classes)
    projector = Projector(network.width if part == "feature" else head.dim, 6) if projected else None
    student = PlainStudent(network, head, projector, part, info)
    with torch.no_grad():
        student.train()(torch.randn(8, channels, size, size))
    return student.eval()


def images_of(student: PlainStudent, count: int = 5) -> Tensor:
    """Return random pixels `(N, C, size, size)` uint8."""
    size = student.preprocess.size
    return torch.randint(0, 256, (count, student.preprocess.channels, size, size), dtype=torch.uint8)


def segmenter_of(backbone: Any, size: tuple[int, int] = (24, 32), channels: int = 3, classes: int = 3) -> PlainStudent:
    """Return a student for classes of pixels, of training images of a height and a width."""
    info = {
        "backbone": backbone if isinstance(backbone, str) else "own.py:Own", "in_channels": channels,
        "image_size": size[1], "height": size[0], "pixels": True,
        "mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.25, 0.3][:channels], "dim": None, "vectors": "embedding",
        "classes": [f"class {i}" for i in range(classes)], "learns_labels": True,
    }  # fmt: skip
    network = scored(build_backbone(backbone, channels, image_size=size[1]), classes, channels, size[1])
    student = PlainSegmenter(network, Head(network.width, None, 0), None, "embedding", info)
    with torch.no_grad():  # until its norms know their inputs: an untrained student should not see one class alone
        for _ in range(20):
            student.train()(torch.randn(8, channels, *size))
    return student.eval()
