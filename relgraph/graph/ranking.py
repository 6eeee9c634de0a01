"""The edges of one anchor in the order of the teacher's weights, and differences between them: rows for criteria."""

from collections.abc import Callable

from torch import Tensor

from relgraph.graph.blocks import rows_in_blocks


def ranked(student: Tensor, teacher: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Return both networks' weights in the teacher's order, largest first, `(..., M) x (..., M) -> (..., L) twice`.

    At most `length` of them. Of weights that are equal in float32 the first of the row comes first: equal keys would
    else be ranked by rounding. The order has no gradient.

    >>> import torch
    >>> ranked(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.2, 0.9, 0.5]), length=2)
    (tensor([2., 3.]), tensor([0.9000, 0.5000]))
    """
    order = teacher.detach().float().argsort(dim=-1, descending=True, stable=True)[..., :length]
    return student.gather(-1, order), teacher.gather(-1, order)


def differences(weights: Tensor, others: Tensor | None = None) -> Tensor:
    """Return `w_n - w_m` at `[m, n]` of the weights of one anchor, `(..., L) -> (..., L, L)`.

    With `others` it is `w_n - others_m`.

    >>> import torch
    >>> differences(torch.tensor([1.0, 3.0]))
    tensor([[ 0.,  2.],
            [-2.,  0.]])
    """
    return weights.unsqueeze(-2) - (weights if others is None else others).unsqueeze(-1)


def by_differences(row: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    """Return `row(student, teacher)`, `(..., L) x (..., L) -> (...)`, which makes L x L numbers of each anchor.

    They are made for a block of anchors at a time (`rows_in_blocks`).
    """
    length, anchors = student.shape[-1], student.shape[:-1]
    ends = [x.reshape(anchors.numel(), length) for x in (student, teacher)]
    return rows_in_blocks(row, ends, length**2).view(anchors)
