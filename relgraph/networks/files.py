"""Networks on disk: weights as safetensors, with what is needed to build them again in the file's own header."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.files import SEAL, file_digest, write_atomically
from relgraph.networks.backbone import Backbone, choose_stages
from relgraph.networks.heads import Head, Projector, Student, layers_like
from relgraph.networks.segmenter import Segmenter, scored
from relgraph.networks.sources import StudentSource

DESCRIBED = {"backbone", "in_channels", "image_size", "mean", "std"}  # keys of the description of any network file
NETWORK_FILES = ("network.safetensors", "student.safetensors")  # of a run directory: a pre-training's, a training's
M = TypeVar("M", bound=nn.Module)
# What a network's file holds besides its backbone.
ABOVE = ("head.", "projector.", "teacher.", "align.", "index.", "refine.")
SS_HEAD_FILE = "ss_head.safetensors"
SS_HEAD_KIND = "sskd-head"  # the `kind` in the description of such a file


def save_network(path: Path, network: nn.Module, info: Mapping[str, Any]) -> None:
    """Write weights and `info` (JSON values, of a network at least those of `DESCRIBED`) to a safetensors file.

    A network and the layers on top of it are stored together: the keys of its backbone begin with `backbone.`, those of
    a student's head with `head.`, those of a projector with `projector.`, and what the teacher's side of a training
    learned with `teacher.head.` and `teacher.projector.`, those of an alignment with `align.`, and those of the
    transform of an index with `index.`. A refinement of nodes has `refine.` and `teacher.refine.`.
    """
    save_tensors(path, network.state_dict(), info)


def save_tensors(path: Path, named: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write the tensors of a network by their names, and `info`: see `save_network`."""
    # Cloned, since safetensors stores no two names for one memory, which CoaT has: its blocks share a layer.
    layout = torch.contiguous_format
    tensors = {name: tensor.detach().clone(memory_format=layout).cpu() for name, tensor in named.items()}
    # One entry, since safetensors writes several in any order.
    header = json.dumps({**info, SEAL: _digest(tensors, info)})
    write_atomically(path, save(tensors, metadata={"relgraph": header}))


