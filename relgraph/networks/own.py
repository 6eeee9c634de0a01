"""Networks of a user's own as students and teachers: any `nn.Module`, or a class or function that returns one."""

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Backbone, Wrapped, kind_of
from relgraph.networks.files import load_strictly
from relgraph.networks.segmenter import OfLastMap
from relgraph.networks.sources import Arguments, Preparation, Pretrained, TeacherSource, reading_images
from relgraph.networks.weights import read_weights
from relgraph.own_code import telling

SIZE = 32  # pixels of the images of a network that is built for none


class OwnNetwork(Wrapped):
    """A user's module, `(N, C, H, W) -> (N, width)`: what it gives, averaged over positions where that is a map.

    A map that it gives is its stage map, if no others are chosen. Where pixels have classes, a map with a channel for
    each of them has their scores.
    """

    def own_stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the map that the module gives, if it is one, and the vector."""
        output = self._output(images)
        return (output,) if output.ndim == 4 else (), _averaged(output)

    def own_scores(self, classes: int) -> nn.Module | None:
        """Return what takes the module's own map as the scores, if it has as many channels as there are classes."""
        return None if self.parts or self.width != classes else OfLastMap(nn.Identity())

    def logits(self, maps: Sequence[Tensor]) -> Tensor | None:
        """Return the module's own map, if it gives one: as a teacher's, its scores of positions."""
        return maps[-1] if maps and not self.parts else None

    def forward(self, images: Tensor) -> Tensor:
        """Return one vector an image.

        Raises:
            RelgraphError: if the module gives neither vectors `(N, D)` nor a map `(N, C, H, W)`.
        """
        return _averaged(self._output(images))

    def _output(self, images: Tensor) -> Tensor:
        output = self.model(images)
        # Not by len, which would fix an exported program to one number of images.
        if not isinstance(output, Tensor) or output.ndim not in (2, 4) or output.shape[0] != images.shape[0]:
            told = f"for N = {len(images)} images, got {kind_of(output)}"
            raise RelgraphError(f"a network of your own must give a tensor (N, D) or (N, C, H, W) {told}")
        return output


def _averaged(output: Tensor) -> Tensor:
    return output if output.ndim == 2 else output.mean(dim=(2, 3))


@dataclass(frozen=True, eq=False)
class OwnStudent:
    """A user's network as a student.

    Attributes:
        target: A module, of which each build is a copy; or a class or function that returns one, called with those of
            `in_channels` and `image_size` that it takes. A `Backbone` is used as it is, with its stage maps.
        name: Its name, for messages.
    """

    target: object
    name: str
    published: ClassVar[bool] = False

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return the network in float32 on the CPU, with the weights that it comes with.

        Raises:
            RelgraphError: if the target returns no module, or the network cannot read such images.
        """
        size = image_size or SIZE
        found = _module(self.target, self.name, {"in_channels": in_channels, "image_size": size})
        with reading_images(self.name, in_channels, size):
            return _backbone(found).cpu().measured(in_channels, size)

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return the network that `build` makes, with the weights of a file, all of them and no others.

        Raises:
            RelgraphError: as `build`, and if the file cannot be read or does not match.
        """
        backbone = self.build(in_channels, image_size)
        return backbone if weights is None else _load(backbone, weights)

    def preparation(self) -> Preparation:
        """Return the attributes `mean` and `std` of the target.

        Raises:
            RelgraphError: if it does not have them.
        """
        mean, std = _preparation(self.target)
        if not mean or not std:
            told = "or of timm's pretrained_cfg, sequences of a number a channel"
            raise RelgraphError(f"normalise 'student' needs attributes mean and std of {self.name} {told}")
        return mean, std


@dataclass(frozen=True, eq=False)
class OwnTeacher(TeacherSource):
    """A user's network as a teacher.

    Attributes:
        target: As of `OwnStudent`; a class or function is called with those of the teacher's arguments that were given,
            and with `image_size` if a size was and it takes one.
        name: Its name, for messages.
    """

    target: object
    name: str
    takes_arguments: ClassVar[bool] = True

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the network with its own weights, or those of a file, all of them and no others.

        Weights that it draws are drawn from seed 0, so that a run is opened with the teacher that it had.
        The attributes `input_size`, `channels`, `mean` and `std` of the module tell how images are prepared, else
        timm's `pretrained_cfg` or `default_cfg`; what neither has is left empty. A `mean` that is a tensor is not
        taken: a module with one may subtract it itself.

        Raises:
            RelgraphError: if the target returns no module or takes no such argument, or the file does not match.
        """
        with torch.random.fork_rng(devices=[]):  # one network in every run, store and process
            torch.manual_seed(0)
            found = _module(self.target, self.name, {"image_size": input_size} if input_size else {}, arguments)
        backbone = _backbone(found)
        if weights is not None:
            _load(backbone, weights)
        size, channels = _described(found, "input_size"), getattr(found, "channels", None)
        side = size[-1] if isinstance(size, Sequence) else size
        mean, std = _preparation(found)
        return Pretrained(backbone.cpu(), side, channels if isinstance(channels, int) else None, mean, std)


def _module(target: object, name: str, offered: Mapping[str, Any], asked: Arguments | None = None) -> nn.Module:
    """Return a copy of a module, or what a class or function returns for what it takes of `offered` and all `asked`."""
    asked = asked or {}
    if isinstance(target, nn.Module):
        if asked:
            raise RelgraphError(f"{name} is a module already and takes no arguments, got {dict(asked)}")
        with telling(f"{name} cannot be copied"):
            return deepcopy(target)
    if not callable(target):
        expected = "expected an nn.Module, or a class or function that returns one"
        raise RelgraphError(f"{name} is no network: {expected}, got {kind_of(target)}")
    taken, anything = _parameters(target)
    for argument in () if anything else asked:
        if argument not in taken:
            raise unknown(f"argument of {name}", argument, taken)
    given = {key: value for key, value in offered.items() if key in taken} | dict(asked)
    with telling(f"{name} cannot be built"):
        found = target(**given)
        if not isinstance(found, nn.Module):
            raise RelgraphError(f"{name} must return an nn.Module, got {kind_of(found)}")
        # What a function returns may be one object every time.
        return found if isinstance(target, type) else deepcopy(found)


def _parameters(target: Any) -> tuple[list[str], bool]:
    """Return the parameters that are passed by name, and whether any other name will do."""
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # of code that is not Python's
        return [], False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in found if each.kind in by_name], any(each.kind is each.VAR_KEYWORD for each in found)


def _backbone(module: nn.Module) -> Backbone:
    return (module if isinstance(module, Backbone) else OwnNetwork(module)).float()


def _load(backbone: Backbone, weights: Path) -> Backbone:
    load_strictly(backbone.model if isinstance(backbone, OwnNetwork) else backbone, read_weights(weights), weights)
    return backbone


def _described(module: object, name: str) -> Any:
    """Return an attribute of a module, else what timm's description of it says."""
    found = getattr(module, name, None)
    configs = (getattr(module, each, None) for each in ("pretrained_cfg", "default_cfg"))
    if found is None:
        found = next((each[name] for each in configs if isinstance(each, Mapping) and name in each), None)
    return found


def _preparation(module: object) -> Preparation:
    """Return mean and standard deviation that a module has; empty where it has none, or tensors."""
    mean, std = (_described(module, name) for name in ("mean", "std"))
    return tuple(mean) if isinstance(mean, list | tuple) else (), tuple(std) if isinstance(std, list | tuple) else ()
