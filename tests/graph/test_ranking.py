"""Weights in the teacher's order against Python's sort, and differences of one anchor's edges in blocks."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from relgraph.graph import blocks
from relgraph.graph.ranking import by_differences, differences, ranked
from tests.checks import case
from tests.graph.test_factored import with_gradient


def test_the_order_is_that_of_pythons_sort() -> None:
    student, teacher = torch.randn(5, 7), torch.randn(5, 7).round()  # some are equal: the first comes first
    for length in (None, 1, 4, 7, 20):
        s, t = ranked(student, teacher, length)
        for i in range(5):
            order = sorted(range(7), key=lambda j: -teacher[i, j].item())[:length]
            assert s[i].tolist() == student[i, order].tolist() and t[i].tolist() == teacher[i, order].tolist()


def test_what_float32_cannot_tell_apart_is_equal() -> None:
    teacher = torch.tensor([0.5, 0.5 + 1e-12, 0.7]).double()
    assert ranked(torch.arange(3.0).double(), teacher)[0].tolist() == [2, 0, 1]


def test_differences_are_those_of_a_double_loop() -> None:
    x, y = torch.randn(2, 3, 4)
    for others, wanted in ((None, x), (y, y)):
        found = differences(x, others)
        assert all(found[i, m, n] == x[i, n] - wanted[i, m] for i in range(3) for m in range(4) for n in range(4))


def row(s: Tensor, t: Tensor) -> Tensor:
    return (differences(s).sin() * differences(t, s).cos()).sum((-2, -1))


def test_blocks_of_anchors_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    weight, change = torch.randn(6).double(), torch.randn(6, 4).double()

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return by_differences(row, s, t) @ weight

    def found() -> list[object]:
        moved = jvp(partial(loss, t=teacher), (student,), (change,))
        graphs = torch.stack([student, teacher]), torch.stack([teacher, student])
        every = vmap(loss)(*graphs), vmap(grad(loss, argnums=(0, 1)))(*graphs)
        return [with_gradient(loss, student, teacher), grad(loss)(student, teacher), moved, every]

    expected = found()
    for largest in (1, 40):
        monkeypatch.setattr(blocks, "LARGEST", largest)
        with case(largest):
            torch.testing.assert_close(found(), expected, rtol=1e-12, atol=1e-12)
            values = by_differences(row, student, teacher)
            torch.testing.assert_close(by_differences(row, student[2], teacher[2]), values[2])
            assert by_differences(row, student[:, :0], teacher[:, :0]).tolist() == [0] * 6
            assert not by_differences(row, student, teacher).requires_grad
            assert torch.autograd.gradcheck(loss, (student.clone().requires_grad_(), teacher))
