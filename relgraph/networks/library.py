"""What students from other libraries have in common: their widths are measured, not listed, and there are hundreds."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.backbone import Backbone


def unknown_model(library: str, name: str, known: Iterable[str]) -> RelgraphError:
    """Return the error for a name among hundreds, where listing all would bury the nearest.

    >>> print(unknown_model("timm", "resnet81", ["resnet18", "vgg11"]))
    unknown student 'timm:resnet81': did you mean timm:resnet18? (relgraph students 'timm:*' lists all)
    """
    near = get_close_matches(name, list(known), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(f'{library}:{other}' for other in near)}? " if near else ""
    return RelgraphError(f"unknown student {f'{library}:{name}'!r}: {hint}(relgraph students '{library}:*' lists all)")


@contextmanager
def built_for(name: str, in_channels: int, image_size: int) -> Iterator[None]:
    """Turn any exception while a network is built and measured into one error message.

    Raises:
        RelgraphError: if anything was raised inside.
    """
    try:
        yield
    except Exception as error:  # the exception for a size that a network cannot read differs between networks
        size = f"{in_channels} x {image_size} x {image_size}"
        raise RelgraphError(f"{name} cannot read images of {size}: {first_line(error)}") from error


@torch.no_grad()
def measured_width(backbone: Backbone, in_channels: int, image_size: int) -> int:
    """Return the length of a network's vector for one image; the network is left in training mode.

    Raises:
        ValueError: if its output is no vector.
    """
    _, pooled = backbone.eval().stages(torch.zeros(1, in_channels, image_size, image_size))
    backbone.train()
    if pooled.ndim != 2:
        raise ValueError(f"expected one vector (1, width), got {tuple(pooled.shape)}")
    return int(pooled.shape[1])
