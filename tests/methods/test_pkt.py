"""PKT against a double loop over images, and against the authors' own numbers."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.graph.topology import ALL_PAIRS, Nearest, Rule
from relgraph.methods import PKT, Output
from tests.checks import assert_refused, case
from tests.methods.golden import check, embeddings, nearest, vectors

N = 7
EDGES = [(1, 0), (2, 0), (6, 3), (0, 5), (3, 6)]  # (neighbour, anchor)
OWN = [(i, i) for i in range(N)]


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
    graphs: list[tuple[str | Nearest | Tensor, list[tuple[int, int]]]] = [
        ("dense", [(j, i) for i in range(N) for j in range(N)]),
        *((Nearest(k), OWN + nearest(teacher.tolist(), k, lambda a, b: -similarity(a, b))) for k in (1, 3, 6)),
        (torch.tensor(EDGES).T, OWN + EDGES),
    ]
    for graph, edges in graphs:
        with case(graph):
            expected = double_loop(student, teacher, edges)
            assert PKT(graph=graph)(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
def test_official_value_and_gradient(rule: Rule) -> None:
    student, teacher = embeddings()
    check("pkt", lambda: PKT(graph=rule)(student, teacher), {"student": student})


def test_the_embeddings_may_be_its_nodes() -> None:
    student, teacher = (Output(x, feature=torch.randn(N, 3)) for x in vectors(N, 5, 6))
    expected = PKT()(student.embedding, teacher.embedding)
    assert torch.equal(PKT(nodes="embedding")(student, teacher), expected)
    assert PKT().reads == ("feature",) and PKT(nodes="embedding").reads == ("embedding",)


def test_lengths_change_nothing_but_by_epsilon() -> None:
    student, teacher = vectors(N, 5, 6)
    scale = torch.rand(2, N, 1).double() + 0.5
    expected = PKT()(student, teacher)
    torch.testing.assert_close(PKT()(scale[0] * student, scale[1] * teacher), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 512])
def test_opposite_nodes_stay_finite(dim: int) -> None:
    """Rounding takes a cosine below -1: of 100 pairs some would give the logarithm of a negative number."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for _ in range(100):
            one, other = torch.randn(2, 1, dim)
            student = torch.cat([one, -3 * one]).to(dtype).requires_grad_()
            value = PKT()(student, torch.cat([other, other + 1]).to(dtype))
            assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all(), dtype


def test_what_it_refuses() -> None:
    bare = Output(torch.zeros(3, 4))
    assert_refused((lambda: PKT()(bare, bare), "PKT reads features: expected Output(embedding, feature=...)…"))
