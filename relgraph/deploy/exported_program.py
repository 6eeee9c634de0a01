"""A student as a program of `torch.export`, and its file, `.pt2`."""

import io
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from relgraph.data.decoding import pair
from relgraph.data.views import LUMINANCE
from relgraph.deploy.comparing import compared
from relgraph.errors import RelgraphError
from relgraph.files import first_line, replacing
from relgraph.networks.plain import PlainStudent, is_aligned

EXTRA = "relgraph.json"  # the description among a program's `extra_files`


class Prepared(nn.Module):
    """A student behind its preprocessing: uint8 images `(N, 3, H, W)` of any size to vectors and logits.

    As `Preprocessing` prepares an image by PIL: it is resized until it just covers height and width (bicubic,
    antialiased, rounded to whole levels), the centre cropped, the rest normalised. PIL rounds after each of two passes
    and this once, so that a pixel of a resized image can differ by one level; at the final size all are the same. Of an
    image beyond `LONGEST` (`relgraph.data.decoding`) all is resized, not the middle: its pixels can differ by more.
    """

    mean: Tensor
    std: Tensor
    luminance: Tensor

    def __init__(self, student: PlainStudent) -> None:
        super().__init__()
        self.student, self.channels = student, student.preprocess.channels
        self.size = pair(student.preprocess.image_size)
        numbers = {"mean": student.preprocess.mean, "std": student.preprocess.std, "luminance": LUMINANCE}
        for name, values in numbers.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors and the logits."""
        x = self.fitted(images.float()).clamp(0, 255).round() / 255
        if self.channels == 1:
            x = (x * self.luminance).sum(1, keepdim=True)
        found: tuple[Tensor, Tensor | None] = self.student((x - self.mean) / self.std)
        return found

    def fitted(self, images: Tensor) -> Tensor:
        """Return the images resized until they just cover the student's size, and their centre if that is cropped."""
        (height, width), least = images.shape[-2:], self.size
        whole: Any = (torch.sym_max(least[0], _resized(height, least[1], width)),
                 torch.sym_max(least[1], _resized(width, least[0], height)))  # fmt: skip
        x = functional.interpolate(images, size=whole, mode="bicubic", antialias=True)
        if self.student.preprocess.whole:
            return x
        # Not by a slice, whose strides would bind the program to images of the example's size.
        sides = zip(whole, self.size, strict=True)
        rows, columns = ((length - side) // 2 + torch.arange(side) for length, side in sides)
        return x.index_select(2, rows).index_select(3, columns)


class PreparedWhole(Prepared):
    """A student for classes of pixels behind its preprocessing: nothing is cropped, and logits have the images' size.

    An image is resized as `Preprocessing` does it, and the logits `(N, classes, H, W)` are brought back (bilinear).
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors and the logits."""
        vectors, logits = super().forward(images)
        size = images.shape[-2:]
        return vectors, None if logits is None else functional.interpolate(logits, size=size, mode="bilinear")


def _resized(length: Any, size: int, shorter: Any) -> Any:
    """Return `round(length * size / shorter)`, a half to the even number, without a branch that would be fixed.

    >>> [_resized(length, 4, 8) for length in (8, 9, 11, 15)], [round(length * 4 / 8) for length in (8, 9, 11, 15)]
    ([4, 4, 6, 8], [4, 4, 6, 8])
    """
    doubled, divisor = 2 * length * size + shorter, 2 * shorter
    rounded = doubled // divisor
    half = 1 - torch.sym_min(doubled % divisor, 1)  # 1 where the fraction is exactly a half
    return rounded - half * (rounded % 2)


def description(student: PlainStudent, with_preprocessing: bool) -> dict[str, Any]:
    """Return what travels with a student as data, as JSON values: its input, its preprocessing, outputs and classes."""
    prepare = student.preprocess
    ends = [(x - mean) / std for mean, std in zip(prepare.mean, prepare.std, strict=True) for x in (0, 1)]
    sides = read_sides(student) or ("height", "width")
    plain = {"type": "float32", "shape": ["batch", prepare.channels, *sides]}
    pixels = {"type": "uint8", "shape": ["batch", 3, "height", "width"], "range": [0, 255]}
    return {
        "input": {"name": "images", **(pixels if with_preprocessing else {**plain, "range": [min(ends), max(ends)]})},
        "outputs": names_of_outputs(student),
        "preprocessing": {**prepare.plain(), "scale": 1 / 255, "inside": with_preprocessing},
        "classes": list(student.classes),
        "vectors": student.part,
        **({"aligned": student.info["align"]} if is_aligned(student) else {}),
        "backbone": student.info.get("backbone"),
    }


def read_sides(student: PlainStudent) -> tuple[int, int] | None:
    """Return height and width of the normalised images that a student reads, `None` for any.

    One for classes of pixels reads any, but most vision transformers do not.
    """
    prepare = student.preprocess
    height, width = pair(prepare.image_size)
    if student.of_pixels:
        with suppress(Exception), torch.no_grad():  # of a library or a user, of whatever kind
            student(torch.zeros(1, prepare.channels, height + 18, width + 39))
            return None
    return height, width


def names_of_outputs(student: PlainStudent) -> list[str]:
    """Return the names of what a student gives."""
    return ["embedding", "logits"] if student.classes else ["embedding"]


def traced(
    student: PlainStudent, with_preprocessing: bool, around: Callable[[nn.Module], nn.Module] | None = None
) -> ExportedProgram:
    """Return a student as a program of `torch.export` for batches of any number.

    Images are of any size if prepared, or if it is their pixels that have classes and the network reads them. The
    program is that of the module that `around` makes of the student, or of its prepared form, if given.

    Raises:
        RelgraphError: if it cannot be exported, as its own code may not be.
    """
    module: nn.Module = student
    (height, width), channels = pair(student.preprocess.image_size), student.preprocess.channels
    least = dict[str, int]()
    own = read_sides(student)
    if with_preprocessing and student.of_pixels and own is not None:
        told = f"reads images of {own[0]} x {own[1]} alone: expected no preprocessing inside, which crops nothing"
        raise RelgraphError(f"{student.info['backbone']} {told}")
    if with_preprocessing:
        module, channels = (PreparedWhole if student.of_pixels else Prepared)(student).eval(), 3
    elif own is None:  # smaller ones can have maps of one position, which torch takes for another program
        least = {"height": height, "width": width}
    module = module if around is None else around(module).eval()
    sizes: dict[int, Any] = {0: Dim("batch")}
    if with_preprocessing or own is None:  # an example of two sides, which neither is fixed by
        sizes |= {axis: Dim(name, min=least.get(name)) for axis, name in ((2, "height"), (3, "width"))}
    sides = (max(height, width) + 18, max(height, width) + 39) if with_preprocessing or own is None else own
    example = torch.zeros(2, channels, *sides, dtype=torch.uint8 if with_preprocessing else torch.float32)
    told = f"{student.info['backbone']} cannot be exported by torch.export"
    try:
        with torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=(sizes,))
    except Exception as error:  # a user's own code raises anything
        fixed = "its code is for one number of images (such as len(x) in place of x.shape[0])"
        sized = "its maps have not one form for all heights and widths: give --with-preprocessing"
        violated = re.search(r"Constraints violated \((.*?)\)", str(error))
        reason = first_line(error)[:300] if violated is None else fixed if "batch" in violated[1] else sized
        raise RelgraphError(f"{told}: {reason}") from error


