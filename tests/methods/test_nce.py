"""NCE against a loop over anchors and candidates, CCL against NCE and a loop over classes, and EGA's code's numbers."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from relgraph.graph.topology import ALL_PAIRS, Nearest
from relgraph.methods import CCL, NCE, Output
from tests.checks import case
from tests.methods.golden import batch, check, embeddings, graphs_with_edges, logits, vectors

N, D = 7, 5
FOUR_CLASSES = batch([0, 1, 2, 3] * 2)
LABELS = {
    "all known": [0, 1, 2, 0, 1, 1, 2],
    "some unknown": [0, -1, 2, 0, -1, 1, 2],
    "all unknown": [-1] * N,
    "one class": [3] * N,
}


def loop(student: Tensor, teacher: Tensor, labels: list[int], edges: list[tuple[int, int]], tau: float) -> Tensor:
    """Return the loss over the candidates (teacher node, student anchor)."""
    terms = []
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        p = (torch.stack([cosine_similarity(student[i], teacher[j], dim=0) for j in mine]) / tau).softmax(0)
        positive = torch.tensor([j == i or (labels[i] >= 0 and labels[i] == labels[j]) for j in mine])
        terms.append(-(p[positive] + 1e-10).log().mean())
        if not positive.all():
            terms.append(-(1 - p[~positive] + 1e-10).log().mean())
    return torch.stack(terms).sum() / N


def test_value_is_that_of_a_loop() -> None:
    student, teacher = vectors(N, D, D)
    for graph, edges in graphs_with_edges(list(teacher), lambda a, b: -float(cosine_similarity(a, b, dim=0))):
        for known, labels in LABELS.items():
            for tau in (0.1, 0.5):
                with case(graph, known, tau):
                    expected = loop(student, teacher, labels, edges, tau)
                    found = NCE(tau, graph=graph)(student, teacher, batch(labels))
                    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_certain_anchors_stay_finite() -> None:
    """A softmax that rounds to 0 and 1, on the wrong images."""
    for tau in (0.1, 1e-3):
        student = torch.eye(4, requires_grad=True)
        value = NCE(tau)(student, torch.eye(4).roll(1, 0), batch([0, 1, 2, 3]))
        assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all(), tau


# CCL


def outputs() -> tuple[Output, Output]:
    nodes, scores = embeddings(), logits()
    return Output(nodes[0], scores[0]), Output(nodes[1], scores[1])


def half_jeffreys(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z.exp() / z.exp().sum(1, keepdim=True) for z in (student, teacher))
    return ((s - t) * (s / t).log()).sum() / 2 / len(student)


def test_official_value_and_gradient_of_ccl() -> None:
    student, teacher = outputs()
    assert student.logits is not None
    inputs = {"student": student.embedding, "student_logits": student.logits}
    check("ccl", lambda: CCL()(student, teacher, FOUR_CLASSES), inputs)


def test_the_terms_of_ccl_are_nce_and_half_the_jeffreys_divergence() -> None:
    student, teacher = outputs()
    for rule in (ALL_PAIRS, Nearest(3)):
        terms = CCL(0.3, graph=rule).terms(student, teacher, FOUR_CLASSES)
        assert torch.equal(terms["nce"], NCE(0.3, graph=rule)(student, teacher, FOUR_CLASSES))
    assert student.logits is not None and teacher.logits is not None
    torch.testing.assert_close(terms["jeffreys"], half_jeffreys(student.logits, teacher.logits), rtol=1e-12, atol=0)
