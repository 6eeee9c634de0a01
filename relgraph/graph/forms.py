"""Forms: ways to compute one and the same comparison of two graphs, through their matrices or without them.

- "matrix": the weights of all pairs, `(N, N)`, of which sparse graphs then pick their edges.
- "factored": products `(D, D)` in place of all pairs (`relgraph.graph.factored`).
- "blocked": a block of rows at a time, forward and backward at once; of a sparse graph the neighbours are found so, and
  only the weights of the edges are computed.
- "auto": factored where that exists and is cheaper, blocked where the matrices would be large, else the matrix.

Values and gradients are the same to rounding. What is not a matrix can be differentiated once.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.blocks import mean_of_blocks
from relgraph.graph.factored import among
from relgraph.graph.kernels import Kernel, own_places, quotient, safe_sqrt
from relgraph.graph.matching import (
    Criterion,
    Scale,
    by_anchor_norm,
    by_anchor_sum,
    by_constant_max,
    by_max,
    by_mean,
    cross_entropy,
    frobenius,
    half_square,
    huber,
    is_softmax,
    kl,
    mean_square,
    raw,
    sum_square,
)
from relgraph.graph.search import CHUNK, above_in_blocks, fitting, nearest_in_blocks
from relgraph.graph.topology import Above, AllPairs, Edges, Given, Nearest, Rule, WithOwn

Form = Literal["auto", "matrix", "factored", "blocked"]
FORMS: tuple[Form, ...] = get_args(Form)

# Numbers in a block of rows, 8 MB in float32; half to double take as long, four times as many half as long again.
LARGEST = 2**21
# Numbers of a matrix of all pairs above which "auto" does without it, 2,896 nodes. At 2,048 and width 256 a CPU takes
# 0.9 (PKT) to 1.6 times (RKD's distances) as long without, at 4,096 0.5 to 0.9 times.
LARGEST_MATRIX = 2**23
# Nodes for each column of the wider network above which "auto" takes the factored form: on a CPU EGA's is as fast as
# the matrix at 2 to 3, for widths 64 and 256; that of rows divided by their norms, with twice the products, at 7 to 8.
CROSSING, CROSSING_OF_NORMS = 3, 8


def choose(
    form: Form,
    rule: Rule,
    known: tuple[Form, ...],
    student: Tensor,
    teacher: Tensor,
    count: int,
    crossing: int = CROSSING,
) -> Form:
    """Return the form in which `count` nodes, of the widths of these, are compared: never "auto".

    Args:
        form: What was asked for; anything but "auto" is returned.
        rule: The topology.
        known: The forms that the comparison has.
        student: Nodes, `(N, D_s)`.
        teacher: Nodes, `(N, D_t)`.
        count: Number of nodes of the whole batch.
        crossing: Above how many nodes for each column of the wider network the factored form is cheaper.

    >>> small, large = torch.zeros(64, 256), torch.zeros(1, 256)
    >>> both = ("matrix", "factored", "blocked")
    >>> choose("auto", AllPairs(), both, small, small, 64), choose("auto", AllPairs(), both, large, large, 4096)
    ('matrix', 'factored')
    """
    if form != "auto":
        return form
    if student.ndim != 2 or teacher.ndim != 2:
        return "matrix"
    many = count > crossing * max(student.shape[1], teacher.shape[1])
    if many and "factored" in known and isinstance(rule, AllPairs):
        return "factored"
    large = count**2 > LARGEST_MATRIX
    return "blocked" if large and "blocked" in known and chooses_in_blocks(rule) else "matrix"


def check_form(form: str, known: tuple[Form, ...], what: str) -> None:
    """Raise RelgraphError for an unknown form, or one that `what` has not.

    >>> check_form("factored", ("matrix", "blocked"), "PKT")
    Traceback (most recent call last):
    relgraph.errors.RelgraphError: PKT has the forms auto, matrix, blocked, got 'factored'
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    if form != "auto" and form not in known:
        raise RelgraphError(f"{what} has the forms {', '.join(('auto', *known))}, got {form!r}")


def blocks(scale: Scale, criterion: Criterion) -> bool:
    """Return whether a relation of all pairs has a blocked form: of any kernel, whether scale and criterion have one.

    >>> blocks(by_mean, huber)
    True
    """
    return (among(scale, ROW_SCALES) or among(scale, TOTALS) or is_softmax(scale)) and among(criterion, ROWS)


