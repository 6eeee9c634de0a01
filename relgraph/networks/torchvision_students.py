"""Students of torchvision: any of its classification models, untrained and without the classifier."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from relgraph.networks.backbone import Backbone
from relgraph.networks.library import built_for, measured_width, unknown_model

SIZE = 224  # what torchvision's models are made for


class TorchvisionBackbone(Backbone):
    """A model of torchvision up to the input of its last layer, `(N, C, H, W) -> (N, width)`.

    The stage maps are the last one of each resolution before the pooling. ViT and Swin, which compute no maps of
    `(N, C, H, W)`, have none here; those of timm do.
    """

    def __init__(self, model: nn.Module, in_channels: int, image_size: int) -> None:
        super().__init__()
        _remove_classifier(model)
        _set_channels(model, in_channels)
        self.model = model
        self.map_names = last_of_each_resolution(model, torch.zeros(1, in_channels, image_size, image_size))
        self.width = measured_width(self, in_channels, image_size)

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps and the pooled vector."""
        return maps_and_vector(self.model, self.map_names, images)

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        pooled: Tensor = self.model(images)
        return pooled


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def torchvision_backbone(name: str, in_channels: int, image_size: int | None) -> TorchvisionBackbone:
    """Return an untrained classification model of torchvision for square images of a size, 224 if none is given.

    GoogLeNet and Inception come without their auxiliary classifiers. For other than three channels, the first
    convolution is another one, which begins as PyTorch's do.

    Raises:
        RelgraphError: for an unknown name, or a size that the model cannot read.
    """
    from torchvision import models

    if name not in torchvision_names():
        raise unknown_model("torchvision", name, torchvision_names())
    size = image_size or SIZE
    with built_for(f"torchvision:{name}", in_channels, size):
        model = models.get_model(name, weights=None, **_arguments(name, size))
        return TorchvisionBackbone(model, in_channels, size)


def _arguments(name: str, size: int) -> dict[str, Any]:
    if name in {"googlenet", "inception_v3"}:
        # Without the second, torchvision warns that its default may change.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if name.startswith("maxvit") else {}


def _remove_classifier(model: nn.Module) -> None:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    _replace(model, (linear or convolutions)[-1], nn.Identity())  # SqueezeNet classifies by a convolution


def _set_channels(model: nn.Module, in_channels: int) -> None:
    name, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if first.in_channels != in_channels:
        bias = first.bias is not None
        kernel, stride, padding = first.kernel_size, first.stride, first.padding
        _replace(model, name, nn.Conv2d(in_channels, first.out_channels, kernel, stride, padding, bias=bias))  # type: ignore[arg-type]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@torch.no_grad()
def last_of_each_resolution(model: nn.Module, image: Tensor) -> tuple[str, ...]:
    """Return the names of the parts that give the last map of each resolution before the pooling, in their order.

    The model, which is left in evaluation mode, reads one image; ViT and Swin have no such parts.
    """
    from torchvision.models import SwinTransformer, VisionTransformer

    if isinstance(model, SwinTransformer | VisionTransformer):
        return ()
    outputs, _ = _with_outputs(model.eval(), list(_parts(model)), image)
    last: dict[torch.Size, str] = {}
    for name, output in outputs.items():
        # The classifier begins: SqueezeNet's drops values of the maps themselves.
        if output.ndim != 4 or isinstance(model.get_submodule(name), nn.AdaptiveAvgPool2d | nn.Dropout):
            break
        last[output.shape[2:]] = name
    return tuple(last.values())


def maps_and_vector(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the outputs of the named parts, in the order of the names, and the output of the model."""
    outputs, pooled = _with_outputs(model, names, images)
    return tuple(outputs[name] for name in names), pooled


def _parts(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the names of the parts between which a network passes maps: residual blocks, single layers."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _with_outputs(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
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
