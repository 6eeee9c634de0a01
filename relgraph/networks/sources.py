"""What every source of networks has in common: a benchmark, a library, a file of relgraph's own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Protocol

from torch import nn

from relgraph.data.decoding import ImageSize
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.graph.refine import NodeRefinement
from relgraph.networks.backbone import Backbone
from relgraph.networks.heads import Head

Arguments = Mapping[str, str | int | float | bool]
# Mean and standard deviation of the images that a network was trained on, a value a channel, on the scale 0..1.
Preparation = tuple[Sequence[float], Sequence[float]]


class StudentSource(Protocol):
    """A student by its name, which `build` turns into a network, and `start` into one with weights.

    A run that goes on, a stored student and a checkpoint are built, and bring their weights: nothing is downloaded.
    """

    @property
    def published(self) -> bool:
        """Whether its name says published weights, from which the student starts."""
        ...

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return an untrained network for square images, `(N, in_channels, H, W) -> (N, width)`.

        Raises:
            RelgraphError: for an unknown name, or images that the network cannot read.
        """
        ...

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return the network that `build` makes, with the weights of a file, or the published ones of its name.

        Raises:
            RelgraphError: as `build`, and if the weights cannot be had, read, or do not match.
        """
        ...

    def preparation(self) -> Preparation:
        """Return mean and standard deviation of the images on which its weights were trained; nothing is downloaded.

        Raises:
            RelgraphError: if they are not known.
        """
        ...


@dataclass(frozen=True)
class Pretrained:
    """A network, images to embeddings, and the preparation of the images that it was trained on.

    A `Backbone` also returns its stage maps, and class scores of positions where it has some, of the `classes` if these
    are known. The other fields are those of `Teacher`; without `channels` there are as many as
    the mean has values, and mean and std are empty where nobody knows them.
    """

    network: nn.Module
    input_size: ImageSize | None
    channels: int | None
    mean: Sequence[float]
    std: Sequence[float]
    refinement: NodeRefinement | None = None
    classes: tuple[str, ...] = ()


class TeacherSource:
    """A teacher by its name, which `load` turns into a network with weights.

    Attributes:
        takes_weights: Whether it reads a file in place of the weights that its library downloads.
        takes_arguments: Whether it has arguments.
        path: The file or the run directory of a network that relgraph trained, else `None`.
    """

    takes_weights: ClassVar[bool] = True
    takes_arguments: ClassVar[bool] = False
    path: Path | None = None

    @property
    def has_classifier(self) -> bool:
        """Whether `classifier` returns one."""
        return False

    def classifier(self, weights: Path | None) -> tuple[Head, tuple[str, ...] | None]:
        """Return the classifier that was trained with the network, and its classes if they are named.

        Raises:
            RelgraphError: if its weights cannot be had or read.
        """
        raise NotImplementedError

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the network with the weights of a file, or with those that the source has.

        Raises:
            RelgraphError: if a name is unknown or the weights cannot be had, read, or do not match.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Listed:
    """An available teacher, with the facts that its library lists without building it.

    Attributes:
        source: the name of its library, the first part of its spelling.
        name: the rest of its spelling.
        input_size: side of its images in pixels, None if it takes any.
        megabytes: size of the download, None if the library does not list it.
        address: where the weights are published, "" for a network that comes with the package.
    """

    source: str
    name: str
    input_size: int | None
    megabytes: float | None
    address: str

    @property
    def spec(self) -> str:
        """Its spelling, as `load_teacher` takes it."""
        return f"{self.source}:{self.name}"


def unknown_model(kind: str, name: str, known: Iterable[str]) -> RelgraphError:
    """Return the error for a name among hundreds, where listing all would bury the hint."""
    names = list(known)
    near = get_close_matches(name, names)
    if near:
        return RelgraphError(f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?")
    if not names:
        return RelgraphError(f"unknown {kind} {name!r}: none are published, pass a file with --teacher-weights FILE")
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return RelgraphError(f"unknown {kind} {name!r} (known: {', '.join(names[:4])}{more})")


@contextmanager
def built_for(library: str, name: str, known: Iterable[str], in_channels: int, image_size: int) -> Iterator[None]:
    """Turn any exception while a student of a library is built and measured into one error message.

    Raises:
        RelgraphError: if the library has no such model, or anything was raised inside.

    >>> try:
    ...     with built_for("timm", "resnet81", ["resnet18", "vgg11"], 3, 32):
    ...         pass
    ... except RelgraphError as error:
    ...     print(error)
    unknown student 'timm:resnet81': did you mean timm:resnet18? (relgraph students 'timm:*' lists all)
    """
    spec, specs = f"{library}:{name}", [f"{library}:{other}" for other in known]
    if spec not in specs:
        raise RelgraphError(f"{unknown_model('student', spec, specs)} (relgraph students '{library}:*' lists all)")
    with reading_images(spec, in_channels, image_size):
        yield


@contextmanager
def reading_images(spec: str, in_channels: int, image_size: int) -> Iterator[None]:
    """Turn any exception of a network that is built and reads a blank image into one error message."""
    try:
        yield
    except Exception as error:  # the exception for a size that a network cannot read differs between networks
        size = f"{in_channels} x {image_size} x {image_size}"
        raise RelgraphError(f"{spec} cannot read images of {size}: {first_line(error)}") from error
