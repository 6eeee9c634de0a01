"""PKT against a double loop over images, and against the authors' own numbers."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from relgraph.methods import PKT
from tests.checks import case
from tests.methods.golden import check, embeddings, graphs_with_edges, vectors

N = 7


def similarity(a: list[float], b: list[float]) -> float:
    product = sum(map(float.__mul__, a, b))
    return (product / (math.hypot(*a) + 1e-7) / (math.hypot(*b) + 1e-7) + 1) / 2


def double_loop(student: Tensor, teacher: Tensor, edges: list[tuple[int, int]]) -> float:
    total = 0.0
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        s, t = ([similarity(x[i], x[j]) for j in mine] for x in (student.tolist(), teacher.tolist()))
        for a, b in zip(s, t, strict=True):
            p, q = b / sum(t), a / sum(s)
            total += p * math.log((p + 1e-7) / (q + 1e-7))
    return total / len(edges)


def test_value_is_that_of_a_double_loop() -> None:
    student, teacher = vectors(N, 5, 6)
    for graph, edges in graphs_with_edges(teacher.tolist(), lambda a, b: -similarity(a, b)):
        with case(graph):
            expected = double_loop(student, teacher, edges)
            assert PKT(graph=graph)(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_official_value_and_gradient() -> None:
    student, teacher = embeddings()
    check("pkt", lambda: PKT()(student, teacher), {"student": student})


def test_opposite_nodes_stay_finite() -> None:
    """Rounding takes a cosine below -1: of 40 pairs some would give the logarithm of a negative number."""
    for dim, dtype in product((1, 3, 64), (torch.float32, torch.bfloat16, torch.float16)):
        for _ in range(40):
            one, other = torch.randn(2, 1, dim)
            student = torch.cat([one, -3 * one]).to(dtype).requires_grad_()
            value = PKT()(student, torch.cat([other, other + 1]).to(dtype))
            assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all(), (dim, dtype)
