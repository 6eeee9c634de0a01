"""CC against the authors' and third parties' numbers, loops in Python's floats, and its dense form."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import frobenius
from relgraph.graph.kernels import Kernel, gaussian_taylor, identity, linear
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Nearest
from relgraph.methods.base import Output
from relgraph.methods.cc import CC, Correlation
from tests.methods import golden

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
    return torch.randn(N, D).double().requires_grad_(), torch.randn(N, width).double()


def value_and_gradient(loss: nn.Module, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(student, teacher)
    return value, torch.autograd.grad(value, student)[0]


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


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("correlation", MATRICES)
def test_a_matrix_of_correlations_is_a_double_loop(correlation: Correlation, unit_length: bool, k: int | None) -> None:
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
def test_all_neighbours_equal_the_dense_form(correlation: Correlation) -> None:
    student, teacher = nodes()
    found, expected = (
        value_and_gradient(CC(correlation, graph=graph), student, teacher) for graph in (Nearest(N - 1), "dense")
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
@pytest.mark.parametrize("correlation", MATRICES)
def test_relabelling_the_batch_changes_nothing(correlation: Correlation, graph: str | Nearest) -> None:
    student, teacher = nodes()
    order = torch.randperm(N)
    loss = CC(correlation, graph=graph)
    value, gradient = value_and_gradient(loss, student, teacher)
    moved, moved_gradient = value_and_gradient(loss, student.detach()[order].requires_grad_(), teacher[order])
    torch.testing.assert_close(moved, value)
    torch.testing.assert_close(moved_gradient, gradient[order])


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


@pytest.mark.parametrize(
    "loss",
    [
        *(CC(correlation, student_width=D, teacher_width=WIDE) for correlation in MATRICES),
        CC("consecutive"),
        CC("consecutive", student_width=D, teacher_width=WIDE, nodes="embedding"),
    ],
)
def test_nothing_else_has_layers(loss: CC) -> None:
    assert not list(loss.parameters())


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


@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("correlation", MATRICES)
def test_gradcheck(correlation: Correlation, unit_length: bool, graph: str | Nearest) -> None:
    student, teacher = nodes()
    loss = CC(correlation, unit_length=unit_length, graph=graph)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


def test_gradcheck_of_consecutive_rows() -> None:
    student, teacher = nodes()
    loss = CC("consecutive", student_width=D, teacher_width=WIDE, key_dim=3).double()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


@pytest.mark.parametrize("graph", ["dense", "sparse"])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_the_teacher_receives_no_gradient_and_the_loss_is_pure(correlation: Correlation, graph: str | Nearest) -> None:
    student, teacher = nodes(D)
    teacher.requires_grad_()
    loss = CC(correlation, graph=Nearest(2) if graph == "sparse" and correlation != "consecutive" else "dense")
    first, second = (value_and_gradient(loss, student, teacher) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert first[1].any()
    torch.autograd.backward(loss(student, teacher))
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_relations_are_float32_under_autocast(correlation: Correlation, dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype).requires_grad_() for x in nodes())
    loss = CC(correlation, student_width=D, teacher_width=WIDE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss, student, teacher)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert torch.equal(value, loss(student.float(), teacher.float()))
    torch.testing.assert_close(value.double(), loss.double()(student.double(), teacher.double()), rtol=1e-5, atol=1e-6)


DEGENERATE = {
    "a constant row": torch.cat([torch.randn(3, D), torch.full((1, D), 0.1)]),
    "a row of zeros": torch.cat([torch.randn(3, D), torch.zeros(1, D)]),
    "two equal rows": torch.randn(3, D)[[0, 1, 1, 2]],
    "all rows equal": torch.randn(1, D).repeat(4, 1),
    "all zeros": torch.zeros(4, D),
    "one image": torch.randn(1, D),
    "one dimension": torch.randn(4, 1),
    "float16": torch.randn(4, D).half(),
    "bfloat16": torch.randn(4, D).bfloat16(),
}


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_degenerate_batches_give_finite_values_and_gradients(
    correlation: Correlation, unit_length: bool, case: str, who: str
) -> None:
    bad = DEGENERATE[case]
    good = torch.randn(bad.shape).to(bad.dtype)
    student = (good if who == "teacher" else bad).clone().requires_grad_()
    teacher = good if who == "student" else bad
    graphs: list[str | Nearest] = ["dense"] if correlation == "consecutive" or len(bad) == 1 else ["dense", Nearest(1)]
    for graph in graphs:
        loss = CC(correlation, unit_length=unit_length, graph=graph)
        value, gradient = value_and_gradient(loss, student, teacher)
        assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 65504), (torch.bfloat16, 1e38)])
@pytest.mark.parametrize("correlation", MATRICES)
def test_the_largest_numbers_of_half_precision_are_no_obstacle(
    correlation: Correlation, dtype: torch.dtype, size: float
) -> None:
    student = (size * torch.randn(4, D).sign()).to(dtype).requires_grad_()
    value, gradient = value_and_gradient(CC(correlation), student, student.detach()[[1, 2, 3, 0]])
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"correlation": "tailor"},
            "unknown correlation 'tailor': did you mean 'taylor'? (known: bilinear, consecutive, gaussian, taylor)",
        ),
        ({"order": -1}, "order must be at least 0, got -1"),
        ({"rbf_gamma": 0}, "rbf_gamma must be above 0, got 0"),
        ({"key_dim": 0}, "key_dim must be above 0, got 0"),
        (
            {"nodes": "featur"},
            "unknown nodes 'featur': did you mean 'feature'? (known: embedding, feature, map)",
        ),
        ({"graph": "dnse"}, "unknown graph 'dnse': did you mean 'dense'? (known: dense, knn)"),
        (
            {"correlation": "consecutive", "graph": "knn"},
            "the correlation 'consecutive' has no graph: expected graph 'dense', got knn",
        ),
        (
            {"correlation": "consecutive", "student_width": 64},
            "the linear layers of the correlation 'consecutive' need student_width and teacher_width, got 64 and None",
        ),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        CC(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "shapes", "message"),
    [
        (
            CC(),
            ((4, 3), (5, 3)),
            "embeddings must be (N, D), student and teacher of the same N images, got (4, 3) and (5, 3)",
        ),
        (
            CC("consecutive"),
            ((4, 3), (4, 5)),
            "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5",
        ),
        (CC("consecutive"), ((2, 4, 3), (2, 4, 3)), "consecutive rows are those of one batch (N, D), got (2, 4, 3)"),
        (
            CC("consecutive", student_width=3, teacher_width=8),
            ((4, 3), (4, 5)),
            "CC was built for widths [3, 8] of student and teacher, got [3, 5]",
        ),
        (CC(graph="knn"), ((4, 3), (4, 3)), "k must be between 1 and the number of nodes less one, 3, got 8"),
    ],
)
def test_nodes_are_checked(loss: CC, shapes: tuple[tuple[int, ...], tuple[int, ...]], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_a_missing_feature_is_told(correlation: Correlation) -> None:
    output = Output(torch.zeros(4, 3))
    with pytest.raises(RelgraphError, match="CC reads features"):
        CC(correlation)(output, output)
