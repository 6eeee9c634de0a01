"""SP against a double loop over images, and against the benchmark code's own numbers."""

import pytest
import torch
from torch import Tensor

from relgraph.methods import SP, Output
from tests.checks import case
from tests.methods.golden import check, embeddings, graphs_with_edges, maps, value_and_gradient, vectors

N = 7


def double_loop(student: Tensor, teacher: Tensor, edges: list[tuple[int, int]]) -> Tensor:
    """Return the mean over the edges of the squared difference of unit rows."""
    total = torch.zeros(()).double()
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        s, t = (torch.stack([x[i] @ x[j] for j in mine]) for x in (student, teacher))
        total = total + (s / s.norm() - t / t.norm()).square().sum()
    return total / len(edges)


def test_value_is_that_of_a_double_loop() -> None:
    student, teacher = vectors(N, 5, 6)
    for graph, edges in graphs_with_edges(list(teacher), lambda a, b: -float(a @ b)):
        with case(graph):
            found = SP(graph=graph, nodes="feature")(student, teacher)
            torch.testing.assert_close(found, double_loop(student, teacher, edges), rtol=1e-10, atol=0)


def test_official_value_and_gradient() -> None:
    student, teacher = embeddings()
    check("sp", lambda: SP(nodes="feature")(student, teacher), {"student": student})
    student, teacher = maps(8, 8, 4, 4, phase=0.5)
    others = maps(8, 4, 8, 8, phase=0)
    bare = torch.zeros(8, 1)

    def loss() -> Tensor:
        value: Tensor = SP()(Output(bare, maps=(others[0], student)), Output(bare, maps=(others[1], teacher)))
        return value

    check("sp_featuremap", loss, {"student": student})


def test_no_scale_is_too_large_or_too_small_for_float32() -> None:
    s, t = (x.detach() for x in vectors(N, 5, 6))
    expected = SP(nodes="feature")(s, t).item()
    for value in (1e-30, 1e-12, 1e12, 1e38):
        with case(value):
            student, teacher = (value / 4 * s).float().requires_grad_(), (value / 4 * t).float()
            found, gradient = value_and_gradient(SP(nodes="feature"), student, teacher)
            assert found.item() == pytest.approx(expected, rel=1e-5)
            assert gradient.isfinite().all() and gradient.any()


def test_an_image_of_zeros_is_like_nothing_and_spoils_no_other() -> None:
    student, teacher = (x.detach() for x in vectors(N, 5, 6))
    zeroed = student.clone()
    zeroed[2] = 0
    zeroed.requires_grad_()
    value = SP(nodes="feature")(zeroed, teacher)
    (gradient,) = torch.autograd.grad(value, zeroed)
    # Its row is 0 in the student and a unit row in the teacher: 1 / N^2 of the loss.
    rest = 0.0
    for i in (j for j in range(N) if j != 2):
        rows = (zeroed[i] @ zeroed.T, teacher[i] @ teacher.T)
        rest += (rows[0] / rows[0].norm() - rows[1] / rows[1].norm()).square().sum().item()
    assert value.item() == pytest.approx((rest + 1) / N**2, rel=1e-12)
    assert gradient.isfinite().all() and gradient[3].any()
