"""NCE against a loop over anchors and candidates, and against the numbers of the code of EGA."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.graph.topology import ALL_PAIRS, Given, Nearest, Rule
from relgraph.methods import NCE, Output
from relgraph.methods.nce import same_class
from tests.checks import assert_refused, case
from tests.methods.golden import batch, check, embeddings, nearest, vectors

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


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(float.__mul__, a, b)) / math.hypot(*a) / math.hypot(*b)


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
def test_value_is_that_of_a_loop(labels: list[int]) -> None:
    student, teacher = vectors(N, D, D)
    graphs: list[tuple[str | Nearest | Tensor, list[tuple[int, int]], float]] = [
        *(("dense", [(j, i) for i in range(N) for j in range(N)], tau) for tau in (0.1, 0.5)),
        *((Nearest(k), OWN + nearest(teacher.tolist(), k, lambda a, b: -cosine(a, b)), 0.1) for k in (1, 3, 6)),
        (torch.tensor(EDGES).T, OWN + EDGES, 0.1),
    ]
    for graph, edges, tau in graphs:
        with case(graph, tau):
            expected = loop(student, teacher, labels, edges, tau)
            assert NCE(tau, graph=graph)(student, teacher, batch(labels)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
def test_official_value_and_gradient(rule: Rule) -> None:
    student, teacher = embeddings()
    labels = batch([i % 4 for i in range(8)])
    check("nce_tau0.1", lambda: NCE(graph=rule)(student, teacher, labels), {"student": student})


def test_the_features_may_be_its_nodes() -> None:
    student, teacher = (Output(torch.randn(N, 3), feature=x) for x in vectors(N, 5, 5))
    assert student.feature is not None and teacher.feature is not None
    expected = NCE()(student.feature, teacher.feature, batch(LABELS["all known"]))
    assert torch.equal(NCE(nodes="feature")(student, teacher, batch(LABELS["all known"])), expected)
    assert NCE().reads == ("embedding", "labels") and NCE(nodes="feature").reads == ("feature", "labels")


@each_labels
def test_gradcheck(labels: list[int]) -> None:
    student, teacher = vectors(N, D, D)
    for rule in (ALL_PAIRS, Nearest(3), Given(torch.tensor(EDGES).T)):
        with case(rule):
            loss = partial(NCE(graph=rule), teacher=teacher, batch=batch(labels))
            assert torch.autograd.gradcheck(loss, (student,), fast_mode=True)


def test_which_images_are_of_one_class() -> None:
    labels = [2, -1, 2, 0, -1]
    expected = [[i == j or (a == b and a >= 0) for j, b in enumerate(labels)] for i, a in enumerate(labels)]
    assert same_class(torch.tensor(labels)).tolist() == expected


def test_certain_anchors_stay_finite() -> None:
    """A softmax that rounds to 0 and 1, on the wrong images."""
    for tau in (0.1, 1e-3):
        student = torch.eye(4, requires_grad=True)
        value = NCE(tau)(student, torch.eye(4).roll(1, 0), batch([0, 1, 2, 3]))
        assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all(), tau


def test_what_it_refuses() -> None:
    x, count = torch.randn(3, 4), "labels must be one for each of the 3 images, got"
    assert_refused(
        (
            lambda: NCE()(x, torch.randn(3, 5), batch([0, 1, 2])),
            "matching nodes needs embeddings of one width: project student and teacher to it, got 4 and 5",
        ),
        (lambda: NCE()(x, x, batch([0])), f"{count} (1,)"),
        (lambda: NCE()(x, x, batch([0, 1, 2, 3])), f"{count} (4,)"),
        *((partial(NCE, tau), f"tau must be above 0, got {tau}") for tau in (0.0, -1.0, math.nan)),
    )
