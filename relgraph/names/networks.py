"""Names of students and teachers, and the networks that files of relgraph hold."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from relgraph import own_code
from relgraph.errors import RelgraphError, unknown
from relgraph.names.own import check_permitted, find_own
from relgraph.names.refinements import refinement_in_file
from relgraph.networks.backbone import Backbone
from relgraph.networks.checkpoint_source import CheckpointSource, embedded
from relgraph.networks.files import read_student
from relgraph.networks.heads import Student
from relgraph.networks.open_clip_source import OpenClipSource
from relgraph.networks.own import OwnStudent, OwnTeacher
from relgraph.networks.plain import PlainStudent, hub_file, read_plain
from relgraph.networks.published_source import PublishedSource
from relgraph.networks.segmentation_source import FAMILIES, SegmentationSource
from relgraph.networks.smp_source import SmpSource
from relgraph.networks.sources import Arguments, StudentSource, TeacherSource
from relgraph.networks.students import ALIASES, STUDENTS, BenchmarkSource
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_source import TimmSource
from relgraph.networks.torchvision_source import TorchvisionSource
from relgraph.networks.vectors import VectorSource
from relgraph.own_code import Own

# The names of the original CLIP release, as the official EGA code spells its teachers.
CLIP_NAMES = (
    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
)  # fmt: skip


def is_vectors(teacher: object) -> bool:
    """Return whether a teacher is known by its vectors alone, `vectors:FILE`.

    >>> is_vectors("vectors:clip.npy"), is_vectors("embedded:digits")
    (True, False)
    """
    return isinstance(teacher, str) and teacher.startswith("vectors:")


def student(spec: object) -> StudentSource:
    """Return the student of a spelling: one of the benchmark, `timm:MODEL[.TAG]`, `torchvision:MODEL[/WEIGHTS]`.

    Or an object. A built-in name is looked up when the network is built; one with a tag starts from the published
    weights of that tag.

    Raises:
        RelgraphError: for code of one's own that cannot be imported.

    >>> student("timm:resnet18").build(1, 32).width
    512
    """
    if isinstance(spec, str):
        library, _, model = spec.partition(":")
        if model and library in LIBRARIES:
            return LIBRARIES[library](model)
        if spec in STUDENTS or spec in ALIASES:
            return BenchmarkSource(spec)
    own = find_own("students", spec)
    return BenchmarkSource(str(spec)) if own is None else OwnStudent(*own)


def _torchvision(spec: str) -> TorchvisionSource:
    """Return the model of a spelling NAME[/WEIGHTS], one for classes of images or of pixels."""
    kind = SegmentationSource if spec.startswith(FAMILIES) else TorchvisionSource
    return kind(*spec.split("/", 1))


def _checkpoint(path: str | Path) -> CheckpointSource:
    return CheckpointSource(Path(path), student_in_file(path), refinement_in_file(path))


# What finds a network by the rest of its spelling: a student or a teacher of a library, and other teachers.
LIBRARIES: dict[str, Callable[[str], TimmSource | TorchvisionSource | SmpSource]] = {
    "timm": TimmSource, "torchvision": _torchvision, "smp": SmpSource,
}  # fmt: skip
SOURCES: dict[str, Callable[[str], TeacherSource]] = {
    "open_clip": lambda name: OpenClipSource(*name.split("/", 1)), **LIBRARIES, "checkpoint": _checkpoint,
    "repdistiller": PublishedSource, "embedded": lambda name: _checkpoint(embedded(name)),
    "vectors": lambda name: VectorSource(Path(name)),
}  # fmt: skip


def student_in_file(file: str | Path, given: object = None) -> Callable[[str], StudentSource]:
    """Return the function that finds the student which a file names, or that which is `given` in its place.

    It raises RelgraphError for code of one's own that was not permitted, or cannot be found.
    """

    def find(text: str) -> StudentSource:
        if given is not None:
            return student(given)
        check_permitted(text, str(file))
        return student(text)

    return find


def teacher(spec: object) -> TeacherSource:
    """Return the teacher of a spelling (see `relgraph.networks.teachers`), looked up when it is loaded; or an object.

    >>> str(teacher("checkpoint:runs/first").path)
    'runs/first'

    Raises:
        RelgraphError: for an unknown source, or a text without one.
    """
    source, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if name and source in SOURCES:
        return SOURCES[source](name)
    own = find_own("teachers", spec)
    if own is not None:
        return OwnTeacher(*own)
    if not name:
        known = ", ".join(SOURCES)
        raise RelgraphError(f"a teacher is spelled SOURCE:NAME[/WEIGHTS] with a source of {known}, got {spec!r}")
    raise unknown("teacher source", source, SOURCES)


def build_backbone(name: object, in_channels: int = 3, *, image_size: int | None = None) -> Backbone:
    """Return a backbone with an attribute `width`, `(N, in_channels, H, W) -> (N, width)`.

    It is untrained, unless the name says weights.

    Args:
        name: One of the benchmark's students, `timm:MODEL` or `torchvision:MODEL`; `timm:MODEL.TAG` and
            `torchvision:MODEL/WEIGHTS` start from the published weights.
        in_channels: Of the images.
        image_size: Of the images in pixels, for models of timm and torchvision that are made for one size, such as
            transformers; the others read any size, and the benchmark's own ignore it.

    Raises:
        RelgraphError: for an unknown name, the message holds the nearest known one; for a model of timm or torchvision
            that cannot read such images; and for weights that cannot be had.

    >>> import torch
    >>> build_backbone("resnet8x4")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 256])
    """
    source = student(name)
    return source.start(None, in_channels, image_size) if source.published else source.build(in_channels, image_size)


def load_student(
    path: str | Path, *, student: object = None, refine: object = None, allow_code: bool = False
) -> PlainStudent:
    """Return a trained student as a plain module in evaluation mode.

    It maps a normalised batch `(N, C, H, W)` to vectors `(N, D)`, in the space in which the method compared them with
    the teacher's, and logits; `preprocess` prepares an image. Where pixels have classes, the logits are those of each
    pixel, `(N, classes, H, W)` (see `relgraph.networks.plain.PlainSegmenter`).

    Args:
        path: The run, its `student.safetensors`, a folder that `relgraph export` wrote for the Hugging Face Hub, or
            `hf:OWNER/NAME` there, of which the Hub's local cache is read where the Hub cannot be reached.
        student: The network of one's own that it holds, given again: its spelling, or the object.
        refine: The refinement of one's own by which it was trained, given again: needed for `refinement` alone.
        allow_code: Whether code of one's own that the file names may be run.

    Raises:
        RelgraphError: if the file is missing, truncated, without a head, or of another architecture than it declares;
            for code of one's own that was neither given again nor allowed.
    """
    if str(path).startswith("hf:"):
        path = hub_file(str(path).removeprefix("hf:"))
    with own_code.permitting(everything=allow_code):
        found = read_plain(Path(path), student_in_file(path, student), refinement_in_file(path, refine))
        if allow_code or refine is not None:  # while it is permitted
            _ = found.refinement
        return found


def open_student(
    path: str | Path, *, student: object = None, allow_code: bool = False
) -> tuple[Student, dict[str, Any]]:
    """Return a trained student as it was trained, in evaluation mode, and its description: see `load_student`.

    The description contains the properties of its input: `in_channels`, `image_size`, `mean`, `std` (of images in 0..1)
    and `classes`.

    Args:
        path: The run or the file.
        student: The network of one's own that it holds, given again: its spelling, or the object.
        allow_code: Whether code of one's own that the file names may be run.

    Raises:
        RelgraphError: if the file is missing, truncated, without a head, or of another architecture than it declares;
            for code of one's own that was neither given again nor allowed.
    """
    with own_code.permitting(everything=allow_code):
        return read_student(Path(path), student_in_file(path, student))


def load_teacher(
    spec: object, *, weights: str | Path | None = None, input_size: int | None = None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, arguments: Arguments | None = None,
    stages: Sequence[str] = (),
) -> Teacher:  # fmt: skip
    """Return the frozen teacher that `spec` names (see the head of `relgraph.networks.teachers`).

    Args:
        spec: `SOURCE:NAME[/WEIGHTS]`.
        weights: a file for `open_clip:`, `timm:` and `torchvision:` teachers, instead of the weights that these
            libraries download; the published file of a `repdistiller:` teacher.
        input_size: side of the images in pixels, instead of what the network was trained on.
        mean: per channel on the scale 0..1, instead of the one known for the weights.
        std: per channel on the scale 0..1, instead of the one known for the weights.
        arguments: what else `timm.create_model` needs for the file, e.g. `{"num_classes": 1001, "pad_type": "same"}`;
            of a `checkpoint:`, `{"output": "projection"}` for its projector's output instead of its features.
        stages: sub-modules whose outputs are the stage maps, such as `("layer1", "layer2")`, instead of the network's
            own; of networks of timm, of torchvision and of your own.

    Raises:
        RelgraphError: if a name is unknown, weights cannot be had, read, or do not match, or an option does not apply.
    """
    spec = Own.of(spec)
    source = teacher(spec)
    if arguments and not source.takes_arguments:
        raise RelgraphError(f"arguments are for timm, checkpoint and own teachers, got {dict(arguments)} for {spec}")
    if weights and not source.takes_weights:
        raise RelgraphError(f"{spec} brings its own weights, got the file {weights} as well")
    found = source.load(None if weights is None else Path(weights), input_size, arguments or {})
    given: dict[str, Any] = {"input_size": input_size, "mean": mean, "std": std}
    return Teacher(replace(found, **{name: value for name, value in given.items() if value}), str(spec), stages)


def clip_spec(name: str) -> str:
    """Return the name here of a network of the original CLIP release.

    >>> clip_spec("ViT-B/32")
    'open_clip:ViT-B-32/openai'

    Raises:
        RelgraphError: if CLIP has no network of that name.
    """
    if name not in CLIP_NAMES:
        raise unknown("CLIP network", name, CLIP_NAMES)
    return f"open_clip:{name.replace('/', '-').replace('@336px', '-336')}/openai"
