"""Blocks: a sum over many rows in the memory of a few of them, and functions of one batch that `torch.func` maps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from relgraph.gradients import OTHER_FORM, once_differentiable, trace

Term = Callable[..., Tensor]

# Numbers in a block of rows, 2 to 8 MB in float32. Each block also passes over a gradient as large as the nodes, which
# a larger block does less often: at N = 8,192 and D = 256, EGA in blocks of half the largest size takes 9 % longer
# (medians of 4, one thread of an AMD EPYC).
SMALLEST, LARGEST = 2**19, 2**21


def rows_at_once(count: int, nodes: int = 0) -> int:
    """Return how many rows of `count` numbers a block holds: twice as many numbers as the nodes, within limits."""
    return max(1, min(LARGEST, max(SMALLEST, 2 * nodes)) // max(1, count))


def sum_of_blocks(term: Term, inputs: Sequence[Tensor], rows: int, block: int | None = None) -> Tensor:
    """Return the sum of a term over all rows, computed `block` rows at a time to save memory: a scalar.

    `term(span, *inputs)` is the sum over the rows of one slice, or several sums, `(P,)`; only the first of them has a
    gradient. The gradient of each block is computed as soon as its value is computed, and only the sum of the gradients
    is kept, in the shape of the inputs: nothing is computed twice, unlike with `torch.utils.checkpoint`, and no more
    than one block is ever held. The result can be differentiated once. If one block holds all rows, this is
    `term(slice(0, rows), *inputs)`. If `block` is not given, a block holds `rows_at_once` rows of `rows` numbers.

    >>> x = torch.arange(6.0, requires_grad=True)
    >>> sum_of_blocks(lambda span, x: x[span].square().sum(), [x], rows=6, block=4).backward()
    >>> x.grad
    tensor([ 0.,  2.,  4.,  6.,  8., 10.])
    """
    block = rows_at_once(rows, max(x.numel() for x in inputs)) if block is None else block
    if block >= rows:
        return term(slice(0, rows), *inputs)
    needed = tuple(map(_needed, inputs))
    total: Tensor = _SumOfBlocks.apply(term, rows, block, needed, *inputs, *_traces(inputs, needed))[0]
    return total


def rows_in_blocks(row: Term, inputs: Sequence[Tensor], numbers: int) -> Tensor:
    """Return `row(*inputs)`, a number for each row of tensors `(A, M)`, a block of rows at a time: `(A,)`.

    Each row takes `numbers` numbers, and each result depends on its own row alone. As in `sum_of_blocks` the gradient
    is computed beside the value and nothing else is kept, so the result can be differentiated once; if one block holds
    all rows, this is `row(*inputs)`.

    >>> rows_in_blocks(lambda x: x.square().sum(-1), [torch.eye(3)], numbers=1)
    tensor([1., 1., 1.])
    """
    block = max(1, LARGEST // max(1, numbers))
    if block >= len(inputs[0]):
        return row(*inputs)
    needed = tuple(map(_needed, inputs))
    found: Tensor = _RowsInBlocks.apply(row, block, needed, *inputs, *_traces(inputs, needed))[0]
    return found


def learns(*parts: object) -> bool:
    """Return whether parts have parameters, which would get no gradient in a term of blocks: its inputs alone do.

    >>> learns(torch.relu, nn.ReLU()), learns(partial(torch.mul, nn.Linear(1, 1)))
    (False, True)
    """
    return any(True for layer in layers_of(parts) for _ in layer.parameters())


def layers_of(part: object) -> Iterator[nn.Module]:
    """Yield the modules that a relation, or a part of one, is made of: learned ones are trained with the method."""
    if isinstance(part, nn.Module):
        yield part
    elif isinstance(part, partial):
        yield from layers_of((part.func, *part.args, *part.keywords.values()))
    elif isinstance(part, tuple):
        for one in part:
            yield from layers_of(one)
    elif is_dataclass(part) and not isinstance(part, type):
        yield from layers_of(tuple(getattr(part, item.name) for item in fields(part)))


def _needed(x: Tensor) -> bool:
    # Inside a transform of torch.func, `requires_grad` does not show whether an outer transform differentiates a
    # tensor.
    return torch.is_grad_enabled() and x.is_floating_point() and (transformed() or x.requires_grad)


def _traces(inputs: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Return the traces of the inputs that need a gradient, by which a second one is refused."""
    return [trace(x) for x, need in zip(inputs, needed, strict=True) if need]


