"""Blocks against the whole: one value, one gradient, each block once."""

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.blocks import sum_of_blocks

ROWS = 7


def term(span: slice, x: Tensor, y: Tensor) -> Tensor:
    """Return the sum over a span of rows of something that depends on all rows."""
    return (x[span] @ y.mT).sin().square().sum()


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(ROWS, 3).double().requires_grad_(), torch.randn(ROWS, 3).double().requires_grad_()


def test_each_block_is_computed_once_with_gradient_where_there_is_one() -> None:
    seen: list[tuple[int, int, bool]] = []

    def watched(span: slice, x: Tensor, y: Tensor) -> Tensor:
        value = term(span, x, y)
        seen.append((span.start, span.stop, value.requires_grad))
        return value

    for block, expected in ((3, [(0, 3), (3, 6), (6, 7)]), (4, [(0, 4), (4, 7)]), (7, [(0, 7)]), (8, [(0, 7)])):
        for learns in (True, False):
            seen.clear()
            with torch.set_grad_enabled(learns):
                assert sum_of_blocks(watched, inputs(), ROWS, block).requires_grad == learns
            assert seen == [(*span, learns) for span in expected]


@pytest.mark.parametrize("block", [2, 7])
def test_only_inputs_that_learn_and_are_read_receive_a_gradient(block: int) -> None:
    x, y = inputs()
    torch.autograd.backward(sum_of_blocks(term, (x, y.detach()), ROWS, block))
    assert x.grad is not None and x.grad.any() and y.grad is None
    torch.autograd.backward(sum_of_blocks(term, (x.detach(), y), ROWS, block))
    assert y.grad is not None and y.grad.any()
    assert not sum_of_blocks(term, (x.detach(), y.detach()), ROWS, block).requires_grad
    value = sum_of_blocks(lambda some, x, y: y[some].square().sum(), (x, y), ROWS, block)
    found = torch.autograd.grad(value, (x, y), materialize_grads=True)
    assert not found[0].any() and torch.equal(found[1], 2 * y.detach())
    constant = sum_of_blocks(lambda some, x, y: y[some].detach().sum(), (x, y), ROWS, block)
    assert constant.item() == pytest.approx(y.sum().item(), rel=1e-12)


def test_a_second_derivative_of_blocks_is_refused() -> None:
    x, y = inputs()
    value = sum_of_blocks(term, (x, y), ROWS, 2)
    (gradient,) = torch.autograd.grad(value.square(), x, create_graph=True)
    with pytest.raises(RelgraphError, match="first derivative only"):
        torch.autograd.backward(gradient.sum())
