"""The exact loss of all pairs from products `(D, D)`: the matrices `(N, N)` of the two networks never exist.

Of a dot kernel, with S and T the prepared nodes of student and teacher, `(N, D)`, and `|.|` the Frobenius norm,

    |S S' - T T'|^2 = |S'S|^2 - 2 |S'T|^2 + |T'T|^2        |S T' - I|^2 = <S'S, T'T> - 2 <S, T> + N

Products are accumulated in float64 from a few rows at a time. Of equal widths the first is expanded in the difference
of the nodes, so that nothing cancels where the two networks nearly agree node by node; where only their graphs do (the
student's nodes are the teacher's, rotated, or have another width), the norm is known to some 1e-8 of the graph's own.
A sum over rows is a sum over processes too: of a batch that is spread, `(D, D)` numbers travel and no rows.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, dot, identity, safe_sqrt
from relgraph.graph.matching import (
    Criterion,
    Scale,
    by_anchor_norm,
    frobenius,
    half_square,
    mean_square,
    raw,
    sum_square,
)
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup

# Rows that are held in float64 at a time: 1 MB at D = 256; 256 to 4,096 take as long.
ROWS = 512

# What each criterion makes of the sum of the squared differences over the pairs of N nodes.
SQUARES: dict[Criterion, Callable[[Tensor, int], Tensor]] = {
    frobenius: lambda square, count: safe_sqrt(square),
    mean_square: lambda square, count: square / count**2,
    sum_square: lambda square, count: square,
    half_square: lambda square, count: square / (2 * count),
}


def factors(kernel: Kernel, scale: Scale, criterion: Criterion) -> bool:
    """Return whether a relation of all pairs has a factored form.

    The kernel must be a dot product of prepared nodes, the criterion a sum of squares, the weights as they are or
    divided by each anchor's norm.

    >>> from relgraph.graph.kernels import euclidean, pearson
    >>> factors(pearson, raw, frobenius), factors(euclidean, raw, frobenius)
    (True, False)
    """
    product = kernel.product is dot and kernel.finish is identity
    return product and among(scale, (raw, by_anchor_norm)) and among(criterion, SQUARES)


def among(part: object, known: Iterable[object]) -> bool:
    """Return whether a part is one of those known; one of a user's own may refuse to be compared, or hashed."""
    return any(part is each for each in known)


