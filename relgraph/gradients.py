"""Functions that can be differentiated once: a second derivative is refused.

torch's own decorator does not refuse it in `torch.autograd.grad` with respect to some tensors, nor where the incoming
gradient is a constant, as that of a mean: both then return a wrong number.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

import torch
from torch import Tensor

from relgraph.errors import RelgraphError

Backward = Callable[..., tuple[Tensor | None, ...]]

OTHER_FORM = "use form 'matrix', where the method has one"


def once_differentiable(remedy: str) -> Callable[[Backward], Backward]:
    """Return the decorator of a `backward` whose gradients must not be differentiated again.

    The gradients are computed as before. With `create_graph=True`, and in `torch.func`, they depend on the incoming
    gradients and on all saved tensors, so that each way to a second derivative ends in the error: these must include
    the inputs, or their `trace`.

    Args:
        remedy: What to do instead, the end of the error's sentence.

    Raises:
        RelgraphError: when a gradient is differentiated, backward or forward.
    """

    def decorate(backward: Backward) -> Backward:
        @wraps(backward)
        def once(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            if not torch.is_grad_enabled():
                return backward(ctx, *gradients)
            with torch.no_grad():
                found = backward(ctx, *gradients)
            read = [x for x in (*gradients, *ctx.saved_tensors) if isinstance(x, Tensor) and x.is_floating_point()]
            return tuple(None if x is None else _Last.apply(remedy, x, *read) for x in found)

        return once

    return decorate


def trace(x: Tensor) -> Tensor:
    """Return an empty tensor that depends on `x` for autograd, and keeps none of its numbers in memory.

    >>> trace(torch.ones(2, 3)).shape
    torch.Size([0, 2, 3])
    """
    return x.unsqueeze(0)[:0].clone()


class _Last(torch.autograd.Function):
    """A gradient, unchanged, that raises RelgraphError where it is differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(remedy: str, gradient: Tensor, *read: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.remedy = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        _refuse(ctx.remedy)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> NoReturn:
        _refuse(ctx.remedy)


def _refuse(remedy: str) -> NoReturn:
    raise RelgraphError(f"this loss has a first derivative only, got a second one: {remedy}")
