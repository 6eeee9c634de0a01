"""Scales and criteria against double loops in Python's floats, and on edge lists against all pairs."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import Criterion, cross_entropy, frobenius, half_square, huber, kl, mean_square, sum_square
from relgraph.graph.scales import Scale, by_anchor_norm, by_anchor_sum, by_constant_max, by_max, by_mean, raw, softmax
from relgraph.graph.topology import ALL_PAIRS, Edges, Topology
from tests.checks import assert_refused, case

Rows = list[list[float]]
SCALES: dict[str, Scale] = {
    "raw": raw,
    "by_mean": by_mean,
    "by_max": by_max,
    "by_constant_max": by_constant_max,
    "by_anchor_norm": by_anchor_norm,
    "by_anchor_sum": by_anchor_sum,
    "softmax": softmax(0.3),
}
CRITERIA: dict[str, Criterion] = {
    "frobenius": frobenius,
    "mean_square": mean_square,
    "sum_square": sum_square,
    "half_square": half_square,
    "huber": huber,
    "kl": kl,
    "cross_entropy": cross_entropy,
}


def naive_scale(name: str, rows: Rows) -> Rows:
    flat = [w for row in rows for w in row]
    positive = [w for w in flat if w > 0]
    result = []
    for row in rows:
        divisor = {
            "raw": 1.0,
            "by_mean": sum(positive) / len(positive),
            "by_max": max(flat),
            "by_constant_max": max(flat),
            "by_anchor_norm": math.sqrt(sum(w * w for w in row)),
            "by_anchor_sum": sum(row),
            "softmax": 1.0,
        }[name]
        if name == "softmax":
            total = sum(math.exp(w / 0.3) for w in row)
            row = [math.log(math.exp(w / 0.3) / total) for w in row]
        result.append([w / divisor for w in row])
    return result


def naive_criterion(name: str, student: Rows, teacher: Rows) -> float:
    pairs = [(s, t) for row_s, row_t in zip(student, teacher, strict=True) for s, t in zip(row_s, row_t, strict=True)]
    if name == "frobenius":
        return math.sqrt(sum((s - t) ** 2 for s, t in pairs))
    if name == "mean_square":
        return sum((s - t) ** 2 for s, t in pairs) / len(pairs)
    if name in ("sum_square", "half_square"):
        total = sum((s - t) ** 2 for s, t in pairs)
        return total if name == "sum_square" else total / 2 / len(student)
    if name == "huber":
        return sum((s - t) ** 2 / 2 if abs(s - t) < 1 else abs(s - t) - 0.5 for s, t in pairs) / len(pairs)
    if name == "kl":
        return sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in pairs) / len(pairs)
    assert name == "cross_entropy", f"no naive loop of {name} here yet"
    return -sum(math.exp(t) * s for s, t in pairs) / len(student)


def every_pair(n: int, m: int) -> Edges:
    """Return all pairs as an edge list in a random order."""
    anchor, candidate = torch.cartesian_prod(torch.arange(n), torch.arange(m))[torch.randperm(n * m)].T
    return Edges(torch.stack([candidate, anchor]), n)


def compared(scale: str, criterion: str, student: Tensor, teacher: Tensor, topology: Topology) -> Tensor:
    s, t = (SCALES[scale](topology.pick(x), topology) for x in (student, teacher))
    # Log-probabilities are what cross_entropy reads, probabilities what kl does.
    if criterion == "kl" and scale == "softmax":
        s, t = s.exp(), t.exp()
    return CRITERIA[criterion](s, t, topology)


@pytest.mark.parametrize("name", SCALES)
def test_scale_equals_a_double_loop(name: str) -> None:
    weights = torch.rand(4, 6).double()
    weights[0, :2] = torch.tensor([0.0, -0.3])
    expected = torch.tensor(naive_scale(name, weights.tolist())).double()
    torch.testing.assert_close(SCALES[name](weights, ALL_PAIRS), expected)


@pytest.mark.parametrize("name", CRITERIA)
def test_criterion_equals_a_double_loop(name: str) -> None:
    student, teacher = torch.rand(2, 4, 6).double() * (4 if name == "huber" else 1)
    expected = naive_criterion(name, student.tolist(), teacher.tolist())
    assert CRITERIA[name](student, teacher, ALL_PAIRS).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_an_edge_list_of_all_pairs_equals_all_pairs(scale: str) -> None:
    student, teacher = torch.rand(2, 5, 7).double()
    student.requires_grad_()
    for criterion in CRITERIA:
        with case(criterion):
            values = [compared(scale, criterion, student, teacher, each) for each in (ALL_PAIRS, every_pair(5, 7))]
            torch.testing.assert_close(*values, rtol=1e-12, atol=1e-14)
            gradients = (torch.autograd.grad(value, student)[0] for value in values)
            torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", [name for name in SCALES if name != "by_constant_max"])
def test_gradcheck(scale: str) -> None:
    student, teacher = torch.rand(2, 3, 4).double() + 0.1
    for criterion in CRITERIA:
        for topology in (ALL_PAIRS, every_pair(3, 4)):
            with case(criterion, topology):
                loss = partial(compared, scale, criterion, teacher=teacher, topology=topology)
                assert torch.autograd.gradcheck(lambda s, loss=loss: loss(student=s), (student.requires_grad_(),))


@pytest.mark.parametrize("scale", SCALES)
def test_weights_of_zero_are_finite_and_graphs_without_edges_differ_by_nothing(scale: str) -> None:
    no_edge = Edges(torch.zeros(2, 0, dtype=torch.long), anchors=3)
    for criterion in CRITERIA:
        for topology in (ALL_PAIRS, every_pair(3, 4), no_edge):
            with case(criterion, topology):
                student = torch.zeros(3, 4, requires_grad=True)
                value = compared(scale, criterion, student, torch.zeros(3, 4), topology)
                (gradient,) = torch.autograd.grad(value, student)
                assert value.isfinite() and gradient.isfinite().all()
                entropy = scale == "softmax" and criterion == "cross_entropy"  # that of a distribution with itself
                assert value.item() == 0 or (entropy and topology is not no_edge)


def test_a_constant_maximum_passes_no_gradient() -> None:
    weights, factors = torch.rand(2, 4, 6).double()
    (gradient,) = torch.autograd.grad((by_constant_max(weights.requires_grad_()) * factors).sum(), weights)
    torch.testing.assert_close(gradient, factors / weights.max().item())


def test_the_frobenius_norm_of_equal_weights_pulls_nothing() -> None:
    for shape in ((4, 5), (7,), (2, 3, 3)):
        student = torch.rand(shape, requires_grad=True)
        value = frobenius(student, student.detach().clone())
        torch.autograd.backward(value)
        assert value.item() == 0
        assert student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("shape", [(1024, 1024), (1_000_000,)])
def test_the_frobenius_norm_of_a_large_graph_keeps_its_digits(shape: tuple[int, ...]) -> None:
    student, teacher = torch.rand(shape), torch.rand(shape)
    exact = (student.double() - teacher.double()).square().sum().sqrt().item()
    assert frobenius(student, teacher).item() == pytest.approx(exact, rel=1e-6)


def test_the_softmax_bears_a_low_temperature() -> None:
    weights = torch.rand(3, 4, requires_grad=True)
    for topology in (ALL_PAIRS, every_pair(3, 4)):
        scaled = softmax(1e-4)(topology.pick(weights), topology)
        (gradient,) = torch.autograd.grad(cross_entropy(scaled, scaled.detach(), topology), weights)
        assert scaled.isfinite().all() and gradient.isfinite().all()


def test_a_temperature_must_be_positive() -> None:
    assert_refused(*((partial(softmax, t), f"a temperature must be positive, got {t}") for t in (0, -0.1, math.nan)))
