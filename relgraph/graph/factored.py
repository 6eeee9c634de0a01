"""The exact loss of all pairs from products `(D, D)`: the matrices `(N, N)` of the two networks are never built.

Of a dot kernel, with S and T the prepared nodes of student and teacher, `(N, D)`, and `|.|` the Frobenius norm,

    |S S' - T T'|^2 = |S'S|^2 - 2 |S'T|^2 + |T'T|^2        |S T' - I|^2 = <S'S, T'T> - 2 <S, T> + N

Products are accumulated in float64 from a few rows at a time. For equal widths the first is expanded in the difference
of the nodes, so that no digits cancel where the two networks nearly agree node by node; where only their graphs agree
(the student's nodes are the teacher's, rotated, or have another width), the norm is accurate to about 1e-8 of the
graph's own norm. A sum over rows is also a sum over processes: for a batch spread over processes, only `(D, D)`
matrices are communicated.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relgraph.gradients import OTHER_FORM, once_differentiable
from relgraph.graph.blocks import OneByOne
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

# Rows that are held in float64 at a time: 1 MB at D = 256; any value from 256 to 4,096 is as fast.
ROWS = 512


def gram(x: Tensor, y: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return `x' y` in float64, summed over the rows of all processes, `(N, D) x (N, E) -> (D, E)`.

    Once differentiable. No more than `ROWS` rows are held in float64.

    >>> gram(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
    tensor([[11.,  2.]], dtype=torch.float64)
    """
    return processes.sum(_Gram.apply(x, y))


def for_rows(x: Tensor, processes: ProcessGroup) -> Tensor:
    """Return a sum for use on the rows of each process, so that its gradient comes from all of them."""
    if processes.count == 1 or not x.requires_grad:
        return x
    shared = x.clone()
    # Each gradient is multiplied by W (see `ProcessGroup`), so that their sum is their mean.
    shared.register_hook(lambda gradient: processes.mean_(gradient.clone()))  # type: ignore[no-untyped-call]
    return shared


class Squares(NamedTuple):
    """The squared differences of two networks' nodes of equal width, scalars in float64.

    Attributes:
        within: `|S S' - T T'|^2`, over all pairs of both graphs.
        across: `|S T' - I|^2`, from each student node to each teacher node.
    """

    within: Tensor
    across: Tensor