def _digest(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description and of all tensors' names, types, shapes and values."""
    found = hashlib.sha256(json.dumps(dict(info), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_network(path: Path) -> None:
    """Check that a file of weights is as it was written.

    Raises:
        RelgraphError: if it is missing, damaged or another program's.
    """
    read_network(path, expected="a file of a run", keys=set())


def fingerprint_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the self-supervision head in a run directory.

    Raises:
        RelgraphError: if it cannot be read.
    """
    file = path / SS_HEAD_FILE if path.is_dir() else path
    return file_digest(file)


def weights_fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's tensors: their names, types, shapes and values."""
    return _digest(module.state_dict(), {})


def find_network(path: Path) -> Path:
    """Return the file of the network in a run directory, of a pre-training or of a training, or `path` if it is none.

    Raises:
        RelgraphError: if the directory holds neither file.
    """
    found = [path / name for name in NETWORK_FILES if (path / name).is_file()] if path.is_dir() else [path]
    if not found:
        expected = "network.safetensors of a pre-training or student.safetensors of a training"
        raise RelgraphError(f"{path} holds no network: expected {expected}")
    return found[0]


def read_network(
    path: Path, kind: str = "network", expected: str = "a student.safetensors or network.safetensors of a run",
    keys: Set[str] = DESCRIBED,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """Return the tensors and the `info` of a file that `save_network` wrote, of another kind with other `keys`.

    Raises:
        RelgraphError: if the file is missing, truncated, another program's, or without a valid description.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("relgraph")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise RelgraphError(f"cannot read the {kind} file {path}: {error}") from error
    if header is None:
        raise RelgraphError(f"{path} holds weights without relgraph's description: expected {expected}")
    try:
        info = json.loads(header)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict) or not info.keys() >= keys:
        wanted = ", ".join(sorted(keys)) or "names and values"
        raise RelgraphError(f"the description in {path} is damaged: expected JSON with {wanted}, got {header[:80]}")
    if info.pop(SEAL, None) != _digest(tensors, info):
        told = f"{path} is damaged or was changed after it was written: expected the SHA-256 that it carries"
        raise RelgraphError(f"{told}, found another; put back a copy, or --resume its run, which can write it again")
    return tensors, info


def load_network(path: Path, find: Callable[[str], StudentSource]) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone of a file or run directory, in float32 and evaluation mode, and the `info` stored with it.

    `find` turns the name of the backbone into a source: `relgraph.names.student`.

    Raises:
        RelgraphError: if the file cannot be read or its weights are of another architecture than it describes.
    """
    path = find_network(path)
    tensors, info = read_network(path)
    backbone = built(info, find)
    own = {name.removeprefix("backbone."): t for name, t in tensors.items() if not name.startswith(ABOVE)}
    return load_strictly(backbone, own, path).eval(), info


def read_student(path: Path, find: Callable[[str], StudentSource]) -> tuple[Student, dict[str, Any]]:
    """Return a trained student, in evaluation mode, and its description, from a run or its `student.safetensors`.

    `find` turns the name of its backbone into a source; see `relgraph.load_student`.

    Raises:
        RelgraphError: if the file is missing, truncated, without a head, or of another architecture than it declares.
    """
    path = path / "student.safetensors" if path.is_dir() else path
    tensors, info = read_network(path)
    if "dim" not in info or "classes" not in info:
        raise RelgraphError(f"{path} holds a backbone without a head: expected student.safetensors of a training run")
    backbone, dim = built(info, find), info["dim"]
    student = Segmenter(backbone, dim) if info.get("pixels") else Student(backbone, dim, len(info["classes"]))
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(ABOVE[1:])}
    return load_strictly(student, own, path).eval(), info


def built(info: Mapping[str, Any], find: Callable[[str], StudentSource]) -> Backbone:
    """Return the untrained network that a file describes, with the stages and the scores that were chosen for it."""
    image = info["in_channels"], info["image_size"]
    backbone = find(info["backbone"]).build(*image)
    choose_stages(backbone, info.get("stages", ()), *image, info["backbone"])
    return scored(backbone, len(info["classes"]), *image) if info.get("pixels") else backbone


def load_head(path: Path) -> tuple[Head, tuple[str, ...]]:
    """Return the trained head of a student, in float32 and evaluation mode, and its classes, from a file or run.

    Raises:
        RelgraphError: if the file cannot be read, holds no head with classes, or one of other sizes than it describes.
    """
    path, own, info = _part(path, "head.")
    if not own or not info.get("classes") or info.get("pixels"):
        raise RelgraphError(f"{path} holds no classifier: expected student.safetensors of a training run with labels")
    head = Head.like(own, classes=len(info["classes"]))
    return load_strictly(head, own, path).eval(), tuple(map(str, info["classes"]))


def load_projector(path: Path, prefix: str = "projector.") -> nn.Module:
    """Return the trained layers on top of a network's vectors, in float32 and evaluation mode, from a file or run.

    Raises:
        RelgraphError: if the file cannot be read, holds no such layers, or they lack weights.
    """
    path, own, _ = _part(path, prefix)
    layers = layers_like(own)
    if layers is None:
        told = "expected the network.safetensors of relgraph pretrain, or the student of a method that has one"
        raise RelgraphError(f"{path} holds no projector: {told}")
    return load_strictly(layers, own, path).eval()


def _part(path: Path, prefix: str) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Return the file of a file or run directory, the tensors of one of its parts, and its `info`."""
    path = find_network(path)
    tensors, info = read_network(path)
    return path, part_of(tensors, prefix), info


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _sizes(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Return output and input width of a layer; one that is missing or no matrix is refused when loaded."""
    weight = tensors.get(name)
    return (1, 1) if weight is None or weight.ndim != 2 else (weight.shape[0], weight.shape[1])


def save_ss_head(
    path: Path, head: Projector, *, teacher: str, fingerprint: str, transformations: str = "rotations"
) -> None:
    """Write a self-supervision head of SSKD, `Projector(width, width)`, to a safetensors file.

    `teacher` is the name, as it was given, of the teacher whose features the head reads, `fingerprint` that of its
    weights, and `transformations` the extra views on which the head was trained, "rotations" or "all".
    """
    info = {"kind": SS_HEAD_KIND, "width": _sizes(head.state_dict(), "0.weight")[1], "teacher": teacher}
    save_network(path, head, {**info, "fingerprint": fingerprint, "transformations": transformations})


def load_ss_head(path: Path, width: int) -> tuple[Projector, dict[str, Any]]:
    """Return the self-supervision head of SSKD for a teacher of a width, and the `info` stored with it.

    It is in float32, in evaluation mode and frozen. `path` is the file or the run directory with `ss_head.safetensors`;
    `info` has `width`, `teacher`, `fingerprint` and `transformations` (see `save_ss_head`).

    Raises:
        RelgraphError: if the file is missing, damaged, another's, or of a teacher of another width.
    """
    path = path / SS_HEAD_FILE if path.is_dir() else path
    expected = f"the {SS_HEAD_FILE} of a run of sskd"
    tensors, info = read_network(path, "self-supervision head", expected, set())
    if info.get("kind") != SS_HEAD_KIND:
        raise RelgraphError(f"{path} holds no self-supervision head: expected {expected}")
    if missing := sorted({"width", "teacher", "fingerprint", "transformations"} - info.keys()):
        raise RelgraphError(f"the description in {path} is damaged: it lacks {', '.join(missing)}")
    if info["width"] != width:
        raise RelgraphError(f"{path} was trained for a teacher of width {info['width']}, this one has {width}")
    return load_strictly(Projector(width, width), tensors, path).eval().requires_grad_(False), info


def load_strictly(module: M, tensors: Mapping[str, Tensor], path: Path | str) -> M:
    """Load weights into a module, all of them and no others, and return it.

    Raises:
        RelgraphError: naming the first key that is missing or unexpected, whose shape differs, or whose values are not
            finite.
    """
    state, own = OrderedDict(tensors), module.state_dict()
    expected, found = ({name: tuple(values.shape) for name, values in each.items()} for each in (own, state))
    if differing := sorted(name for name, _ in expected.items() ^ found.items()):
        name = differing[0]
        raise RelgraphError(
            f"{path} is of another architecture: {name} is {expected.get(name, 'missing')} in the network, "
            f"{found.get(name, 'missing')} in the file"
        )
    state._metadata = own._metadata  # type: ignore[attr-defined]  # MNASNet reads its own version there
    module.load_state_dict(state)
    check_finite(module, str(path))
    return module


def check_finite(module: nn.Module, owner: str) -> None:
    """Check that all weights of a module are numbers.

    Raises:
        RelgraphError: naming the first tensor that holds one that is not.
    """
    for name, tensor in module.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise RelgraphError(f"{owner} holds weights that are not finite: {name} first, expected a whole network")
