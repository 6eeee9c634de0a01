"""CCL against NCE and a loop over classes, and against the numbers of the code of EGA."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.graph.topology import ALL_PAIRS, Nearest, Rule
from relgraph.methods import CCL, NCE, Batch, Output
from tests.checks import assert_refused
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


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(7)], ids=str)
def test_official_value_and_gradient(rule: Rule) -> None:
    student, teacher = outputs()
    assert student.logits is not None
    inputs = {"student": student.embedding, "student_logits": student.logits}
    check("ccl", lambda: CCL(graph=rule)(student, teacher, BATCH), inputs)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3)], ids=str)
def test_its_terms_are_nce_and_half_the_jeffreys_divergence(rule: Rule) -> None:
    student, teacher = outputs()
    terms = CCL(0.3, graph=rule).terms(student, teacher, BATCH)
    assert list(terms) == ["nce", "jeffreys"]
    assert torch.equal(terms["nce"], NCE(0.3, graph=rule)(student, teacher, BATCH))
    assert student.logits is not None and teacher.logits is not None
    assert terms["jeffreys"].item() == pytest.approx(half_jeffreys(student.logits, teacher.logits), rel=1e-12)


def test_it_sees_both_networks_alike_in_their_logits_alone() -> None:
    student, teacher = outputs()
    one, other = (CCL().terms(*pair, BATCH) for pair in ((student, teacher), (teacher, student)))
    torch.testing.assert_close(one["jeffreys"], other["jeffreys"])
    assert not torch.isclose(one["nce"], other["nce"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_of_half_precision_are_finite(dtype: torch.dtype) -> None:
    nodes = torch.eye(3)
    extreme = torch.tensor([[65504.0, -65504.0], [1.0, 2.0], [-65504.0, 65504.0]]).to(dtype)
    student = extreme.clone().requires_grad_()
    batch = Batch(torch.arange(3), torch.arange(3))
    value = CCL().terms(Output(nodes, student), Output(nodes, extreme.flip(1)), batch)["jeffreys"]
    assert value.dtype == torch.float32 and value.isfinite()
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_what_it_refuses() -> None:
    student, teacher = outputs()
    assert_refused(
        (lambda: CCL()(student.embedding, teacher.embedding, BATCH), "CCL reads logits…"),
        (lambda: CCL(0), "tau must be above 0, got 0"),
    )
