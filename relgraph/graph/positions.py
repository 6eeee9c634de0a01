"""Graphs whose nodes are the positions of an image: one graph an image, and the mean over a batch of them."""

from collections.abc import Callable, Sequence
from math import floor
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from relgraph.graph.kernels import at_least_float32

Found = TypeVar("Found")  # a tensor, or a dictionary of them
Pooling = Literal["max", "mean"]
POOLED: dict[str, Callable[..., Tensor]] = {"max": max_pool2d, "mean": avg_pool2d}


def mean_of_graphs(
    function: Callable[[Tensor, Tensor], Found], student: Tensor, teacher: Tensor, dims: int = 2, mapped: bool = True
) -> Found:
    """Return the mean over a batch of graphs of a function of one graph's tensors, which have `dims` dimensions.

    By `torch.vmap` or, where the number of edges depends on the data, in a loop; of a dictionary the mean of each
    value.

    >>> x = torch.tensor([[[1.0]], [[3.0]]])
    >>> mean_of_graphs(lambda s, t: (s - t).square().sum(), x, torch.zeros(2, 1, 1))
    tensor(5.)
    """
    graphs = [x.flatten(0, -dims - 1) for x in (student, teacher)]
    if mapped:
        found: Any = torch.vmap(function)(*graphs)
    else:
        found = _stacked([function(s, t) for s, t in zip(*graphs, strict=True)])
    found = {name: value.mean(0) for name, value in found.items()} if isinstance(found, dict) else found.mean(0)
    return cast(Found, found)


def _stacked(found: list[Any]) -> Any:
    if isinstance(found[0], dict):
        return {name: torch.stack([each[name] for each in found]) for name in found[0]}
    return torch.stack(found)


def positions_of(maps: Tensor) -> Tensor:
    """Return the vectors of all positions of maps, row by row, `(B, C, H, W) -> (B, H W, C)`.

    >>> positions_of(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
    tensor([[[1., 3.],
             [2., 4.]]])
    """
    return maps.flatten(2).mT


def on_grid(maps: Tensor, grid: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Return maps `(B, C, h, w)` on a grid (H, W), by interpolation where they have another one; corners not aligned.

    >>> on_grid(torch.tensor([[[[1.0, 3.0]]]]), (1, 1))
    tensor([[[[2.]]]])
    """
    if tuple(maps.shape[-2:]) == tuple(grid):
        return maps
    return interpolate(at_least_float32(maps), size=tuple(grid), mode=mode, align_corners=False)


def pooled(maps: Tensor, share: float, by: Pooling = "max") -> Tensor:
    """Return maps `(B, C, H, W)` pooled over windows side by side, of `floor(share * size)` of their height and width.

    A window that the edge cuts counts as one: a share of 0.5 leaves 2 x 2 positions of an even grid, 3 x 3 of an odd
    one.

    >>> pooled(torch.arange(25.0).view(1, 1, 5, 5), 0.5).shape
    torch.Size([1, 1, 3, 3])
    """
    height, width = maps.shape[-2:]
    window = max(1, floor(share * height)), max(1, floor(share * width))
    return POOLED[by](maps, window, window, ceil_mode=True)
