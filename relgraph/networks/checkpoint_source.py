"""Teachers that relgraph trained: of a run, and those that come with the package."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import find_network, load_head, load_network, load_projector, read_network
from relgraph.networks.heads import Head
from relgraph.networks.plain import FindRefinement, PlainStudent, Preprocessing, is_aligned, read_plain
from relgraph.networks.sources import Arguments, Listed, Pretrained, StudentSource, TeacherSource

EMBEDDED = {"digits": Path(__file__).parents[1] / "assets" / "digits-simclr.safetensors"}
OUTPUTS = ("feature", "projection", "embedding")  # of a checkpoint


class Projected(Backbone):
    """A backbone and the layers that were trained on top of it, `(N, C, H, W) -> (N, width)`, that of their output."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the backbone's maps and the projection."""
        maps, feature = self.backbone.stages(images)
        return maps, self.projector(feature)

    def logits(self, maps: Sequence[Tensor]) -> Tensor | None:
        """Return the backbone's class scores of positions, if it has some."""
        return self.backbone.logits(maps)


def embedding_network(student: PlainStudent) -> Projected:
    """Return the network whose output is a student's vectors, as the argument `output=embedding` gives it."""
    project = student.head.project if student.part == "embedding" else nn.Identity()
    # An identity for the alignment of most students would give their stores another fingerprint.
    aligned = (student.align,) if is_aligned(student) else ()
    return Projected(student.backbone, nn.Sequential(project, student.projector, *aligned))


@dataclass(frozen=True)
class CheckpointSource(TeacherSource):
    """A network that relgraph trained, a pre-training's or a student's: its file or the directory of its run.

    `find` turns the name of its backbone into a source, and `refine` builds a student's refinement.
    """

    path: Path = field()
    find: Callable[[str], StudentSource]
    refine: FindRefinement
    takes_weights: ClassVar[bool] = False
    takes_arguments: ClassVar[bool] = True

    @property
    def has_classifier(self) -> bool:
        """A student's run has one; the networks that come with the package have none."""
        return self.path not in EMBEDDED.values()

    def classifier(self, weights: Path | None) -> tuple[Head, tuple[str, ...]]:
        """Return the head of a student and its classes.

        Raises:
            RelgraphError: if the file cannot be read or holds no head with classes.
        """
        return load_head(self.path)

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the network.

        The argument `output` chooses the vectors: "feature", the backbone's pooled ones; "projection", the output of
        the projector for them; "embedding", those of `PlainStudent`, which the student's method compared.

        Raises:
            RelgraphError: if the file is missing, damaged or another program's, an argument is unknown, or a projection
                is asked for where there is no projector, or an embedding of what is no student.
        """
        if arguments.keys() - {"output"}:
            known = " or ".join(f"output={each}" for each in OUTPUTS)
            raise RelgraphError(f"a checkpoint takes the argument {known}, got {dict(arguments)} for {self.path}")
        output = str(arguments.get("output", "feature"))
        if output not in OUTPUTS:
            raise unknown("output of a checkpoint", output, OUTPUTS)
        backbone, info = load_network(self.path, self.find)
        refinement = None
        if output == "projection":
            backbone = Projected(backbone, load_projector(self.path))
        elif output == "embedding":
            student = read_plain(find_network(self.path), self.find, self.refine)
            backbone = embedding_network(student)
            refinement = student.refinement if student.refines_vectors else None
        pixels = bool(info.get("pixels"))  # it reads images of any size, and its scores have their form
        size, classes = None if pixels else Preprocessing.of(info).image_size, tuple(info["classes"]) if pixels else ()
        return Pretrained(backbone, size, info["in_channels"], info["mean"], info["std"], refinement, classes)


def embedded(name: str) -> Path:
    """Return the file of a network that comes with the package.

    Raises:
        RelgraphError: if there is none of that name.
    """
    if name not in EMBEDDED:
        raise unknown("embedded teacher", name, EMBEDDED)
    return EMBEDDED[name]


def list_embedded() -> list[Listed]:
    """Return the networks that come with the package."""
    sizes = {name: read_network(path)[1]["image_size"] for name, path in EMBEDDED.items()}
    return [Listed("embedded", name, size, None, "") for name, size in sizes.items()]
