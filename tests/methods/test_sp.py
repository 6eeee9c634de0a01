"""SP against a double loop over images, and against the benchmark code's own numbers."""

import math
import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.topology import ALL_PAIRS, Given, Nearest, Rule
from relgraph.methods import SP, Output
from tests.methods.golden import check, embeddings, maps

N = 7
EDGES = [(1, 0), (2, 0), (6, 3), (0, 5), (3, 6)]  # (neighbour, anchor)


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(N, 5).double().requires_grad_(), torch.randn(N, 6).double()


def neighbours(teacher: Tensor, k: int) -> list[tuple[int, int]]:
    """Return the edges (neighbour, anchor) of each row's k others of the largest dot product."""
    rows = teacher.tolist()
    edges = []
    for i, a in enumerate(rows):
        others = sorted((j for j in range(N) if j != i), key=lambda j: -sum(map(float.__mul__, a, rows[j])))
        edges += [(j, i) for j in others[:k]]
    return edges


def double_loop(student: Tensor, teacher: Tensor, edges: list[tuple[int, int]]) -> float:
    """Return the mean over the edges of the squared difference of unit rows."""
    total = 0.0
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        rows = []
        for x in (student.tolist(), teacher.tolist()):
            row = [sum(map(float.__mul__, x[i], x[j])) for j in mine]
            rows.append([value / math.hypot(*row) for value in row])
        total += sum((s - t) ** 2 for s, t in zip(*rows, strict=True))
    return total / len(edges)


OWN = [(i, i) for i in range(N)]


def test_all_pairs_are_a_double_loop() -> None:
    student, teacher = vectors()
    expected = double_loop(student, teacher, [(j, i) for i in range(N) for j in range(N)])
    assert SP(nodes="feature")(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_nearest_neighbours_are_a_double_loop(k: int) -> None:
    student, teacher = vectors()
    expected = double_loop(student, teacher, OWN + neighbours(teacher, k))
    assert SP(graph=Nearest(k), nodes="feature")(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_given_edges_are_a_double_loop() -> None:
    student, teacher = vectors()
    expected = double_loop(student, teacher, OWN + EDGES)
    assert SP(graph=torch.tensor(EDGES).T, nodes="feature")(student, teacher).item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
@pytest.mark.parametrize("nodes", ["feature", "embedding"])
def test_official_value_and_gradient(nodes: str, rule: Rule) -> None:
    student, teacher = embeddings()
    loss = SP(graph=rule, nodes="feature" if nodes == "feature" else "embedding")
    check("sp", lambda: loss(student, teacher), {"student": student})


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
def test_official_value_and_gradient_on_maps(rule: Rule) -> None:
    student, teacher = maps(8, 8, 4, 4, phase=0.5)
    others = maps(8, 4, 8, 8, phase=0)
    bare = torch.zeros(8, 1)

    def loss() -> Tensor:
        value: Tensor = SP(graph=rule)(Output(bare, maps=(others[0], student)), Output(bare, maps=(others[1], teacher)))
        return value

    check("sp_featuremap", loss, {"student": student})


def test_the_scale_of_a_network_and_a_rotation_change_nothing() -> None:
    student, teacher = vectors()
    rotation = torch.linalg.qr(torch.randn(5, 5).double()).Q
    expected = SP(nodes="feature")(student, teacher)
    torch.testing.assert_close(SP(nodes="feature")(1e6 * student @ rotation, 1e-6 * teacher), expected)
    assert SP(nodes="feature")(teacher, 7 * teacher).item() < 1e-28


@pytest.mark.parametrize("value", [1e-30, 1e-12, 1e12, 1e38])
def test_no_scale_is_too_large_or_too_small_for_float32(value: float) -> None:
    s, t = (x.detach() for x in vectors())
    student, teacher = (value / 4 * s).float().requires_grad_(), (value / 4 * t).float()
    found = SP(nodes="feature")(student, teacher)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.item() == pytest.approx(SP(nodes="feature")(s, t).item(), rel=1e-5)
    assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3), Given(torch.tensor(EDGES).T)], ids=["dense", "knn", "given"])
def test_gradcheck(rule: Rule) -> None:
    student, teacher = vectors()
    assert torch.autograd.gradcheck(lambda s: SP(graph=rule, nodes="feature")(s, teacher), (student,))


def test_an_image_of_zeros_is_like_nothing_and_spoils_no_other() -> None:
    student, teacher = (x.detach() for x in vectors())
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


def test_its_term_has_a_name_and_it_reads_the_last_map() -> None:
    assert list(SP(nodes="feature").terms(*vectors())) == ["sp"]
    assert SP().reads == ("map",) and SP.weight == 3000


def test_what_it_refuses() -> None:
    message = (
        "SP reads the last stage map: expected Output(embedding, maps=(...)) "
        "of both networks, or nodes='feature' for vectors"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        SP()(torch.zeros(3, 4), torch.zeros(3, 4))