def compare_in_blocks(
    kernel: Kernel, scale: Scale, criterion: Criterion, student: Tensor, teacher: Tensor, block: int | None = None
) -> Tensor:
    """Return `criterion(scale(w_s), scale(w_t))` over all pairs, a block of rows of the weights w at a time: a scalar.

    Where the largest weight divides all and several pairs have it, its gradient goes through the first of them.

    Args:
        kernel: Any.
        scale: Of a relation that `blocks`, as the criterion.
        criterion: Of the same relation.
        student: Prepared nodes, `(N, D_s)`.
        teacher: Prepared nodes, `(N, D_t)`.
        block: Rows in a block; what fits `LARGEST` if not given.

    >>> from relgraph.graph.kernels import linear
    >>> compare_in_blocks(linear, raw, mean_square, torch.eye(2), torch.zeros(2, 3), block=1)
    tensor(0.5000)
    """
    count = len(student)
    block = block or rows_at_once(count)
    of_rows, finish = ROWS[criterion]
    total = TOTALS[scale] if among(scale, TOTALS) else None
    totals = () if total is None else (total(kernel, student, block), total(kernel, teacher, block))

    def term(anchors: slice, student: Tensor, teacher: Tensor, *totals: Tensor) -> Tensor:
        weights = kernel.rows(student, anchors), kernel.rows(teacher, anchors)
        if totals:
            return of_rows(quotient(weights[0], totals[0]), quotient(weights[1], totals[1]))
        return of_rows(scale(weights[0]), scale(weights[1]))

    value = finish(mean_of_blocks(term, (student, teacher, *totals), count, block), count)
    return value.to(torch.promote_types(student.dtype, teacher.dtype))


def across_in_blocks(kernel: Kernel, student: Tensor, teacher: Tensor, block: int | None = None) -> Tensor:
    """Return `|kernel(S, T) - I|`, the Frobenius norm, of *prepared* nodes `(N, D)`, a block of rows at a time.

    >>> from relgraph.graph.kernels import linear
    >>> across_in_blocks(linear, torch.eye(2), torch.zeros(2, 2), block=1)
    tensor(1.4142)
    """
    count = len(student)

    def term(anchors: slice, student: Tensor, teacher: Tensor) -> Tensor:
        weights = kernel.matrix(student[anchors], teacher)
        return _row_squares(weights, own_places(teacher, anchors).to(weights.dtype))

    mean = mean_of_blocks(term, (student, teacher), count, block or rows_at_once(count))
    return safe_sqrt(mean * count).to(torch.promote_types(student.dtype, teacher.dtype))


def rows_at_once(count: int) -> int:
    """Return how many rows of `count` numbers a block holds."""
    return max(1, LARGEST // max(1, count))


def _row_squares(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over rows of their squared differences' sums; as in `frobenius`, rows first, then in float64."""
    rows: Tensor = torch.linalg.vector_norm(student - teacher, dim=-1)
    return rows.double().square().mean()


def _row_sums(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(-1).mean()


def _as_is(value: Tensor, count: int) -> Tensor:
    return value


# What a criterion is on some rows, as a mean over them, and what makes the criterion of N rows of that.
ROWS: dict[Criterion, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, int], Tensor]]] = {
    frobenius: (_row_squares, lambda mean, count: safe_sqrt(mean * count)),
    sum_square: (_row_sums, lambda mean, count: mean * count),
    mean_square: (mean_square, _as_is),
    half_square: (half_square, _as_is),
    huber: (huber, _as_is),
    kl: (kl, _as_is),
    cross_entropy: (cross_entropy, _as_is),
}
ROW_SCALES: tuple[Scale, ...] = (raw, by_anchor_norm, by_anchor_sum)


def _mean_positive(kernel: Kernel, nodes: Tensor, block: int) -> Tensor:
    """Return the mean of the positive weights of all pairs, with gradient; 0 if there are none."""
    counts = []

    def positive(anchors: slice, nodes: Tensor) -> Tensor:
        weights = kernel.rows(nodes, anchors)
        above = weights > 0
        counts.append(above.sum())
        return torch.where(above, weights, 0).sum(-1).mean()

    total = mean_of_blocks(positive, (nodes,), len(nodes), block) * len(nodes)
    return total / torch.stack(counts).sum().clamp_min(1)


