"""CCL against NCE and a loop over classes, and against the numbers of the code of EGA."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.graph.topology import ALL_PAIRS, Nearest
from relgraph.methods import CCL, NCE, Batch, Output
from tests.methods.golden import check, embeddings, logits

BATCH = Batch(torch.arange(8), torch.arange(8) % 4)


def outputs() -> tuple[Output, Output]:
    nodes, scores = embeddings(), logits()
    return Output(nodes[0], scores[0]), Output(nodes[1], scores[1])


def half_jeffreys(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (z_s, z_t))
        total += sum((a - b) * math.log(a / b) for a, b in zip(s, t, strict=True))
    return total / 2 / len(student)


def test_official_value_and_gradient() -> None:
    student, teacher = outputs()
    assert student.logits is not None
    inputs = {"student": student.embedding, "student_logits": student.logits}
    check("ccl", lambda: CCL()(student, teacher, BATCH), inputs)


def test_its_terms_are_nce_and_half_the_jeffreys_divergence() -> None:
    student, teacher = outputs()
    for rule in (ALL_PAIRS, Nearest(3)):
        terms = CCL(0.3, graph=rule).terms(student, teacher, BATCH)
        assert torch.equal(terms["nce"], NCE(0.3, graph=rule)(student, teacher, BATCH))
    assert student.logits is not None and teacher.logits is not None
    assert terms["jeffreys"].item() == pytest.approx(half_jeffreys(student.logits, teacher.logits), rel=1e-12)
