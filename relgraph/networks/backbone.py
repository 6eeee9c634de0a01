"""The interface of every student backbone: images to stage maps and one pooled vector an image."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from relgraph.data.decoding import ImageSize, pair
from relgraph.errors import RelgraphError, unknown


class Backbone(nn.Module):
    """A network without its classifier, `(N, C, H, W) -> (N, width)`. A family implements `stages`.

    Attributes:
        width: Length of the pooled vector. That of a library's network is `measured`.
    """

    width: int

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps, each `(N, channels, height, width)`, in order, and the pooled vector `(N, width)`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        return self.stages(images)[1]

    @property
    def bare(self) -> "Backbone":
        """The network without a head for class scores, here itself."""
        return self

    def own_scores(self, classes: int) -> nn.Module | None:
        """Return a new head of the network's own kind, stage maps to `(N, classes, h, w)`; `None` if it has none."""
        return None

    def logits(self, maps: Sequence[Tensor]) -> Tensor | None:
        """Return class scores `(N, classes, h, w)` at each position of its stage maps; `None` of a network without."""
        return None

    @torch.no_grad()
    def measured(self, in_channels: int, image_size: int) -> Self:
        """Return itself, in training mode, with the `width` that one square image of zeros gives.

        Raises:
            ValueError: if the output is no vector, or the images are changed.
        """
        images = torch.zeros(1, in_channels, image_size, image_size)
        _, pooled = self.eval().stages(images)
        check_kept(images)
        if pooled.ndim != 2:
            raise ValueError(f"expected one vector (1, width), got {tuple(pooled.shape)}")
        self.width = int(pooled.shape[1])
        return self.train()


class Staged(Backbone):
    """A backbone whose `stem` and `layers` each read the map before; the mean over all positions is its vector.

    The mean is that of the last stage's map, or of what `last` makes of it where a family has such a layer.
    """

    stem: nn.Module
    layers: Iterable[nn.Module]
    last: Callable[[Tensor], Tensor]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the maps of stem and stages, and the mean of the last, or of what `last` makes of it."""
        maps = [self.stem(images)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        averaged = self.last(maps[-1]) if hasattr(self, "last") else maps[-1]
        return tuple(maps), averaged.mean(dim=(2, 3))


class Wrapped(Backbone):
    """A network of a library or of a user, `model`, up to its classifier; its stage maps may be those of chosen parts.

    A kind of network implements `forward`, and `own_stages` where it has maps without being told which.

    Attributes:
        parts: The sub-modules of `model` whose outputs are the stage maps, by name and in order; empty for its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.parts: tuple[str, ...] = ()

    def own_stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the network's own stage maps, none here, and the pooled vector."""
        return (), self(images)

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps, of the chosen parts if there are any, and the pooled vector."""
        if not self.parts:
            return self.own_stages(images)
        outputs, pooled = with_outputs(self, self.parts, images)
        return tuple(outputs[name] for name in self.parts), pooled

    @torch.no_grad()
    def choose(self, parts: Sequence[str], in_channels: int, image_size: ImageSize) -> None:
        """Take the outputs of these parts of `model` as stage maps.

        Raises:
            RelgraphError: for a part that there is not, or that gives no map `(N, C, H, W)` of an image of zeros.
        """
        known = [name for name, _ in self.model.named_modules() if name]
        for name in parts:
            if name not in known:
                children = (child for child, _ in self.model.named_children())
                raise unknown("stage", name, {*get_close_matches(name, known, n=1), *children})
        names, training = tuple(f"model.{name}" for name in parts), self.training
        outputs, _ = with_outputs(self.eval(), names, torch.zeros(1, in_channels, *pair(image_size)))
        self.train(training)
        for name, part in zip(names, parts, strict=True):
            output = outputs.get(name)
            if not isinstance(output, Tensor) or output.ndim != 4:
                found = "nothing" if output is None else kind_of(output)
                raise RelgraphError(f"a stage must give a map (N, C, H, W), got {found} of {part}")
        self.parts = names


def choose_stages(
    backbone: nn.Module, parts: Sequence[str], in_channels: int, image_size: ImageSize, owner: str
) -> None:
    """Take the outputs of these parts of a network as its stage maps (`Wrapped.choose`); none leaves it its own.

    Raises:
        RelgraphError: for a network whose stages cannot be chosen, or parts that it does not have or that give no maps.
    """
    if not parts:
        return
    if not isinstance(backbone, Wrapped):
        told = f"{owner} has stages of its own, got {', '.join(parts)}"
        raise RelgraphError(f"stages are chosen of networks of timm, of torchvision and of your own: {told}")
    backbone.choose(parts, in_channels, image_size)


def with_outputs(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return the outputs of the named parts, in the order in which they ran, and the output of the model."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs[name] = output

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        pooled = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, pooled


def kind_of(output: object) -> str:
    """Return what a network gave, in words: the shape of a tensor, else the class."""
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def check_kept(images: Tensor) -> None:
    """Raise ValueError if a new tensor of images was changed by the network that read it: a step reads it again."""
    if images._version:
        raise ValueError("it changes the images in place, which a training step reads again")


@torch.no_grad()
def map_shapes(backbone: Backbone, in_channels: int, image_size: ImageSize) -> tuple[tuple[int, int, int], ...]:
    """Return `(channels, height, width)` of each stage map of one image; the backbone is left as it was.

    The image is a square, or has a height and a width.
    """
    training = backbone.training
    maps, _ = backbone.eval().stages(torch.zeros(1, in_channels, *pair(image_size)))
    backbone.train(training)
    return tuple((int(x.shape[1]), int(x.shape[2]), int(x.shape[3])) for x in maps)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its batch norm; the map shrinks by the stride alone."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def stacked(
    unit: Callable[[int, int, int], nn.Module], inputs: int, stages: Iterable[tuple[int, int, int]]
) -> list[nn.Sequential]:
    """Return stages of units, each `unit(inputs, outputs, stride)`; a stage is (outputs, number of units, stride).

    The first unit of a stage has the stride and changes the number of channels, the others keep both.
    """
    layers = []
    for outputs, count, stride in stages:
        rest = (unit(outputs, outputs, 1) for _ in range(count - 1))
        layers.append(nn.Sequential(unit(inputs, outputs, stride), *rest))
        inputs = outputs
    return layers


def start_from_fan_out(network: nn.Module) -> None:
    """Draw all convolutions anew, with Kaiming's variance of 2 / fan-out, and set their biases to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