def _largest(kernel: Kernel, nodes: Tensor, block: int) -> Tensor:
    """Return the largest weight of all pairs, with gradient through the two nodes that have it."""
    count, found = len(nodes), []
    with torch.no_grad():
        for start in range(0, count, block):
            value, place = kernel.rows(nodes, slice(start, start + block)).flatten().max(0)
            found.append((value, place + start * count))
        values, places = (torch.stack(column) for column in zip(*found, strict=True))
        place = places.gather(0, values.argmax().unsqueeze(0))
    one, other = nodes.index_select(0, place // count), nodes.index_select(0, place % count)
    return kernel.matrix(one, other).squeeze()


def _constant_largest(kernel: Kernel, nodes: Tensor, block: int) -> Tensor:
    return _largest(kernel, nodes.detach(), block)


# What a scale divides all weights by.
TOTALS: dict[Scale, Callable[[Kernel, Tensor, int], Tensor]] = {
    by_mean: _mean_positive,
    by_max: _largest,
    by_constant_max: _constant_largest,
}


def chooses_in_blocks(rule: Rule) -> bool:
    """Return whether a rule's edges can be found without the matrices: those of a rule of one's own cannot."""
    inner = rule.rule if isinstance(rule, WithOwn) else rule
    return isinstance(inner, AllPairs | Nearest | Given | Above)


def edges_in_blocks(rule: Rule, student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
    """Return the edges that a sparse rule chooses among nodes `(N, D)`, found a block of rows at a time.

    They are those that it chooses in the matrices, in the same order; of equally near candidates perhaps others.

    Raises:
        RelgraphError: if the rule does not fit N, or is one that needs the matrices.

    >>> from relgraph.graph.kernels import euclidean
    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> edges_in_blocks(Nearest(1), x, x, euclidean).edge_index.tolist()
    [[1, 0, 1], [0, 1, 2]]
    """
    count = len(teacher)
    if isinstance(rule, WithOwn):
        return edges_in_blocks(rule.rule, student, teacher, kernel).with_own()
    if isinstance(rule, Given):
        return rule.edges(count, teacher.device)
    if isinstance(rule, Above):
        chooser = teacher if rule.by == "teacher" else student
        return Edges(above_in_blocks(chooser.detach(), rule.threshold, kernel, limit=count**2), count)
    if not isinstance(rule, Nearest):
        name = type(rule).__name__
        raise RelgraphError(f"the blocked form knows the rules Nearest, Given and Above of sparse graphs, got {name}")
    nodes = rule.choosers(student, teacher)
    return rule.edges(*(nearest_in_blocks(x.detach(), rule.k, kernel)[0] for x in nodes))


def weigh_edges(anchors: Tensor, candidates: Tensor, edges: Edges, kernel: Kernel, chunk: int | None = None) -> Tensor:
    """Return the weight of each edge between *prepared* anchors `(N, D)` and candidates `(M, D)`, `(E,)`.

    It is `edges.pick(kernel.matrix(anchors, candidates))`, `chunk` edges at a time (as many as suit D if `None`), with
    gradient, once differentiable.
    """
    chunk = fitting(chunk, CHUNK, anchors)
    weights: Tensor = _EdgeWeights.apply(anchors, candidates, edges.edge_index, kernel, chunk)
    return weights


class _EdgeWeights(torch.autograd.Function):
    """Weights of some edges at a time, computed once more for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, edge_index: Tensor, kernel: Kernel, chunk: int) -> Tensor:
        ctx.save_for_backward(x, y, edge_index)
        ctx.kernel, ctx.chunk = kernel, chunk
        found = [_weigh(kernel, x[anchor], y[candidate]) for candidate, anchor in torch.split(edge_index, chunk, dim=1)]
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, edge_index = ctx.saved_tensors
        nodes = x, y
        found = {side: torch.zeros_like(nodes[side]) for side in (0, 1) if ctx.needs_input_grad[side]}
        parts = zip(torch.split(edge_index, ctx.chunk, dim=1), torch.split(gradient, ctx.chunk), strict=True)
        for (candidate, anchor), weight in parts:
            places = anchor, candidate
            ends = [nodes[side][places[side]].requires_grad_(side in found) for side in (0, 1)]
            with torch.enable_grad():
                weights = _weigh(ctx.kernel, ends[0], ends[1])
            of_ends = torch.autograd.grad(weights, [ends[side] for side in found], weight)
            for side, of_end in zip(found, of_ends, strict=True):
                found[side].index_add_(0, places[side], of_end)
        return found.get(0), found.get(1), None, None, None


def _weigh(kernel: Kernel, one: Tensor, other: Tensor) -> Tensor:
    return kernel.matrix(one.unsqueeze(-2), other.unsqueeze(-2)).flatten()
