"""The result of every source of teachers, and relgraph's own files as one of these sources."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Backbone, Stages
from relgraph.networks.files import load_network, load_projector, read_network
from relgraph.networks.heads import Projector

EMBEDDED = {"digits": "digits-simclr.safetensors"}
OUTPUTS = ("feature", "projection")  # of a checkpoint

Arguments = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Source:
    """A network, images to embeddings, and the preparation of the images that it was trained on.

    `stages` is the same network with its stage maps: the maps, none if it returns none, and the embedding.
    """

    network: nn.Module
    input_size: int
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    stages: Stages


@dataclass(frozen=True)
class Listed:
    """An available teacher, with the facts that its library lists without building it.

    Attributes:
        spec: its name, as `load_teacher` takes it.
        input_size: side of its images in pixels, None if it takes any.
        megabytes: size of the download, None if the library does not list it.
        address: where the weights are published, "" for a network that comes with the package.
    """

    spec: str
    input_size: int | None
    megabytes: float | None
    address: str


class Projected(Backbone):
    """A backbone and the projector that was trained on top of it, `(N, C, H, W) -> (N, width)`, the projection's."""

    def __init__(self, backbone: Backbone, projector: Projector, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.width = width

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the backbone's maps and the projection."""
        maps, feature = self.backbone.stages(images)
        return maps, self.projector(feature)


def checkpoint(path: Path, arguments: Arguments | None = None) -> Source:
    """Read a network that relgraph trained, a pre-training's or a student's, from its file or the directory of its run.

    The argument `output` chooses the embedding: "feature", the backbone's pooled vector, or "projection", the output
    of the pre-training's projector for it.

    Raises:
        RelgraphError: if the file is missing, damaged or another program's, an argument is unknown, or a projection is
            asked for where there is no projector.
    """
    output = _output(path, arguments or {})
    backbone, info = load_network(path)
    if output == "projection":
        backbone = Projected(backbone, load_projector(path), info["projector"]["dim"])
    return Source(backbone, info["image_size"], info["in_channels"], info["mean"], info["std"], backbone.stages)


def _output(path: Path, arguments: Arguments) -> str:
    if arguments.keys() - {"output"}:
        raise RelgraphError(
            f"a checkpoint takes the argument output={' or output='.join(OUTPUTS)}, got {dict(arguments)} for {path}"
        )
    output = str(arguments.get("output", "feature"))
    if output not in OUTPUTS:
        raise unknown("output of a checkpoint", output, OUTPUTS)
    return output


def embedded(name: str) -> Source:
    """Read a network that comes with the package.

    Raises:
        RelgraphError: if there is none of that name.
    """
    if name not in EMBEDDED:
        raise unknown("embedded teacher", name, EMBEDDED)
    with resources.as_file(resources.files("relgraph") / "assets" / EMBEDDED[name]) as path:
        return checkpoint(path)


def list_embedded() -> list[Listed]:
    """Return the networks that come with the package."""
    listed = []
    for name, file in EMBEDDED.items():
        with resources.as_file(resources.files("relgraph") / "assets" / file) as path:
            listed.append(Listed(f"embedded:{name}", read_network(path)[1]["image_size"], None, ""))
    return listed


def no_model(kind: str, name: str, known: Iterable[str]) -> RelgraphError:
    """Return the error for a name among hundreds, where listing all would bury the hint."""
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    if near:
        return RelgraphError(f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?")
    if not names:
        return RelgraphError(f"unknown {kind} {name!r}: none are published, pass a file with --teacher-weights FILE")
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return RelgraphError(f"unknown {kind} {name!r} (known: {', '.join(names[:8])}{more})")
