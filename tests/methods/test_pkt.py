"""PKT against a double loop over images, and against the authors' own numbers."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.topology import ALL_PAIRS, Given, Nearest, Rule
from relgraph.methods import PKT, Output
from tests.methods.golden import check, embeddings

N = 7
EDGES = [(1, 0), (2, 0), (6, 3), (0, 5), (3, 6)]  # (neighbour, anchor)
OWN = [(i, i) for i in range(N)]


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(N, 5).double().requires_grad_(), torch.randn(N, 6).double()


def similarity(a: list[float], b: list[float]) -> float:
    product = sum(map(float.__mul__, a, b))
    return (product / (math.hypot(*a) + 1e-7) / (math.hypot(*b) + 1e-7) + 1) / 2


def neighbours(teacher: Tensor, k: int) -> list[tuple[int, int]]:
    """Return the edges (neighbour, anchor) of each row's k most similar others."""
    rows, edges = teacher.tolist(), []
    for i, a in enumerate(rows):
        others = sorted((j for j in range(N) if j != i), key=lambda j: -similarity(a, rows[j]))
        edges += [(j, i) for j in others[:k]]
    return edges


def double_loop(student: Tensor, teacher: Tensor, edges: list[tuple[int, int]]) -> float:
    total = 0.0
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        s, t = ([similarity(x[i], x[j]) for j in mine] for x in (student.tolist(), teacher.tolist()))
        for a, b in zip(s, t, strict=True):
            p, q = b / sum(t), a / sum(s)
            total += p * math.log((p + 1e-7) / (q + 1e-7))
    return total / len(edges)


def test_all_pairs_are_a_double_loop() -> None:
    student, teacher = vectors()
    expected = double_loop(student, teacher, [(j, i) for i in range(N) for j in range(N)])
    assert PKT()(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_nearest_neighbours_are_a_double_loop(k: int) -> None:
    student, teacher = vectors()
    expected = double_loop(student, teacher, OWN + neighbours(teacher, k))
    assert PKT(graph=Nearest(k))(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_given_edges_are_a_double_loop() -> None:
    student, teacher = vectors()
    expected = double_loop(student, teacher, OWN + EDGES)
    assert PKT(graph=torch.tensor(EDGES).T)(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
def test_official_value_and_gradient(rule: Rule) -> None:
    student, teacher = embeddings()
    check("pkt", lambda: PKT(graph=rule)(student, teacher), {"student": student})


def test_the_embeddings_may_be_its_nodes() -> None:
    student, teacher = (Output(x, feature=torch.randn(N, 3)) for x in vectors())
    expected = PKT()(student.embedding, teacher.embedding)
    assert torch.equal(PKT(nodes="embedding")(student, teacher), expected)
    assert PKT().reads == ("feature",) and PKT(nodes="embedding").reads == ("embedding",)


def test_lengths_change_nothing_but_by_epsilon() -> None:
    student, teacher = vectors()
    scale = torch.rand(2, N, 1).double() + 0.5
    expected = PKT()(student, teacher)
    torch.testing.assert_close(PKT()(scale[0] * student, scale[1] * teacher), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 2, 3, 64, 512])
def test_opposite_nodes_stay_finite(dim: int, dtype: torch.dtype) -> None:
    """Rounding takes a cosine below -1: of 100 pairs some would give the logarithm of a negative number."""
    for _ in range(100):
        one, other = torch.randn(2, 1, dim)
        student = torch.cat([one, -3 * one]).to(dtype).requires_grad_()
        value = PKT()(student, torch.cat([other, other + 1]).to(dtype))
        assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3), Given(torch.tensor(EDGES).T)], ids=["dense", "knn", "given"])
def test_gradcheck(rule: Rule) -> None:
    student, teacher = vectors()
    assert torch.autograd.gradcheck(lambda s: PKT(graph=rule)(s, teacher), (student,))


def test_its_term_has_a_name_and_a_weight() -> None:
    assert list(PKT().terms(*vectors())) == ["pkt"]
    assert PKT.weight == 30000


def test_what_it_refuses() -> None:
    with pytest.raises(RelgraphError, match=r"^PKT reads features: expected Output\(embedding, feature=...\)"):
        PKT()(Output(torch.zeros(3, 4)), Output(torch.zeros(3, 4)))
    with pytest.raises(RelgraphError, match=r"^embeddings must be \(N, D\), .* got \(3, 4\) and \(2, 4\)$"):
        PKT()(torch.zeros(3, 4), torch.zeros(2, 4))
