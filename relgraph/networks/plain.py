"""A trained student as a plain module: a normalised batch to vectors and logits, and what prepares an image for it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from relgraph.data.decoding import as_seen, read_image
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import built, load_strictly, read_network
from relgraph.networks.heads import Head, layers_like
from relgraph.networks.sources import StudentSource
from relgraph.networks.weights import from_hub

HUB_FILE = "model.safetensors"  # the name that the Hub expects
Picture = Image.Image | Tensor | str | Path


class Preprocessing(NamedTuple):
    """How an image becomes what a student reads: resized by its shorter side, centre cropped, normalised.

    Attributes:
        size: Side of the square in pixels.
        channels: 3 for RGB, 1 for luminance.
        mean: Per channel, of values in 0..1.
        std: Per channel.
        resize: What is resized to `size`; the centre is cropped then.
        interpolation: How, with antialiasing.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "shorter side"
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Return that of the description in a network's file."""
        return cls(info["image_size"], info["in_channels"], tuple(info["mean"]), tuple(info["std"]))

    def pixels(self, image: Picture) -> Tensor:
        """Return an image as it is before it is normalised, `(C, size, size)` uint8: cropped, as RGB.

        Args:
            image: A file, a PIL image, or a tensor `(C, H, W)` of uint8 or of floats in 0..1.

        Raises:
            RelgraphError: if it is no image that can be read.
        """
        if isinstance(image, Tensor):
            array = (image.float() * 255 if image.is_floating_point() else image).round().to(torch.uint8)
            image = Image.fromarray(array.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        seen = as_seen(image, self.size) if isinstance(image, Image.Image) else read_image(Path(image), self.size)
        return torch.from_numpy(np.asarray(seen).transpose(2, 0, 1).copy())

    def __call__(self, image: Picture) -> Tensor:
        """Return what the student reads of an image, `(C, size, size)` float32; see `pixels`.

        Raises:
            RelgraphError: if it is no image that can be read.
        """
        found: Tensor = Normalise(self.mean, self.std)(self.pixels(image)[None])[0]
        return found


class PlainStudent(nn.Module):
    """A trained student, a normalised batch `(N, C, H, W)` to its vectors `(N, D)` and logits `(N, classes)`.

    The vectors are those that the method compared with the teacher's: of the embedding or the feature, behind the
    method's own layers where it has some. Logits are `None` where no classifier was trained.

    Attributes:
        backbone: The network, images to one pooled vector an image.
        head: Projection and classifier.
        projector: The method's layers on top of `part`, or an identity.
        part: What the vectors are made of.
        classes: Names of the classes; empty where no classifier was trained.
        preprocess: What prepares an image.
        info: The description in its file.
    """

    def __init__(
        self, backbone: Backbone, head: Head, projector: nn.Module | None, part: Literal["embedding", "feature"],
        info: Mapping[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.head = backbone, head
        self.projector = nn.Identity() if projector is None else projector
        self.part, self.info = part, dict(info)
        self.classes = tuple(map(str, info["classes"])) if info.get("learns_labels", True) else ()
        self.preprocess = Preprocessing.of(info)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors and the logits."""
        feature = self.backbone(images)
        embedding, logits = self.head(feature)
        vectors: Tensor = self.projector(feature if self.part == "feature" else embedding)
        return vectors, logits if self.classes else None


class VectorsAlone(nn.Module):
    """The vectors of a student `(N, D)`, without its logits, as embeddings of a whole split are computed."""

    def __init__(self, student: PlainStudent) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors of a normalised batch."""
        vectors: Tensor = self.student(images)[0]
        return vectors


def read_plain(path: Path, find: Callable[[str], StudentSource]) -> PlainStudent:
    """Return a trained student, in evaluation mode, from a run, its `student.safetensors` or a folder of a hub.

    `find` turns the name of its backbone into a source; see `relgraph.load_student`.

    Raises:
        RelgraphError: if the file is missing, damaged, without a head, or of another architecture than it declares.
    """
    if path.is_dir():
        hub = path / HUB_FILE
        path = hub if hub.is_file() else path / "student.safetensors"
    tensors, info = read_network(path)
    if "dim" not in info or "classes" not in info or "vectors" not in info:
        raise RelgraphError(f"{path} holds no student: expected student.safetensors of a training run")
    own = {n.removeprefix("projector."): t for n, t in tensors.items() if n.startswith("projector.")}
    backbone = built(info, find)
    head = Head(backbone.width, info["dim"], len(info["classes"]))
    student = PlainStudent(backbone, head, layers_like(own), info["vectors"], info)
    mine = {name: tensor for name, tensor in tensors.items() if not name.startswith("teacher.")}
    return load_strictly(student, mine, path).eval()


def hub_file(repository: str) -> Path:
    """Return the file of a student's weights in a repository `owner/name` of the Hugging Face Hub, or in its cache.

    Raises:
        RelgraphError: if it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    return Path(from_hub(f"hf:{repository}", repository, HUB_FILE, lambda: hf_hub_download(repository, HUB_FILE)))
