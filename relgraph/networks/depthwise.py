"""Depthwise convolutions in float32 on a CPU where the rest of a network computes in bfloat16.

torch's gradient of a depthwise convolution in bfloat16 is fast for kernels of 3 x 3 at stride 1 alone: larger ones take
about twice as long as in float32, those at stride 2 about ten times and more, and with them a step of many small
networks is slower than in float32 (AMD EPYC with bf16 instructions and without AMX, torch 2.14; `bench.py precision`
measures networks).
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def depthwise_in_float32(module: Network) -> Network:
    """Make the slow depthwise convolutions of a module compute in float32 under autocast on a CPU, and return it.

    They are those with a kernel above 3 x 3, a stride or a dilation. Each rounds its result, but neither images nor
    weights, to autocast's type; on other devices and without autocast nothing changes. The layers stay the objects that
    they are, with their parameters and names in the state dict.

    >>> network = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.Conv2d(4, 4, 3, groups=4))
    >>> [type(layer).__name__ for layer in depthwise_in_float32(network)]
    ['Float32Conv2d', 'Conv2d']
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     network(torch.rand(1, 4, 9, 9)).dtype
    torch.bfloat16
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, _Float32) and _slow(layer):
            layer.__class__ = _in_float32(type(layer))
    return module


def _slow(layer: nn.Conv2d) -> bool:
    depthwise = 1 < layer.groups == layer.in_channels
    return depthwise and (max(layer.kernel_size) > 3 or max(*layer.stride, *layer.dilation) > 1)


class _Float32(nn.Module):
    """The forward pass of a layer without autocast, where that is of a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what the layer computes, in autocast's type."""
        found: Tensor
        if not torch.is_autocast_enabled("cpu"):
            found = super().forward(input)
            return found
        with torch.autocast("cpu", enabled=False):
            found = super().forward(input.float())
        return found.to(torch.get_autocast_dtype("cpu"))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Return how to copy and to pickle it, since its class has no name in a module."""
        return _empty, (type(self).__mro__[2],), self.__dict__


_KINDS: dict[type[nn.Module], type[Any]] = {}


def _in_float32(kind: type[nn.Module]) -> type[Any]:
    """Return the class of a convolution that computes in float32, one for each class, such as timm's own."""
    if kind not in _KINDS:
        _KINDS[kind] = type(f"Float32{kind.__name__}", (_Float32, kind), {})
    return _KINDS[kind]


def _empty(kind: type[nn.Module]) -> Any:
    return object.__new__(_in_float32(kind))
