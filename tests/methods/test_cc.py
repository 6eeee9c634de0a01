"""CC against the authors' and third parties' numbers, loops in Python's floats, and its dense form."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from relgraph.graph.criteria import frobenius
from relgraph.graph.kernels import Kernel, gaussian_taylor, identity, linear
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Nearest
from relgraph.methods.base import Output
from relgraph.methods.cc import CC, Correlation
from tests.checks import assert_refused, case
from tests.methods import golden
from tests.methods.golden import vectors

N, D, WIDE = 7, 5, 6
EDGE_INDEX = torch.tensor([[1, 2, 6, 0, 3], [0, 0, 3, 5, 6]])
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


def loop(student: Tensor, teacher: Tensor, correlation: Correlation, unit_length: bool, k: int | None = None) -> float:
    """Return the loss over all pairs, or over the teacher's k most correlated others of each and itself."""
    s, t = (
        [[correlated(x, y, correlation, unit_length) for y in side.tolist()] for x in side.tolist()]
        for side in (student, teacher)
    )
    squares = []
    for i in range(N):
        others = sorted((j for j in range(N) if j != i), key=lambda j: -t[i][j])
        squares += [(s[i][j] - t[i][j]) ** 2 for j in [i, *others[:k]]]
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
    for unit_length, k in product((True, False), (None, 1, 3)):
        with case(unit_length, k):
            student, teacher = nodes()
            graph = "dense" if k is None else Nearest(k)
            found = CC(correlation, order=3, unit_length=unit_length, graph=graph).terms(student, teacher)
            expected = loop(student, teacher, correlation, unit_length, k)
            assert {name: term.item() for name, term in found.items()} == pytest.approx({"cc": expected}, rel=1e-12)


def test_given_edges_are_those_and_each_nodes_own() -> None:
    student, teacher = nodes()
    s, t = student @ student.T, teacher @ teacher.T
    squares = (s - t).square()
    expected = (squares[EDGE_INDEX[1], EDGE_INDEX[0]].sum() + squares.trace()) / (len(EDGE_INDEX.T) + N)
    torch.testing.assert_close(CC("bilinear", unit_length=False, graph=EDGE_INDEX)(student, teacher), expected)


@pytest.mark.parametrize("correlation", MATRICES)
def test_the_length_of_a_node_changes_nothing_on_unit_vectors(correlation: Correlation) -> None:
    student, teacher = (x.detach() for x in nodes())
    scale = torch.rand(2, N, 1).double() + 0.5
    loss = CC(correlation)
    torch.testing.assert_close(loss(scale[0] * student, scale[1] * teacher), loss(student, teacher))


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
    assert {name: tuple(parameter.shape) for name, parameter in loss.named_parameters()} == {
        "embeds.0.weight": (4, D),
        "embeds.0.bias": (4,),
        "embeds.1.weight": (4, WIDE),
        "embeds.1.bias": (4,),
    }
    assert not list(loss.teacher_parameters())
    assert teacher.grad is None
    assert CC("consecutive", student_width=D, teacher_width=WIDE).embeds[1].weight.shape == (128, WIDE)


def test_nothing_else_has_layers() -> None:
    widths: dict[str, Any] = {"student_width": D, "teacher_width": WIDE}
    assert not any(list(CC(correlation, **widths).parameters()) for correlation in MATRICES)
    assert not list(CC("consecutive").parameters())
    assert not list(CC("consecutive", **widths, nodes="embedding").parameters())


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_the_nodes_are_those_asked_for(correlation: Correlation) -> None:
    student, teacher = (x.detach() for x in nodes(D))
    other = torch.randn(N, 2).double()
    maps = (torch.zeros(N, 1, 2, 2), torch.randn(N, 2, 1, 2).double())
    expected = CC(correlation)(student, teacher)
    features = CC(correlation)(Output(other, feature=student), Output(other, feature=teacher))
    embeddings = CC(correlation, nodes="embedding")(Output(student, feature=other), Output(teacher, feature=other))
    assert torch.equal(features, expected) and torch.equal(embeddings, expected)
    of_maps = CC(correlation, nodes="map")(Output(other, maps=maps), Output(other, maps=(maps[1], 2 * maps[1] ** 2)))
    flat = maps[1].flatten(1)
    torch.testing.assert_close(of_maps, CC(correlation)(flat, 2 * flat**2))
    assert CC(correlation).reads == ("feature",) and CC(correlation, nodes="map").reads == ("map",)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_refined_nodes_are_compared(correlation: Correlation) -> None:
    student, teacher = nodes(D)
    loss = CC(correlation, refinement=Refinement("smooth", D))
    found = loss(student, teacher)
    moved = loss.vectors(Output(student, feature=student), Output(teacher, feature=teacher))
    torch.testing.assert_close(found, CC(correlation)(*moved))
    assert found.item() != pytest.approx(CC(correlation)(student, teacher).item(), rel=1e-6)


def test_what_it_refuses() -> None:
    kinds = "(known: bilinear, consecutive, gaussian, taylor)"
    layers = "the linear layers of the correlation 'consecutive' need student_width and teacher_width"
    four, output = torch.zeros(4, 3), Output(torch.zeros(4, 3))
    assert_refused(
        (lambda: CC("tailor"), f"unknown correlation 'tailor': did you mean 'taylor'? {kinds}"),  # type: ignore[arg-type]
        (lambda: CC(order=-1), "order must be at least 0, got -1"),
        (lambda: CC(rbf_gamma=0), "rbf_gamma must be above 0, got 0"),
        (lambda: CC(key_dim=0), "key_dim must be above 0, got 0"),
        (
            lambda: CC("consecutive", graph="knn"),
            "the correlation 'consecutive' has no graph: expected graph 'dense', got knn",
        ),
        (lambda: CC("consecutive", student_width=64), f"{layers}, got 64 and None"),
        (
            lambda: CC("consecutive")(four, torch.zeros(4, 5)),
            "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5",
        ),
        (
            lambda: CC("consecutive")(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)),
            "consecutive rows are those of one batch (N, D), got (2, 4, 3)",
        ),
        (
            lambda: CC("consecutive", student_width=3, teacher_width=8)(four, torch.zeros(4, 5)),
            "CC was built for widths [3, 8] of student and teacher, got [3, 5]",
        ),
        *((partial(CC(kind), output, output), "CC reads features…") for kind in CORRELATIONS),
    )
