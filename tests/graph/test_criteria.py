"""Scales and criteria against their formulas in numpy, and on edge lists against all pairs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import (
    Criterion,
    anchor_square,
    cross_entropy,
    frobenius,
    half_square,
    huber,
    kl,
    mean_square,
    sum_square,
)
from relgraph.graph.scales import (
    Scale,
    by_anchor_norm,
    by_anchor_sum,
    by_constant_max,
    by_max,
    by_mean,
    by_norm,
    raw,
    softmax,
)
from relgraph.graph.topology import ALL_PAIRS, Edges, Topology
from tests.checks import assert_refused, case

Array = np.ndarray[Any, np.dtype[np.float64]]
# Each scale with its formula, of the weights of one anchor and of all anchors.
SCALED: dict[str, tuple[Scale, Callable[[Array, Array], Array]]] = {
    "raw": (raw, lambda row, every: row),
    "by_mean": (by_mean, lambda row, every: row / every[every > 0].mean()),
    "by_max": (by_max, lambda row, every: row / every.max()),
    "by_constant_max": (by_constant_max, lambda row, every: row / every.max()),
    "by_norm": (by_norm, lambda row, every: row / np.linalg.norm(every)),
    "by_anchor_norm": (by_anchor_norm, lambda row, every: row / np.linalg.norm(row)),
    "by_anchor_sum": (by_anchor_sum, lambda row, every: row / row.sum()),
    "softmax": (softmax(0.3), lambda row, every: np.log(np.exp(row / 0.3) / np.exp(row / 0.3).sum())),
}
# Each criterion with its formula, of the weights of all anchors, (N, M), in the student and in the teacher.
COMPARED: dict[str, tuple[Criterion, Callable[[Array, Array], Any]]] = {
    "frobenius": (frobenius, lambda s, t: np.linalg.norm(s - t)),
    "mean_square": (mean_square, lambda s, t: ((s - t) ** 2).mean()),
    "sum_square": (sum_square, lambda s, t: ((s - t) ** 2).sum()),
    "anchor_square": (anchor_square, lambda s, t: ((s - t) ** 2).sum() / len(s)),
    "half_square": (half_square, lambda s, t: ((s - t) ** 2).sum() / 2 / len(s)),
    "huber": (huber, lambda s, t: np.where(abs(s - t) < 1, (s - t) ** 2 / 2, abs(s - t) - 0.5).mean()),
    "kl": (kl, lambda s, t: (t * np.log((t + 1e-7) / (s + 1e-7))).mean()),
    "cross_entropy": (cross_entropy, lambda s, t: -(np.exp(t) * s).sum() / len(s)),
}
SCALES = {name: scale for name, (scale, _) in SCALED.items()}
CRITERIA = {name: criterion for name, (criterion, _) in COMPARED.items()}


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
def test_scale_equals_its_formula(name: str) -> None:
    weights = torch.rand(4, 6).double()
    weights[0, :2] = torch.tensor([0.0, -0.3])
    scale, formula = SCALED[name]
    expected = torch.from_numpy(np.stack([formula(row, weights.numpy()) for row in weights.numpy()]))
    torch.testing.assert_close(scale(weights, ALL_PAIRS), expected)
    graphs = torch.stack([weights, 2 * weights]).float()  # each graph of a batch by itself, of the same type
    torch.testing.assert_close(scale(graphs, ALL_PAIRS), torch.stack([scale(graph, ALL_PAIRS) for graph in graphs]))


@pytest.mark.parametrize("name", CRITERIA)
def test_criterion_equals_its_formula(name: str) -> None:
    student, teacher = torch.rand(2, 4, 6).double() * (4 if name == "huber" else 1)
    criterion, formula = COMPARED[name]
    expected = formula(student.numpy(), teacher.numpy())
    assert criterion(student, teacher, ALL_PAIRS).item() == pytest.approx(expected, rel=1e-12)


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
                given = (student.requires_grad_(),)
                assert torch.autograd.gradcheck(lambda s, loss=loss: loss(student=s), given, fast_mode=True)


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
