"""A trained student as a plain module: a normalised batch to vectors and logits, and what prepares an image for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relgraph.data.decoding import LONGEST, BadImage, ImageSize, Unfit, as_seen, covering, read_image
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.graph.alignment import COMPARED, DirectionRotation, VectorTransform
from relgraph.graph.refine import NodeRefinement
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import built, load_strictly, part_of, read_network, save_tensors
from relgraph.networks.heads import Head, layers_like
from relgraph.networks.sources import StudentSource
from relgraph.networks.weights import from_hub

HUB_FILE = "model.safetensors"  # the name that the Hub expects
Picture = Image.Image | Tensor | str | Path


class Preprocessing(NamedTuple):
    """How an image becomes what a student reads: resized until it just covers a size, centre cropped, normalised.

    For classes of pixels nothing is cropped.

    Attributes:
        size: Side of the square in pixels, or the width.
        channels: 3 for RGB, 1 for luminance.
        mean: Per channel, of values in 0..1.
        std: Per channel.
        resize: What is resized: of a square the "shorter side", else the image until it "cover"s height and width; the
            centre is cropped then, but for classes of pixels, "whole".
        interpolation: How, with antialiasing.
        height: The height; `None` for a square.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "shorter side"
    interpolation: str = "bicubic"
    height: int | None = None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Return that of the description in a network's file."""
        found = cls(info["image_size"], info["in_channels"], tuple(info["mean"]), tuple(info["std"]))
        resize = "whole" if info.get("pixels") else "cover"
        return found._replace(height=info["height"], resize=resize) if "height" in info else found

    @property
    def image_size(self) -> ImageSize:
        """The size of what is read: the side of a square, or height and width."""
        return self.size if self.height in (None, self.size) else (self.height, self.size)

    @property
    def whole(self) -> bool:
        """Whether nothing of an image is cropped."""
        return self.resize == "whole"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values, with what is cropped."""
        crop = "none" if self.whole else "centre"
        return {name: value for name, value in (*self._asdict().items(), ("crop", crop)) if value is not None}

    def pixels(self, image: Picture) -> Tensor:
        """Return an image as it is before it is normalised, `(3, H, W)` uint8: resized, cropped, as RGB.

        Args:
            image: A file, a PIL image, or a tensor `(C, H, W)` of uint8 or of floats in 0..1.

        Raises:
            RelgraphError: if it is no image that can be read, or too long to be resized as a whole.
        """
        if isinstance(image, Tensor):
            array = (image.float() * 255 if image.is_floating_point() else image).round().to(torch.uint8)
            image = Image.fromarray(array.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        size = None if self.whole else self.image_size
        try:
            seen = as_seen(image, size) if isinstance(image, Image.Image) else read_image(Path(image), size)
        except BadImage as error:  # whose advice is for images of a data set
            raise RelgraphError(f"{error.file}: {error.reason}") from error
        except Unfit as error:
            raise RelgraphError(str(error)) from error
        if self.whole:
            if max(seen.size) > LONGEST * min(seen.size):
                told = f"found {seen.width:,} x {seen.height:,}"
                raise RelgraphError(f"expected an image at most {LONGEST} times as long as wide, {told}")
            seen = covering(seen, self.image_size)
        return torch.from_numpy(np.asarray(seen).transpose(2, 0, 1).copy())

    def __call__(self, image: Picture) -> Tensor:
        """Return what the student reads of an image, `(C, H, W)` float32; see `pixels`.

        Raises:
            RelgraphError: if it is no image that can be read.
        """
        found: Tensor = Normalise(self.mean, self.std)(self.pixels(image)[None])[0]
        return found


# What builds a refinement from its description in a student's file, its tensors and the width of its vectors.
FindRefinement = Callable[[Mapping[str, Any], Mapping[str, Tensor], int], NodeRefinement]


@dataclass(frozen=True)
class StoredRefinement:
    """The student's side of a refinement as its file holds it, which `find` builds: code of one's own may be needed."""

    tensors: Mapping[str, Tensor]
    find: FindRefinement


class PlainStudent(nn.Module):
    """A trained student, a normalised batch `(N, C, H, W)` to its vectors `(N, D)` and logits `(N, classes)`.

    The vectors are those that the method compared with the teacher's: of the embedding or the feature, behind the
    method's own layers where it has some, and where the student was aligned (`relgraph align`) behind the rotation into
    the teacher's space, whose width D is then. Logits are `None` where no classifier was trained.

    Attributes:
        backbone: The network, images to one pooled vector an image.
        head: Projection and classifier.
        projector: The method's layers on top of `part`, or an identity.
        part: What the vectors are made of.
        align: The rotation into the teacher's space, or an identity.
        index: What the teacher's index does with a vector, for its gallery and for queries; `None` where none is known.
        stored_refinement: What `refinement` is made of; no part of the module, which needs one image alone.
        classes: Names of the classes; empty where no classifier was trained.
        preprocess: What prepares an image.
        info: The description in its file.
        of_pixels: Whether logits are of pixels.
    """

    of_pixels: ClassVar[bool] = False

    def __init__(
        self, backbone: Backbone, head: Head, projector: nn.Module | None, part: Literal["embedding", "feature"],
        info: Mapping[str, Any], align: nn.Module | None = None, index: VectorTransform | None = None,
        refinement: StoredRefinement | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stored_refinement = refinement
        self.backbone, self.head = backbone, head
        self.projector = nn.Identity() if projector is None else projector
        self.align, self.index = nn.Identity() if align is None else align, index
        self.part, self.info = part, dict(info)
        self.classes = tuple(map(str, info["classes"])) if info.get("learns_labels", True) else ()
        self.preprocess = Preprocessing.of(info)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors and the logits."""
        feature = self.backbone(images)
        embedding, logits = self.head(feature)
        vectors: Tensor = self.align(self.projector(feature if self.part == "feature" else embedding))
        return vectors, logits if self.classes else None

    @cached_property
    def refinement(self) -> NodeRefinement | None:
        """What moves the student's vectors by their neighbours, as in training; `None` where it was not refined.

        Called with embeddings or features, as its `part` says, `(N, D) -> (N, D)`: each is moved by the k nearest among
        them, or over the graph that is given as well (see `relgraph.graph.refine.NodeRefinement`).

        Raises:
            RelgraphError: if it is code of one's own that was neither given again nor permitted.
        """
        if self.stored_refinement is None:
            return None
        told = self.info["refine"]
        return self.stored_refinement.find(told, self.stored_refinement.tensors, told["widths"][0])

    @property
    def refines_vectors(self) -> bool:
        """Whether what its refinement moves are the vectors of the student as they are."""
        plain = isinstance(self.projector, nn.Identity) and isinstance(self.align, nn.Identity)
        return self.refinement is not None and plain and self.refinement.part == self.part

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by the names that a student's file has for them."""
        refine = {} if self.stored_refinement is None else self.stored_refinement.tensors
        return {**self.state_dict(), **{f"refine.{name}": x for name, x in refine.items()}}


