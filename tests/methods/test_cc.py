"""CC against the authors' and third parties' numbers and loops over edges."""

import math
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from relgraph.methods import Output
from relgraph.methods.cc import CC, Correlation
from tests.checks import assert_refused, case
from tests.methods.golden import graphs_with_edges, vectors

N, D, WIDE = 7, 5, 6
CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)
MATRICES: tuple[Correlation, ...] = ("taylor", "gaussian", "bilinear")


def nodes(width: int = WIDE) -> tuple[Tensor, Tensor]:
    return vectors(N, D, width)


def correlated(x: Tensor, y: Tensor, correlation: Correlation, unit_length: bool) -> Tensor:
    if unit_length:
        x, y = x / x.norm(), y / y.norm()
    if correlation == "bilinear":
        return x @ y
    if correlation == "gaussian":
        return torch.exp(-0.4 * (x - y).square().sum())
    return torch.stack([math.exp(-0.8) * 0.8**p / math.factorial(p) * (x @ y) ** p for p in range(4)]).sum()


@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("correlation", MATRICES)
def test_a_matrix_of_correlations_is_a_double_loop(correlation: Correlation, unit_length: bool) -> None:
    student, teacher = nodes()
    related = partial(correlated, correlation=correlation, unit_length=unit_length)
    for graph, edges in graphs_with_edges(list(teacher), lambda x, y: -float(related(x, y))):
        with case(graph):
            found = CC(correlation, order=3, unit_length=unit_length, graph=graph)(student, teacher)
            pairs = [related(student[i], student[j]) - related(teacher[i], teacher[j]) for j, i in edges]
            torch.testing.assert_close(found, torch.stack(pairs).square().mean(), rtol=1e-12, atol=0)


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