def transformed() -> bool:
    """Return whether a transform of `torch.func` is active: tensors may then have hidden batch dimensions."""
    return torch._C._are_functorch_transforms_active()


class OneByOne(torch.autograd.Function):
    """A function of one batch; `torch.func.vmap` calls it for one batch after the other and stacks the results."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """Return the results for all batches, and the dimension in which they are stacked."""

        def one(number: int) -> Any:
            pairs = zip(inputs, in_dims, strict=True)
            return cls.apply(*(x.select(dim, number) if isinstance(dim, int) else x for x, dim in pairs))

        found = [one(number) for number in range(info.batch_size)]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(column) for column in zip(*found, strict=True)), (0,) * len(found[0])


class _SumOfBlocks(OneByOne):
    """The sum of the blocks' terms, with the gradient computed beside the value."""

    @staticmethod
    def forward(term: Term, rows: int, block: int, needed: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = tensors[: len(needed)]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
        learning = [x for x in leaves if x.requires_grad]
        gradients = [torch.zeros_like(x) for x in learning]
        total = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
        for start in range(0, rows, block):
            with torch.enable_grad():
                value = term(slice(start, min(start + block, rows)), *leaves)
                first = value if value.ndim == 0 else value[0]
            if learning and value.requires_grad:  # a term need not read all inputs
                found = torch.autograd.grad(first, learning, materialize_grads=True)
                for sum_so_far, gradient in zip(gradients, found, strict=True):
                    sum_so_far += gradient
            total = total + value.detach()
            dtype = value.dtype
            del value, first  # frees the memory of this block before the next one is computed
        return total.to(dtype), *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.needed, ctx.shape = inputs[3], output[0].shape
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[4 + len(inputs[3]) :])
        ctx.save_for_forward(*output[1:])

    @staticmethod
    @once_differentiable(OTHER_FORM)
    def backward(ctx: Any, weight: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        weight = weight if weight.ndim == 0 else weight[0]
        found = [next(gradients) * weight if need else None for need in ctx.needed]
        return None, None, None, None, *found, *(None for need in ctx.needed if need)

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        of_inputs = zip(changes[4:], ctx.needed, strict=False)  # the traces come last
        learning = [change for change, need in of_inputs if need]
        pairs = zip(ctx.saved_tensors, learning, strict=True)
        along = torch.stack([(gradient * change).sum() for gradient, change in pairs if change is not None]).sum()
        if ctx.shape:
            along = torch.cat([along.view(1), along.new_zeros(ctx.shape[0] - 1)])
        return along, *(None for _ in learning)


class _RowsInBlocks(OneByOne):
    """The numbers of all rows, with their gradients computed beside them."""

    @staticmethod
    def forward(row: Term, block: int, needed: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = tensors[: len(needed)]
        gradients = [torch.empty_like(x) for x, need in zip(inputs, needed, strict=True) if need]
        found = []
        for start in range(0, len(inputs[0]), block):
            some = slice(start, start + block)
            leaves = [x[some].detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
            with torch.enable_grad():
                values = row(*leaves)
                total = values.sum()
            learning = [x for x in leaves if x.requires_grad]
            if learning and values.requires_grad:
                of_block = torch.autograd.grad(total, learning, materialize_grads=True)
                for gradient, part in zip(gradients, of_block, strict=True):
                    gradient[some] = part
            else:
                for gradient in gradients:
                    gradient[some] = 0
            found.append(values.detach())
            del values, total  # frees the memory of this block before the next one is computed
        return torch.cat(found), *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.needed = inputs[2]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[3 + len(inputs[2]) :])
        ctx.save_for_forward(*output[1:])

    @staticmethod
    @once_differentiable(OTHER_FORM)
    def backward(ctx: Any, weight: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        found = [next(gradients) * weight.unsqueeze(-1) if need else None for need in ctx.needed]
        return None, None, None, *found, *(None for need in ctx.needed if need)

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        of_inputs = zip(changes[3:], ctx.needed, strict=False)  # the traces come last
        learning = [change for change, need in of_inputs if need]
        pairs = zip(ctx.saved_tensors, learning, strict=True)
        along = torch.stack([(gradient * change).sum(-1) for gradient, change in pairs if change is not None]).sum(0)
        return along, *(None for _ in learning)
