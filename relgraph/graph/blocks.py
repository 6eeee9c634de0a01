"""Blocks: a mean over many rows in the memory of a few of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Term = Callable[..., Tensor]


def mean_of_blocks(term: Term, inputs: Sequence[Tensor], rows: int, block: int) -> Tensor:
    """Return the mean over all rows of a term whose whole would be too large, `block` rows at a time: a scalar.

    `term(span, *inputs)` is the mean over the rows of one slice. The gradient of each block is taken as soon as its
    value is there, and only the sum is kept, which has the shape of the inputs: so nothing is computed twice, as it is
    by `torch.utils.checkpoint`, and no more than one block is ever held. The result can be differentiated once. If one
    block holds all rows, this is `term(slice(0, rows), *inputs)`.

    >>> x = torch.arange(6.0, requires_grad=True)
    >>> mean_of_blocks(lambda span, x: x[span].square().mean(), [x], rows=6, block=4).backward()
    >>> x.grad
    tensor([0.0000, 0.3333, 0.6667, 1.0000, 1.3333, 1.6667])
    """
    if block >= rows:
        return term(slice(0, rows), *inputs)
    spans = [slice(start, min(start + block, rows)) for start in range(0, rows, block)]
    if not torch.is_grad_enabled():
        inputs = [x.detach() for x in inputs]
    mean: Tensor = _Mean.apply(term, spans, *inputs)
    return mean


class _Mean(torch.autograd.Function):
    """The mean of the spans' terms, with the gradient computed beside the value."""

    @staticmethod
    def forward(ctx: Any, term: Term, spans: list[slice], *inputs: Tensor) -> Tensor:
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
        learning = [x for x in leaves if x.requires_grad]
        gradients = [torch.zeros_like(x) for x in learning]
        values = []
        for span in spans:
            with torch.enable_grad():
                value = term(span, *leaves) * ((span.stop - span.start) / spans[-1].stop)
            if learning:
                for total, gradient in zip(gradients, torch.autograd.grad(value, learning), strict=True):
                    total += gradient
            values.append(value.detach())
        ctx.save_for_backward(*gradients)
        return torch.stack(values).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return None, None, *(next(gradients) * weight if needed else None for needed in ctx.needs_input_grad[2:])
