"""CC against the authors' and third parties' numbers, loops in Python's floats, and its dense form."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from relgraph.graph.criteria import frobenius
from relgraph.graph.kernels import Kernel, gaussian_taylor, identity, linear
from relgraph.graph.relation import Relation
from relgraph.methods import Output
from relgraph.methods.cc import CC, Correlation
from tests.checks import assert_refused, case
from tests.methods import golden
from tests.methods.golden import graphs_with_edges, vectors

N, D, WIDE = 7, 5, 6
CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)
MATRICES: tuple[Correlation, ...] = ("taylor", "gaussian", "bilinear")
OFFICIAL: dict[str, CC] = {
    **{f"cc_rbf_taylor_g0.4_P{p}": CC(order=p) for p in (1, 2, 3, 5)},
    "cc_rbf_exact_g0.4 (P->inf)": CC("gaussian"),
    "cc_bilinear_raw": CC("bilinear", unit_length=False),
    "cc_bilinear_l2normalised": CC("bilinear"),
    "cc_repdistiller": CC("consecutive"),
}
UNNORMALISED_TAYLOR = replace(gaussian_taylor(0.4, 2), prepare=identity)


def nodes(width: int = WIDE) -> tuple[Tensor, Tensor]:
    return vectors(N, D, width)


def correlated(x: list[float], y: list[float], correlation: Correlation, unit_length: bool) -> float:
    if unit_length:
        x, y = ([value / math.hypot(*row) for value in row] for row in (x, y))
    product = sum(a * b for a, b in zip(x, y, strict=True))
    if correlation == "bilinear":
        return product
    if correlation == "gaussian":
        return math.exp(-0.4 * sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
    return math.exp(-0.8) * sum(0.8**p / math.factorial(p) * product**p for p in range(4))


def loop(
    student: Tensor, teacher: Tensor, correlation: Correlation, unit_length: bool, edges: list[tuple[int, int]]
) -> float:
    s, t = student.tolist(), teacher.tolist()
    squares = []
    for j, i in edges:
        one, other = (correlated(x[i], x[j], correlation, unit_length) for x in (s, t))
        squares.append((one - other) ** 2)
    return sum(squares) / len(squares)


@pytest.mark.parametrize("key", OFFICIAL)
def test_official_value_and_gradient(key: str) -> None:
    student, teacher = golden.embeddings()
    golden.check(key, lambda: OFFICIAL[key](student, teacher), {"student": student})


@pytest.mark.parametrize(
    ("key", "kernel"), [("cc_torchdistill_gaussian", UNNORMALISED_TAYLOR), ("cc_torchdistill_bilinear", linear)]
)
def test_a_third_partys_norm_is_a_composition_of_the_parts(key: str, kernel: Kernel) -> None:
    student, teacher = golden.embeddings()
    relation = Relation(kernel, criterion=frobenius)
    golden.check(key, lambda: relation(student, teacher) / len(student) ** 2, {"student": student})


@pytest.mark.parametrize("correlation", MATRICES)
def test_a_matrix_of_correlations_is_a_double_loop(correlation: Correlation) -> None:
    for unit_length in (True, False):
        student, teacher = nodes()

        def distance(x: list[float], y: list[float], unit_length: bool = unit_length) -> float:
            return -correlated(x, y, correlation, unit_length)

        for graph, edges in graphs_with_edges(teacher.tolist(), distance):
            with case(unit_length, graph):
                found = CC(correlation, order=3, unit_length=unit_length, graph=graph)(student, teacher)
                expected = loop(student, teacher, correlation, unit_length, edges)
                assert found.item() == pytest.approx(expected, rel=1e-12)


def test_consecutive_rows_are_a_loop_which_depends_on_their_order() -> None:
    student, teacher = (x.detach() for x in nodes(D))
    delta = (student - teacher).abs().tolist()
    expected = sum(a * b for one, other in pairwise(delta) for a, b in zip(one, other, strict=True)) / (N - 1)
    loss = CC("consecutive")
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    order = [1, 0, *range(2, N)]
    assert loss(student[order], teacher[order]).item() != pytest.approx(expected, rel=1e-3)
    assert loss(student, student).item() == 0


def test_consecutive_rows_of_features_pass_through_two_layers_that_the_loss_trains() -> None:
    student, teacher = nodes()
    teacher.requires_grad_()
    loss = CC("consecutive", student_width=D, teacher_width=WIDE, key_dim=4).double()
    first, second = (layer for layer in loss.embeds if isinstance(layer, nn.Linear))
    expected = CC("consecutive")(first(student), second(teacher))
    value = loss(student, teacher)
    torch.testing.assert_close(value, expected)
    torch.autograd.backward(value)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())
    shapes = [(name, tuple(parameter.shape)) for name, parameter in loss.named_parameters()]
    weights, biases = (("embeds.0.weight", (4, D)), ("embeds.1.weight", (4, WIDE))), ("embeds.0.bias", "embeds.1.bias")
    assert shapes == [pair for weight, bias in zip(weights, biases, strict=True) for pair in (weight, (bias, (4,)))]
    assert CC("consecutive", student_width=D, teacher_width=WIDE).embeds[1].weight.shape == (128, WIDE)
    widths: dict[str, Any] = {"student_width": D, "teacher_width": WIDE}
    others = [CC(correlation, **widths) for correlation in MATRICES]
    assert not any(list(other.parameters()) for other in (*others, CC("consecutive", **widths, nodes="embedding")))


def test_what_it_refuses() -> None:
    layers = "the linear layers of the correlation 'consecutive' need student_width and teacher_width, got 64 and None"
    dense = "the correlation 'consecutive' has no graph: expected graph 'dense', got knn"
    width = "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5"
    built = "CC was built for widths [3, 8] of student and teacher, got [3, 5]"
    four, five, solid = torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(2, 4, 3)
    assert_refused(
        (lambda: CC("consecutive", graph="knn"), dense),
        (lambda: CC("consecutive", student_width=64), layers),
        (lambda: CC("consecutive")(four, five), width),
        (lambda: CC("consecutive")(solid, solid), "consecutive rows are those of one batch (N, D), got (2, 4, 3)"),
        (lambda: CC("consecutive", student_width=3, teacher_width=8)(four, five), built),
        *((partial(CC(kind), Output(four), Output(four)), "CC reads features…") for kind in CORRELATIONS),
    )
