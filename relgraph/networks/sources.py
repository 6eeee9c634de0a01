"""What every source of teachers returns, and relgraph's own files as one of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from torch import nn

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Stages
from relgraph.networks.files import load_network, read_network

EMBEDDED = {"digits": "digits-simclr.safetensors"}

Arguments = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Source:
    """A network, images to embeddings, and how the images were prepared that it was trained on.

    `stages` is the same network with its stage maps: the maps, none if it hands on none, and the embedding.
    """

    network: nn.Module
    input_size: int
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    stages: Stages


@dataclass(frozen=True)
class Listed:
    """A teacher that can be had, as far as its library knows it without building it.

    Attributes:
        spec: how it is spelled.
        input_size: side of its images in pixels, None if it takes any.
        megabytes: size of the download, None if the library does not say.
        address: where the weights are published, "" for a network that comes with the package.
    """

    spec: str
    input_size: int | None
    megabytes: float | None
    address: str


def checkpoint(path: Path) -> Source:
    """Read the backbone of a student of relgraph, from its file or the directory of its run.

    Raises:
        RelgraphError: if the file is missing, damaged or another program's.
    """
    backbone, info = load_network(path / "student.safetensors" if path.is_dir() else path)
    return Source(backbone, info["image_size"], info["in_channels"], info["mean"], info["std"], backbone.stages)


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