class PlainSegmenter(PlainStudent):
    """A trained student for classes of pixels, a normalised batch `(N, C, H, W)` to vectors and logits.

    The vectors `(N, D)` are those of `PlainStudent`, of the whole image. The logits `(N, classes, H, W)` are the scores
    of each pixel, brought to the size of the images (bilinear), so that `logits.argmax(1)` is the map of their classes.
    Images may have any size that the network reads.
    """

    of_pixels = True

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors and the logits of the pixels."""
        maps, feature = self.backbone.stages(images)
        scores = self.backbone.logits(maps) if self.classes else None
        vectors: Tensor = self.align(self.projector(feature if self.part == "feature" else self.head(feature)[0]))
        # Not `on_grid`, whose comparison of sizes would bind an exported program to some.
        return vectors, None if scores is None else interpolate(scores.float(), images.shape[-2:], mode="bilinear")


class VectorsAlone(nn.Module):
    """The vectors of a student `(N, D)`, without its logits: a `PlainStudent`, or a module around one."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors of a batch as the student reads it."""
        vectors: Tensor = self.student(images)[0]
        return vectors


def is_aligned(student: PlainStudent) -> bool:
    """Return whether a student's vectors end in the rotation into its teacher's space."""
    return not isinstance(student.align, nn.Identity)


