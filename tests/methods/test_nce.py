"""NCE against a loop over anchors and candidates, and against the numbers of the code of EGA."""

import math
import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.topology import ALL_PAIRS, Given, Nearest, Rule
from relgraph.methods import NCE, Batch, Output
from relgraph.methods.nce import same_class
from tests.methods.golden import check, embeddings

N, D = 7, 5
EDGES = [(1, 0), (2, 0), (6, 3), (0, 5), (3, 6)]  # (neighbour, anchor)
OWN = [(i, i) for i in range(N)]
LABELS = {
    "all known": [0, 1, 2, 0, 1, 1, 2],
    "some unknown": [0, -1, 2, 0, -1, 1, 2],
    "all unknown": [-1] * N,
    "one class": [3] * N,
}
each_labels = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


def batch(labels: list[int]) -> Batch:
    return Batch(torch.arange(len(labels)), torch.tensor(labels))


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(N, D).double().requires_grad_(), torch.randn(N, D).double()


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(float.__mul__, a, b)) / math.hypot(*a) / math.hypot(*b)


def neighbours(teacher: Tensor, k: int) -> list[tuple[int, int]]:
    """Return the edges (neighbour, anchor) of each teacher's k most similar others."""
    rows, edges = teacher.tolist(), []
    for i, a in enumerate(rows):
        others = sorted((j for j in range(N) if j != i), key=lambda j: -cosine(a, rows[j]))
        edges += [(j, i) for j in others[:k]]
    return edges


def loop(student: Tensor, teacher: Tensor, labels: list[int], edges: list[tuple[int, int]], tau: float) -> float:
    """Return the loss over the candidates (teacher node, student anchor)."""
    s, t, total = student.tolist(), teacher.tolist(), 0.0
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        weights = {j: math.exp(cosine(s[i], t[j]) / tau) for j in mine}
        p = {j: weight / sum(weights.values()) for j, weight in weights.items()}
        positive = [j for j in mine if j == i or (labels[i] >= 0 and labels[i] == labels[j])]
        negative = [j for j in mine if j not in positive]
        total += sum(-math.log(p[j] + 1e-10) for j in positive) / len(positive)
        if negative:
            total += sum(-math.log(1 - p[j] + 1e-10) for j in negative) / len(negative)
    return total / N


@each_labels
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_all_pairs_are_a_loop(labels: list[int], tau: float) -> None:
    student, teacher = vectors()
    expected = loop(student, teacher, labels, [(j, i) for i in range(N) for j in range(N)], tau)
    assert NCE(tau)(student, teacher, batch(labels)).item() == pytest.approx(expected, rel=1e-10)


@each_labels
@pytest.mark.parametrize("k", [1, 3, 6])
def test_nearest_neighbours_are_a_loop(labels: list[int], k: int) -> None:
    student, teacher = vectors()
    expected = loop(student, teacher, labels, OWN + neighbours(teacher, k), 0.1)
    assert NCE(graph=Nearest(k))(student, teacher, batch(labels)).item() == pytest.approx(expected, rel=1e-10)


@each_labels
def test_given_edges_are_a_loop(labels: list[int]) -> None:
    student, teacher = vectors()
    expected = loop(student, teacher, labels, OWN + EDGES, 0.1)
    found = NCE(graph=torch.tensor(EDGES).T)(student, teacher, batch(labels))
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
def test_official_value_and_gradient(rule: Rule) -> None:
    student, teacher = embeddings()
    labels = batch([i % 4 for i in range(8)])
    check("nce_tau0.1", lambda: NCE(graph=rule)(student, teacher, labels), {"student": student})


def test_the_features_may_be_its_nodes() -> None:
    student, teacher = (Output(torch.randn(N, 3), feature=x) for x in vectors())
    assert student.feature is not None and teacher.feature is not None
    expected = NCE()(student.feature, teacher.feature, batch(LABELS["all known"]))
    assert torch.equal(NCE(nodes="feature")(student, teacher, batch(LABELS["all known"])), expected)
    assert NCE().reads == ("embedding", "labels") and NCE(nodes="feature").reads == ("feature", "labels")


@each_labels
@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3), Given(torch.tensor(EDGES).T)], ids=["dense", "knn", "given"])
def test_gradcheck(rule: Rule, labels: list[int]) -> None:
    student, teacher = vectors()
    assert torch.autograd.gradcheck(lambda s: NCE(graph=rule)(s, teacher, batch(labels)), (student,))


def test_which_images_are_of_one_class() -> None:
    labels = [2, -1, 2, 0, -1]
    expected = [[i == j or (a == b and a >= 0) for j, b in enumerate(labels)] for i, a in enumerate(labels)]
    assert same_class(torch.tensor(labels)).tolist() == expected


@pytest.mark.parametrize("tau", [0.1, 1e-3])
def test_certain_anchors_stay_finite(tau: float) -> None:
    """A softmax that rounds to 0 and 1, on the wrong images."""
    student = torch.eye(4, requires_grad=True)
    value = NCE(tau)(student, torch.eye(4).roll(1, 0), batch([0, 1, 2, 3]))
    assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize(
    ("widths", "given", "message"),
    [
        (
            (4, 4),
            None,
            "NCE reads labels: expected a Batch(indices, labels) as the third argument, got none",
        ),
        (
            (4, 5),
            batch([0, 1, 2]),
            "matching nodes needs embeddings of one width: project student and teacher to it, got 4 and 5",
        ),
        ((4, 4), batch([0]), "labels must be one for each of the 3 images, got (1,)"),
        ((4, 4), batch([0, 1, 2, 3]), "labels must be one for each of the 3 images, got (4,)"),
    ],
)
def test_batches_are_checked(widths: tuple[int, int], given: Batch | None, message: str) -> None:
    student, teacher = (torch.randn(3, width) for width in widths)
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        NCE()(student, teacher, given)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_its_temperature_is_positive(tau: float) -> None:
    with pytest.raises(RelgraphError, match=f"^tau must be above 0, got {tau}$"):
        NCE(tau)
