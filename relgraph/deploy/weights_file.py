"""A student's network as weights alone, `.safetensors` with `config.json`, under the names of the library it is of."""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save
from torch import Tensor, nn

from relgraph.deploy.comparing import compared
from relgraph.deploy.exported_program import description
from relgraph.errors import RelgraphError
from relgraph.files import check_new, replacing
from relgraph.names import student as named_student
from relgraph.networks.backbone import Wrapped
from relgraph.networks.plain import PlainStudent, is_aligned
from relgraph.networks.timm_source import BeforeClassifier, TimmSource
from relgraph.networks.torchvision_source import BeforeLastLayer, TorchvisionSource

CONFIG = "config.json"
LAYERS = "embedding.safetensors"  # of a student that was aligned: what makes its vectors of the network's feature


class Network(NamedTuple):
    """A network that a file of weights is for.

    Attributes:
        module: The network as its library builds it, whose `load_state_dict` takes the file strictly.
        feature: What it gives where it has no classifier: the pooled vector.
        told: How it is built, as JSON values.
    """

    module: nn.Module
    feature: nn.Module
    told: dict[str, Any]


def write_weights(student: PlainStudent, path: Path, *, images: Tensor) -> float:
    """Write a student's network as safetensors with `config.json` beside it, and return how far its outputs are.

    The names are those of timm or torchvision, where the network is theirs, so that their model loads the file by
    `load_state_dict`, strictly. Where their model ends in a linear layer and a classifier was trained, that layer is
    the student's projection and classifier in one, and gives its logits. Other files hold the network up to its pooled
    vector, with the names of the network's own module. Of a student that was aligned (`relgraph align`) the layers that
    make vectors of the pooled one, `project`, `projector` and `align` in this order, are in `embedding.safetensors`;
    `align` is that of `DirectionRotation`.

    `config.json` tells how the model is built, what it gives, its preprocessing and its classes.

    Args:
        student: The student.
        path: The file; it and those beside it are written whole or not at all.
        images: uint8 images of the student's size, on which both are compared.

    Raises:
        RelgraphError: if a file cannot be written, one beside it is another's or of another student, or the weights
            give other outputs.
    """
    config = path.with_name(CONFIG)
    if config.exists() and not _is_ours(config):
        raise RelgraphError(f"{config} is not of relgraph export and would be lost: write {path.name} elsewhere")
    if path.name == LAYERS and is_aligned(student):
        raise RelgraphError(f"{LAYERS} is for the layers of an aligned student: expected another name for its network")
    network = _network(student, len(student.classes))
    layers = _classifier(student, network.module)
    network = network if layers else _network(student, 0)
    gives = "logits" if layers else "feature"
    told = {"relgraph": "weights", **network.told, **description(student, False), "outputs": [gives]}
    if is_aligned(student):
        told["embedding"] = {"file": LAYERS, "reads": "feature", "layers": list(_on_top(student))}
    text = (json.dumps(told, indent=2) + "\n").encode()
    _check_beside(config, text, path)
    with replacing(path) as part, replacing(config) as beside, _with_layers(student, path, images):
        part.write_bytes(_saved({**_tensors(student), **(layers or {})}))
        beside.write_bytes(text)
        network.module.load_state_dict(load_file(part))
        run = network.module if layers else network.feature
        run.eval()
        return compared(
            student, lambda batch: [run(batch)], images, path, network.told["library"],
            reference=lambda batch: [student(batch)[1] if layers else student.backbone(batch)],
        )  # fmt: skip


def _on_top(student: PlainStudent) -> dict[str, nn.Module]:
    """Return the layers that make vectors of the pooled one, in their order; those without weights are left out."""
    project = student.head.project if student.part == "embedding" else nn.Identity()
    layers = {"project": project, "projector": student.projector, "align": student.align}
    return {name: layer for name, layer in layers.items() if not isinstance(layer, nn.Identity)}