def in_teacher_space(student: PlainStudent) -> bool:
    """Return whether a student's vectors stand in the space of its teacher's own, so that they ask the same index."""
    return is_aligned(student) or bool(student.info.get("in_teacher_space"))


def write_aligned(path: Path, align: DirectionRotation, index: VectorTransform, told: Mapping[str, Any]) -> None:
    """Write the rotation into the teacher's space, and what its index does with a vector, into a student's file.

    What the file held stays in it, so that `write_unaligned` gives it back as it was.

    Args:
        path: `student.safetensors` of a run, replaced whole or not at all.
        align: The rotation.
        index: The transform of the teacher's index.
        told: Whose space it is and how it was fitted, as JSON values, with `teacher`, its name.

    Raises:
        RelgraphError: if the file cannot be read, or its student is aligned already.
    """
    tensors, info = read_network(path)
    check_unaligned(path, info)
    parts = {"align": align, "index": index}
    own = {f"{name}.{key}": x.float() for name, part in parts.items() for key, x in part.state_dict().items()}
    save_tensors(path, {**tensors, **own}, {**info, "align": dict(told), "index": index.plain()})


def check_unaligned(path: Path, info: Mapping[str, Any]) -> None:
    """Raise RelgraphError if the description in a student's file says that it is aligned."""
    if "align" in info:
        told = f"{path} is aligned with the vectors of {info['align']['teacher']} already"
        raise RelgraphError(f"{told}: undo that first, by relgraph align RUN --undo")


def write_unaligned(path: Path) -> None:
    """Take what `write_aligned` wrote out of a student's file, which is then what it was before.

    Raises:
        RelgraphError: if the file cannot be read, or its student is not aligned.
    """
    tensors, info = read_network(path)
    if "align" not in info:
        raise RelgraphError(f"{path} is not aligned: there is nothing to undo")
    kept = {name: x for name, x in tensors.items() if not name.startswith(("align.", "index."))}
    save_tensors(path, kept, {name: value for name, value in info.items() if name not in ("align", "index")})


def read_plain(path: Path, find: Callable[[str], StudentSource], refine: FindRefinement) -> PlainStudent:
    """Return a trained student, in evaluation mode, from a run, its `student.safetensors` or a folder of a hub.

    `find` turns the name of its backbone into a source, and `refine` builds its refinement, where it has one, once that
    is asked for; see `relgraph.load_student`.

    Raises:
        RelgraphError: if the file is missing, damaged, without a head, or of another architecture than it declares.
    """
    if path.is_dir():
        hub = path / HUB_FILE
        path = hub if hub.is_file() else path / "student.safetensors"
    tensors, info = read_network(path)
    if "dim" not in info or "classes" not in info or "vectors" not in info:
        raise RelgraphError(f"{path} holds no student: expected student.safetensors of a training run")
    projector, align, index, own = (part_of(tensors, part) for part in ("projector.", "align.", "index.", "refine."))
    if (index and info.get("index", {}).get("of") != COMPARED) or (align and "mean" not in align):
        told = f"{path} was aligned by an earlier version, whose vectors were no {COMPARED}"
        raise RelgraphError(f"{told}: relgraph align RUN --undo, and align it again")
    backbone = built(info, find)
    pixels = bool(info.get("pixels"))
    head = Head(backbone.width, info["dim"], 0 if pixels else len(info["classes"]))
    transform = VectorTransform.like(index, info.get("index", {})) if index else None
    turn = DirectionRotation.like(align) if align else None
    stored = StoredRefinement(own, refine) if "refine" in info else None
    kind = PlainSegmenter if pixels else PlainStudent
    student = kind(backbone, head, layers_like(projector), info["vectors"], info, turn, transform, stored)
    mine = {name: tensor for name, tensor in tensors.items() if not name.startswith(("teacher.", "refine."))}
    return load_strictly(student, mine, path).eval()


def hub_file(repository: str) -> Path:
    """Return the file of a student's weights in a repository `owner/name` of the Hugging Face Hub, or in its cache.

    Raises:
        RelgraphError: if it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    return Path(from_hub(f"hf:{repository}", repository, HUB_FILE, lambda: hf_hub_download(repository, HUB_FILE)))