def squares(student: Tensor, teacher: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Squares:
    """Return the squared differences within and across the graphs of prepared nodes `(N, D)`, over all processes.

    Once differentiable. Equal nodes differ by exactly 0 within, with gradient 0.

    >>> squares(torch.eye(2), torch.zeros(2, 2))
    Squares(within=tensor(2., dtype=torch.float64), across=tensor(2., dtype=torch.float64))
    """
    # With d = S - T, S'S = T'T + d'T + T'd + d'd; the difference of the squares is expanded in d.
    change, mixed, own = processes.sum(_Products.apply(student, teacher))
    whole = own + mixed + mixed.mT + change
    within = _inner(change, whole + own) + 2 * _inner(mixed, change + mixed.mT)
    across = _inner(whole, own) - 2 * (mixed.trace() + own.trace()) + processes.count * len(student)
    return Squares(within.clamp_min(0), across.clamp_min(0))


Factors = tuple[Tensor, Tensor]


def factored_square(student: Factors, teacher: Factors, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return `|A S' - B T'|^2` of the factors (A, S) and (B, T) of two graphs' weights, a scalar in float64.

    The factors of one graph are `(N, D)` each. For equal widths the difference is expanded as
    `(A - B) S' + B (S - T)'`, and is `(A - B) S'` where S and T are the same nodes.

    >>> x, y = torch.eye(2), torch.zeros(2, 3)
    >>> factored_square((x, x), (y, y))
    tensor(2., dtype=torch.float64)
    """
    (a, s), (b, t) = student, teacher
    if s.shape[1] != t.shape[1]:
        products = [gram(x, y, processes) for x, y in ((s, s), (s, t), (t, t))]
        plain = a is s and b is t
        others = products if plain else [gram(x, y, processes) for x, y in ((a, a), (a, b), (b, b))]
        one, across, other = map(_inner, others, products)
        return (one - 2 * across + other).clamp_min(0)
    if a is s and b is t:
        return squares(s, t, processes).within
    rows = a - b
    if s is t:
        return _inner(gram(rows, rows, processes), gram(s, s, processes)).clamp_min(0)
    columns = s - t
    expanded = ((rows, rows), (s, s), (rows, b), (s, columns), (b, b), (columns, columns))
    found = processes.sum(torch.stack([_Gram.apply(*pair) for pair in expanded]))
    return (_inner(found[0], found[1]) + 2 * _inner(found[2], found[3]) + _inner(found[4], found[5])).clamp_min(0)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


class _Products(OneByOne):
    """`d'd`, `d'T` and `T'T` with `d = S - T` of nodes S and T, `(3, D, D)` in float64, a few rows at a time."""

    @staticmethod
    def forward(student: Tensor, teacher: Tensor) -> Tensor:
        width, half = student.shape[1], student.shape[1] // 2
        found = student.new_zeros(3, width, width, dtype=torch.float64)
        for delta, other in _differences(student, teacher):
            found[1].addmm_(delta.mT, other)
            for product, x in ((found[0], delta), (found[2], other)):  # symmetric: a quarter is not computed
                product[:half].addmm_(x[:, :half].mT, x)
                product[half:, half:].addmm_(x[:, half:].mT, x[:, half:])
        found[::2, half:, :half] = found[::2, :half, half:].mT
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable(OTHER_FORM)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        change, mixed, own = gradient
        change, own = change + change.mT, own + own.mT
        (s, t), needed = ctx.saved_tensors, ctx.needs_input_grad
        of_student = _of_rows(s, t, change, mixed.mT) if needed[0] else None
        of_teacher = _of_rows(s, t, mixed - change, own - mixed.mT) if needed[1] else None
        return of_student, of_teacher

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> Tensor:
        student, teacher = (x.double() for x in ctx.saved_tensors)
        s, t = (torch.zeros_like(student) if change is None else change.double() for change in changes)
        delta, d = student - teacher, s - t
        halves = torch.stack([d.mT @ delta, t.mT @ teacher])
        change, own = halves + halves.mT
        return torch.stack([change, d.mT @ teacher + delta.mT @ t, own])


def _of_rows(student: Tensor, teacher: Tensor, of_delta: Tensor, of_teacher: Tensor) -> Tensor:
    """Return `(S - T) of_delta + T of_teacher`, `(N, D)`, each row computed in float64."""
    differences = _differences(student, teacher)
    return torch.cat([torch.addmm(d @ of_delta, t, of_teacher).to(student.dtype) for d, t in differences])


def _differences(student: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the student's nodes less the teacher's, and the teacher's, in float64, a few rows at a time.

    The yielded tensors are overwritten by the next rows.
    """
    held = student.new_empty(2, min(ROWS, len(student)), student.shape[1], dtype=torch.float64)
    for start in range(0, len(student), ROWS):
        one, other = held[:, : len(student) - start]
        other.copy_(teacher[start : start + ROWS])
        yield one.copy_(student[start : start + ROWS]).sub_(other), other


class _Gram(OneByOne):
    """`x' y` in float64, a few rows at a time."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        product = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
        for rows, others in zip(torch.split(x, ROWS), torch.split(y, ROWS), strict=True):
            one = rows.double()
            product.addmm_(one.mT, one if x is y else others.double())
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.same = inputs[0] is inputs[1]
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable(OTHER_FORM)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        if ctx.same:
            return (_times(x, gradient + gradient.mT, x) if ctx.needs_input_grad[0] else None), None
        of_x = _times(y, gradient.mT, x) if ctx.needs_input_grad[0] else None
        return of_x, (_times(x, gradient, y) if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx: Any, change_x: Tensor | None, change_y: Tensor | None) -> Tensor:
        x, y = (saved.double() for saved in ctx.saved_tensors)
        moved = [] if change_x is None else [change_x.double().mT @ y]
        moved += [] if change_y is None else [x.mT @ change_y.double()]
        return torch.stack(moved).sum(0)


def _times(x: Tensor, matrix: Tensor, like: Tensor) -> Tensor:
    """Return `x matrix` in the shape and type of `like`, each row computed in float64."""
    return torch.cat([(rows.double() @ matrix).to(like.dtype) for rows in torch.split(x, ROWS)])