@contextmanager
def _with_layers(student: PlainStudent, weights: Path, images: Tensor) -> Iterator[None]:
    """Write the layers on top of an aligned student's network while a block writes its weights, compared as well."""
    if not is_aligned(student):
        yield
        return
    path = weights.with_name(LAYERS)
    if not _is_ours(path.with_name(CONFIG)):
        check_new(path)
    layers = nn.Sequential(OrderedDict(_on_top(student)))
    data = _saved(layers.state_dict())
    _check_beside(path, data, weights)
    with replacing(path) as part:
        part.write_bytes(data)
        again = deepcopy(layers)
        again.load_state_dict(load_file(part))
        compared(student, lambda batch: [again(student.backbone(batch))], images, path, "torch",
                 reference=lambda batch: [student(batch)[0]])  # fmt: skip
        yield


def _saved(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as safetensors; cloned, since it stores no two names for one memory."""
    return save({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, {"format": "pt"})


def _check_beside(path: Path, data: bytes, weights: Path) -> None:
    """Check that a file beside the weights, whose name is always the same, is not that of another student's weights.

    The same bytes are written again: those who removed the weights alone can have them anew.

    Raises:
        RelgraphError: if it is.
    """
    if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == data):
        told = f"expected what {weights.name} would have, found another"
        raise RelgraphError(f"{path} is there already, {told}: remove it, or write {weights.name} into another folder")


def _tensors(student: PlainStudent) -> dict[str, Tensor]:
    """Return the tensors of a student's network, by the names of the library or of the user."""
    return (student.backbone.model if isinstance(student.backbone, Wrapped) else student.backbone).state_dict()


def _is_ours(config: Path) -> bool:
    try:
        return bool(json.loads(config.read_text())["relgraph"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _network(student: PlainStudent, classes: int) -> Network:
    """Return a new network of the kind that a student has; one of a library with so many classes, or none."""
    backbone, spec = student.backbone, str(student.info["backbone"])
    size, channels = student.preprocess.size, student.preprocess.channels
    if isinstance(backbone, BeforeClassifier):
        return _timm(spec, channels, size, classes)
    if isinstance(backbone, BeforeLastLayer):
        return _torchvision(spec, channels, size, classes)
    copy = deepcopy(backbone)
    told = {"library": "torch", "architecture": spec, "arguments": {"in_channels": channels, "image_size": size}}
    return Network(copy.model if isinstance(copy, Wrapped) else copy, copy, told)


def _timm(spec: str, channels: int, size: int, classes: int) -> Network:
    import timm

    source = named_student(spec)
    assert isinstance(source, TimmSource)
    name, arguments = source.name.split(".")[0], {**source.arguments(channels, size)[1], "num_classes": classes}
    module = timm.create_model(name, pretrained=False, **arguments)
    return Network(module, BeforeClassifier(module), {"library": "timm", "architecture": name, "arguments": arguments})


def _torchvision(spec: str, channels: int, size: int, classes: int) -> Network:
    """Return a model of torchvision; without classes its last layer is an identity, which `config.json` tells.

    For other than three channels its first convolution is another one.
    """
    from torchvision import models

    source = named_student(spec)
    assert isinstance(source, TorchvisionSource)
    arguments = {**source.arguments(size), **({"num_classes": classes} if classes else {})}
    whole = models.get_model(source.name, weights=None, **arguments)
    network = BeforeLastLayer(deepcopy(whole), channels, size)
    told = {"library": "torchvision", "architecture": source.name, "arguments": arguments, "in_channels": channels}
    if classes:
        network.model.set_submodule(network.classifier, whole.get_submodule(network.classifier))
    else:
        told["identity"] = network.classifier
    return Network(network.model, network, told)


def _classifier(student: PlainStudent, module: nn.Module) -> dict[str, Tensor] | None:
    """Return projection and classifier as the one linear layer that a library's model ends in, by its name there.

    logits = C (P x + p) + c = (C P) x + (C p + c). `None` where no classifier was trained, or a model ends otherwise.
    """
    head, own = student.head, _tensors(student).keys()
    names = {key.rpartition(".")[0] for key in module.state_dict().keys() - own}
    if not student.classes or len(names) != 1:
        return None
    (name,) = names
    if not isinstance(module.get_submodule(name), nn.Linear):
        return None
    weight, bias = head.classify.weight.double(), head.classify.bias.double()
    if isinstance(head.project, nn.Linear):
        weight, bias = weight @ head.project.weight.double(), weight @ head.project.bias.double() + bias
    return {f"{name}.weight": weight.float(), f"{name}.bias": bias.float()}
