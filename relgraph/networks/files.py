"""Networks on disk: weights as safetensors, with what is needed to build them again in the file's own header."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.networks.backbone import Backbone
from relgraph.networks.students import build_backbone

DESCRIBED = {"backbone", "in_channels", "image_size", "mean", "std"}  # what any network file must say of itself


def save_network(path: Path, network: nn.Module, info: Mapping[str, Any]) -> None:
    """Write weights and `info` (JSON values: at least those of `DESCRIBED`) to a safetensors file.

    A student with its head is stored whole: the keys of its backbone begin with `backbone.`, those of its head with
    `head.`.
    """
    # Cloned, since safetensors refuses two names for one memory, which CoaT has: its blocks share a layer.
    layout = torch.contiguous_format
    tensors = {n: tensor.detach().clone(memory_format=layout).cpu() for n, tensor in network.state_dict().items()}
    write_atomically(path, save(tensors, metadata={"relgraph": json.dumps(dict(info))}))


def read_network(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the `info` of a file that `save_network` wrote.

    Raises:
        RelgraphError: if the file is missing, truncated, another program's, or without a valid description.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("relgraph")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise RelgraphError(f"cannot read the network file {path}: {error}") from error
    if header is None:
        raise RelgraphError(
            f"{path} holds weights without relgraph's description: expected a student.safetensors of a run"
        )
    try:
        info = json.loads(header)
    except json.JSONDecodeError:
        info = None
    if not isinstance(info, dict) or not info.keys() >= DESCRIBED:
        raise RelgraphError(
            f"the description in {path} is damaged: "
            f"expected JSON with {', '.join(sorted(DESCRIBED))}, got {header[:80]}"
        )
    return tensors, info


def load_network(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone, in float32 and evaluation mode, and the `info` stored with it.

    Raises:
        RelgraphError: if the file cannot be read or its weights are of another architecture than it says.
    """
    tensors, info = read_network(path)
    backbone = build_backbone(info["backbone"], info["in_channels"], image_size=info["image_size"])
    own = {name.removeprefix("backbone."): t for name, t in tensors.items() if not name.startswith("head.")}
    load_strictly(backbone, own, path)
    return backbone.float().eval(), info


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a module, all of them and no others.

    Raises:
        RelgraphError: naming the first key that is missing or unexpected, or whose shape differs.
    """
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise RelgraphError(f"{path} is of another architecture: {name} is missing")
        if name not in expected:
            raise RelgraphError(f"{path} is of another architecture: {name} is not part of the network")
        if tensors[name].shape != expected[name].shape:
            want, got = tuple(expected[name].shape), tuple(tensors[name].shape)
            raise RelgraphError(
                f"{path} is of another architecture: {name} is {want} in the network, {got} in the file"
            )
    state = OrderedDict(tensors)
    state._metadata = expected._metadata  # type: ignore[attr-defined]  # MNASNet wants to be told its own version
    module.load_state_dict(state)