def gram(x: Tensor, y: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return `x' y` in float64, summed over the rows of all processes, `(N, D) x (N, E) -> (D, E)`.

    Once differentiable. No more than `ROWS` rows are held in float64.

    >>> gram(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
    tensor([[11.,  2.]], dtype=torch.float64)
    """
    product: Tensor = _Gram.apply(x, y)
    return processes.sum(product)


class Squares(NamedTuple):
    """What two networks' nodes of one width differ by, scalars in float64.

    Attributes:
        within: `|S S' - T T'|^2`, over all pairs of both graphs.
        across: `|S T' - I|^2`, from each student node to each teacher node.
    """

    within: Tensor
    across: Tensor


def squares(student: Tensor, teacher: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Squares:
    """Return the squared differences within and across the graphs of prepared nodes `(N, D)`, over all processes.

    Once differentiable. Equal nodes differ by exactly 0 within, with gradient 0.

    Raises:
        RelgraphError: if the two are not (N, D) alike on one device.

    >>> squares(torch.eye(2), torch.zeros(2, 2))
    Squares(within=tensor(2., dtype=torch.float64), across=tensor(2., dtype=torch.float64))
    """
    if student.ndim != 2 or student.shape != teacher.shape or student.device != teacher.device:
        places = (f"{tuple(x.shape)} on {x.device}" for x in (student, teacher))
        raise RelgraphError(f"nodes must be (N, D) alike on one device, got {' and '.join(places)}")
    return Squares(*_Squares.apply(student, teacher, processes))


def compare_factored(
    kernel: Kernel,
    scale: Scale,
    criterion: Criterion,
    student: Tensor,
    teacher: Tensor,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Tensor:
    """Return `criterion(scale(w_s), scale(w_t))` over all pairs, without the weights w: a scalar.

    Args:
        kernel: Of a relation that `factors`, as scale and criterion.
        scale: Of the same relation.
        criterion: Of the same relation.
        student: Prepared nodes, `(N, D_s)`; the rows of this process.
        teacher: Prepared nodes, `(N, D_t)`.
        processes: Those that hold the other rows.

    >>> from relgraph.graph.kernels import linear
    >>> compare_factored(linear, raw, mean_square, torch.eye(2), torch.zeros(2, 3))
    tensor(0.5000)
    """
    with torch.autocast(student.device.type, enabled=False):
        measure = _between_unit_rows if scale is by_anchor_norm else _between
        square = measure(student, teacher, processes)
        value = SQUARES[criterion](square, processes.count * len(student))
        return value.to(torch.promote_types(student.dtype, teacher.dtype))


def _between(student: Tensor, teacher: Tensor, processes: ProcessGroup) -> Tensor:
    """Return `|S S' - T T'|^2`."""
    if student.shape[1] == teacher.shape[1]:
        return squares(student, teacher, processes).within
    one, cross, other = (gram(x, y, processes) for x, y in ((student, student), (student, teacher), (teacher, teacher)))
    return (one.square().sum() - 2 * cross.square().sum() + other.square().sum()).clamp_min(0)


def _between_unit_rows(student: Tensor, teacher: Tensor, processes: ProcessGroup) -> Tensor:
    """Return the squared difference of `S S'` and `T T'`, the rows of each divided by their lengths.

    With `A = S / lengths` and B, nodes of the teacher alike, the matrices are `A S'` and `B T'`, and their difference
    `(A - B) S' + B (S - T)'`.
    """
    (a, s), (b, t) = (_unit_rows(x, processes) for x in (student, teacher))
    if s.shape[1] != t.shape[1]:
        one, other = (_inner(gram(u, u, processes), gram(x, x, processes)) for u, x in ((a, s), (b, t)))
        return (one - 2 * _inner(gram(a, b, processes), gram(s, t, processes)) + other).clamp_min(0)
    rows, columns = a - b, s - t
    grams = (gram(*pair) for pair in ((rows, rows), (s, s), (rows, b), (s, columns), (b, b), (columns, columns)))
    first = processes.sum(torch.stack(list(grams)))
    return (_inner(first[0], first[1]) + 2 * _inner(first[2], first[3]) + _inner(first[4], first[5])).clamp_min(0)


def _unit_rows(x: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return A and X `(N, D)`, float64, of which `A X'` is the matrix of `x` with rows of length 1, or 0.

    The squared length of row i of `x x'` is `x_i' (x'x) x_i`. A factor of all nodes, which the rows do not see, is
    taken out: two networks' X are then alike where their graphs are.
    """
    x = x.double()
    product = gram(x, x, processes)
    size = torch.linalg.matrix_norm(product.detach()).sqrt()
    factor = torch.where(size > 0, size, 1)
    x, product = x / factor, product / factor.square()
    square = (x @ _spread(product, processes) * x).sum(-1, keepdim=True)
    positive = square > 0
    return x * torch.where(positive, torch.where(positive, square, 1).rsqrt(), 0), x


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


def _spread(x: Tensor, processes: ProcessGroup) -> Tensor:
    """Return a tensor that is one on all processes, for use on the rows of each: gradients come from all."""
    if processes.count == 1:
        return x
    spread: Tensor = _Spread.apply(x, processes)
    return spread


class _Squares(torch.autograd.Function):
    """Both squares from `P = d'd`, `E = d'T` and `T'T`, with `d = S - T`; then `S'S = T'T + E + E' + P`.

    Of `4 (S S' - T T') S` and of `2 (S T' - I) T`, the gradients for S, no more than that is needed either.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
        width, half = student.shape[1], student.shape[1] // 2
        found = student.new_zeros(3, width, width, dtype=torch.float64)
        for delta, other in _differences(student, teacher):
            found[1].addmm_(delta.mT, other)
            for product, x in ((found[0], delta), (found[2], other)):  # symmetric: a quarter is not computed
                product[:half].addmm_(x[:, :half].mT, x)
                product[half:, half:].addmm_(x[:, half:].mT, x[:, half:])
        found[::2, half:, :half] = found[::2, :half, half:].mT
        delta, mixed, own = processes.sum(found)
        whole = own + mixed + mixed.mT + delta
        ctx.save_for_backward(student, teacher, delta, mixed, own, whole)
        ctx.processes = processes
        count = processes.count * len(student)
        within = _inner(delta, whole + own) + 2 * _inner(mixed, delta + mixed.mT)
        across = _inner(whole, own) - 2 * (mixed.trace() + own.trace()) + count
        return within.clamp_min_(0), across.clamp_min_(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, within: Tensor, across: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        student, teacher, delta, mixed, own, whole = ctx.saved_tensors
        within, across = 4 * ctx.processes.count * within, 2 * ctx.processes.count * across
        factors = {}
        if ctx.needs_input_grad[0]:
            of_delta, of_teacher = within * whole, within * (mixed + delta)
            for factor in (of_delta, of_teacher):
                factor.addcmul_(across, own)
            of_teacher.diagonal().sub_(across)
            factors[0] = of_delta, of_teacher
        if ctx.needs_input_grad[1]:
            of_delta, of_teacher = -within * (mixed + own), across * whole - within * mixed
            for factor in (of_delta, of_teacher):
                factor.diagonal().sub_(across)
            factors[1] = of_delta, of_teacher
        found = {side: torch.empty_like((student, teacher)[side]) for side in factors}
        product = own.new_empty(min(ROWS, len(student)), len(own))
        for start, (one, other) in zip(_starts(student), _differences(student, teacher), strict=True):
            for side, (of_delta, of_teacher) in factors.items():
                rows = torch.mm(one, of_delta, out=product[: len(one)]).addmm_(other, of_teacher)
                found[side][start : start + ROWS] = rows
        return found.get(0), found.get(1), None


def _differences(student: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the student's nodes less the teacher's, and the teacher's, in float64, a few rows at a time.

    The next rows take the place of the last ones.
    """
    held = student.new_empty(2, min(ROWS, len(student)), student.shape[1], dtype=torch.float64)
    for start in _starts(student):
        one, other = held[:, : len(student) - start]
        other.copy_(teacher[start : start + ROWS])
        yield one.copy_(student[start : start + ROWS]).sub_(other), other


def _starts(x: Tensor) -> range:
    return range(0, len(x), ROWS)


class _Gram(torch.autograd.Function):
    """`x' y` in float64, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.same = x is y
        ctx.save_for_backward(x, y)
        product = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
        for start in _starts(x):
            one = x[start : start + ROWS].double()
            product.addmm_(one.mT, one if ctx.same else y[start : start + ROWS].double())
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        if ctx.same:
            return (_times(x, gradient + gradient.mT, x.dtype) if ctx.needs_input_grad[0] else None), None
        of_x = _times(y, gradient.mT, x.dtype) if ctx.needs_input_grad[0] else None
        return of_x, (_times(x, gradient, y.dtype) if ctx.needs_input_grad[1] else None)


class _Spread(torch.autograd.Function):
    """Itself; each process uses it for its own rows, so the gradient is the sum of theirs.

    They come times W (see `ProcessGroup`), so it is their mean.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: ProcessGroup) -> Tensor:
        ctx.processes = processes
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.mean_(gradient.clone()), None


def _times(x: Tensor, matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x matrix` in a type, each row computed in float64."""
    found = x.new_empty(len(x), matrix.shape[1], dtype=dtype)
    for start in _starts(x):
        found[start : start + ROWS] = x[start : start + ROWS].double() @ matrix
    return found
