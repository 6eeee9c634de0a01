"""The outputs of a student for a batch that passes through it in parts."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relgraph.outputs import Output, of_views


def in_parts(student: nn.Module, images: Tensor, extra: Tensor | None, parts: int, *, maps: bool = True) -> Output:
    """Return the outputs of a student for a batch and its extra views that pass through it part by part.

    The outputs of all parts are computed without their activations; where a gradient reaches those of a part, it passes
    through the student once more (gradient checkpoints of torch; as GradCache, Gao et al., 2021, arXiv 2101.06983).
    Outputs and gradient are those of the batch in one part, except for batch norm, whose statistics are those of a
    part. Random operations in the student draw the same numbers both times. Memory: the student's activations of one
    part, and its outputs of all; its maps only if they are asked for.

    Args:
        student: The network.
        images: As it reads them, `(N, C, H, W)`.
        extra: Extra views of them, `(V * N, C, h, w)`.
        parts: Number of parts.
        maps: Whether its stage maps are read.
    """

    def read(images: Tensor, extra: Tensor | None) -> Output:
        output = of_views(student, images, extra)
        return output if maps else output._replace(maps=())

    pieces: list[tuple[Tensor | None, ...]] = [images.tensor_split(parts), (None,) * parts]
    if extra is not None:
        by_view = extra.reshape(-1, len(images), *extra.shape[1:])
        pieces[1] = tuple(views.flatten(0, 1) for views in by_view.tensor_split(parts, dim=1))
    found: list[Output] = [
        checkpoint(read, *part, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_kept(student)))
        for part in zip(*pieces, strict=True)
    ]

    def join(tensors: tuple[Tensor, ...]) -> Tensor:
        """Return the rows of all parts, view by view."""
        views = [x.reshape(-1, len(part.embedding), *x.shape[1:]) for x, part in zip(tensors, found, strict=True)]
        return torch.cat(views, dim=1).flatten(0, 1)

    return found[0].filled(map(join, zip(*(output.tensors() for output in found), strict=True)))


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers, as the running statistics of batch norm, back to their values before the block."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)