def write_exported(student: PlainStudent, path: Path, *, with_preprocessing: bool = False, images: Tensor) -> float:
    """Write a student as a program of `torch.export`, and return how far the file's outputs are from the student's.

    `torch.export.load(path).module()` maps `images` to `(embedding, logits)`, or to `(embedding, None)` where no
    classifier was trained. Where pixels have classes, images have any sizes from those of the training images on, if
    the network reads these, and logits `(N, classes, H, W)` the sizes of the images. The description is JSON in
    `relgraph.json` of its `extra_files`.

    Args:
        student: The student.
        path: The file, which is written whole or not at all.
        with_preprocessing: Whether the program reads uint8 images `(N, 3, H, W)` of any size, not normalised ones.
        images: uint8 images of the student's size, on which both are compared.

    Raises:
        RelgraphError: if it cannot be exported or written, or the file gives other outputs.
    """
    program, stream = traced(student, with_preprocessing), io.BytesIO()
    torch.export.save(program, stream, extra_files={EXTRA: json.dumps(description(student, with_preprocessing))})
    with replacing(path) as part:
        part.write_bytes(stream.getvalue())
        loaded = torch.export.load(io.BytesIO(part.read_bytes())).module()
        return compared(student, loaded, images, path, "torch.export", with_preprocessing=with_preprocessing)
