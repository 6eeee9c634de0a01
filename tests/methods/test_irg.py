"""IRG against the authors' and a third party's numbers, loops in Python's floats, and its dense form."""

import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import half_square
from relgraph.graph.kernels import squared_euclidean
from relgraph.graph.refine import Refinement
from relgraph.graph.scales import by_constant_max
from relgraph.graph.topology import Nearest, Rule
from relgraph.methods.base import Output, Part
from relgraph.methods.irg import FORMS, IRG, Form, transition
from tests.methods import golden

N = 6
Rows = list[list[float]]
EDGE_INDEX = torch.tensor([[1, 2, 5, 0, 3], [0, 0, 3, 5, 4]])
each_form = pytest.mark.parametrize("form", FORMS)


def edge_only(form: Form = "max", levels: int = 1, graph: str | Tensor | Rule = "dense") -> IRG:
    return IRG(0, 1, 0, form=form, levels=levels, graph=graph)


def whole(form: Form, graph: str | Tensor | Rule = "dense") -> IRG:
    """Return the sum of all terms there are, of which the forms have some at weight 0."""
    return IRG(0.1, 5, 5, form=form, edge_transition_weight=0.3, graph=graph)


def transition_only(form: Form = "max") -> IRG:
    return IRG(0, 0, 1, form=form)


def outputs(width: int = 5) -> tuple[Output, Output]:
    """Return student and teacher with maps of the stem and of two stages; all of the student's are leaves."""

    def output(channels: int, width: int) -> Output:
        maps = (torch.randn(N, 2, 8, 8), torch.randn(N, channels, 4, 4), torch.randn(N, 2 * channels, 2, 2))
        return Output(
            torch.randn(N, 3).double(),
            torch.randn(N, 4).double(),
            torch.randn(N, width).double(),
            tuple(stage.double() for stage in maps),
        )

    student = output(2, width)
    for leaf in leaves(student):
        leaf.requires_grad_()
    return student, output(3, 7)


def leaves(output: Output) -> list[Tensor]:
    assert output.logits is not None and output.feature is not None
    return [output.logits, output.feature, *output.maps[-2:]]


def reordered(output: Output, order: Tensor) -> Output:
    assert output.logits is not None and output.feature is not None
    return Output(
        output.embedding[order],
        output.logits[order],
        output.feature[order],
        tuple(stage[order] for stage in output.maps),
    )


def value_and_gradients(loss: IRG, student: Output, teacher: Output) -> list[Tensor]:
    value = loss(student, teacher)
    gradients = torch.autograd.grad(value, leaves(student), allow_unused=True)
    return [value, *(torch.zeros(1) if gradient is None else gradient for gradient in gradients)]


def distance(x: list[float], y: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def difference(student: list[float], teacher: list[float], form: Form, anchors: int) -> float:
    """Return the difference of two lists of weights as the form has it."""
    if form != "literal":
        student, teacher = ([value / max(side) for value in side] for side in (student, teacher))
    total = distance(student, teacher)
    return {"max": total / len(student), "caffe": total / (2 * anchors), "literal": total}[form]


def level_difference(student: Rows, teacher: Rows, edges: list[tuple[int, int]], form: Form) -> float:
    """Return the difference of the distances of two levels over edges (anchor, candidate)."""
    s, t = ([distance(x[i], x[j]) for i, j in edges] for x in (student, teacher))
    return difference(s, t, form, N)


def edges_of(teacher: Rows, k: int | None) -> list[tuple[int, int]]:
    """Return all pairs, or each node with itself and with the teacher's k nearest others."""
    found = []
    for i in range(N):
        others = sorted((j for j in range(N) if j != i), key=lambda j: distance(teacher[i], teacher[j]))
        found += [(i, j) for j in [i, *others[:k]]]
    return found


def levels_of(output: Output, count: int) -> list[Rows]:
    assert output.feature is not None
    levels = [output.feature, *output.maps[::-1]][:count]
    return [level.flatten(1).tolist() for level in levels]


def way(output: Output) -> list[float]:
    """Return each image's squared distance between its last two maps, position by position."""
    earlier, later = (stage.tolist() for stage in output.maps[-2:])
    found = []
    for before, after in zip(earlier, later, strict=True):
        total = 0.0
        for c, channel in enumerate(before):
            for h in range(2):
                for w in range(2):
                    block = [channel[2 * h + a][2 * w + b] for a in range(2) for b in range(2)]
                    pair = after[2 * c][h][w] + after[2 * c + 1][h][w]
                    total += (sum(block) / 4 - pair / 2) ** 2
        found.append(total)
    return found


def golden_outputs() -> tuple[Output, Output, dict[str, Tensor]]:
    first, last = golden.maps(8, 4, 8, 8, phase=0), golden.maps(8, 8, 4, 4, phase=0.5)
    nodes, logits = golden.embeddings(), golden.logits()
    student, teacher = (
        Output(torch.zeros(8, 1), logits[side], nodes[side], (first[side], last[side])) for side in range(2)
    )
    return student, teacher, {"fm1": first[0], "fm2": last[0], "feat": nodes[0], "logits": logits[0]}


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("irg_zoo_vertex", IRG(1, 0, 0)),
        ("irg_zoo_edge", IRG(0, 1, 0)),
        ("irg_zoo_transition", IRG(0, 0, 1)),
        ("irg_zoo_total_0.1_5_5", IRG()),
    ],
)
def test_a_third_partys_values_and_gradients(key: str, loss: IRG) -> None:
    student, teacher, inputs = golden_outputs()
    golden.check(key, lambda: loss(student, teacher), inputs)


@pytest.mark.parametrize(
    ("key", "form", "name"),
    [
        ("irg_edge_feat_only_mse", "max", "student"),
        ("irg_caffe_edge_loss (before loss_weight 0.005)", "caffe", "student_true_maxdetached"),
        ("irg_paper_edge_literal", "literal", "student"),
    ],
)
def test_values_and_gradients_of_one_level(key: str, form: Form, name: str) -> None:
    student, teacher = golden.embeddings()
    golden.check(key, lambda: edge_only(form)(student, teacher), {name: student})


def test_the_authors_backward_pass_is_half_of_the_gradient_that_follows_one_end_of_each_edge() -> None:
    student, teacher = golden.embeddings()
    (whole,) = torch.autograd.grad(edge_only("caffe")(student.requires_grad_(), teacher), student)
    key = "irg_caffe_edge_loss (before loss_weight 0.005)"

    def coded() -> Tensor:
        one_end = squared_euclidean(student, student.detach())
        return half_square(by_constant_max(one_end), by_constant_max(squared_euclidean(teacher)))

    golden.check(key, coded, {"student_as_coded": student})
    torch.testing.assert_close(torch.autograd.grad(coded(), student)[0], whole / 2, rtol=1e-10, atol=1e-14)


def test_the_authors_transition() -> None:
    i, j = torch.meshgrid(torch.arange(8).double(), torch.arange(16).double(), indexing="ij")
    later = torch.cos(0.07 * (i + 2) * (j + 1) + 0.4), torch.sin(0.1 * (i + 1) * (j + 1) + 0.7)
    student, teacher = (
        Output(earlier, maps=(earlier.view(8, 16, 1, 1), after.view(8, 16, 1, 1)))
        for earlier, after in zip(golden.embeddings(), later, strict=True)
    )
    expected = golden.GOLDEN["irg_caffe_transition_loss (before 0.005)"]["value"]
    assert transition_only("caffe")(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("levels", [1, 2, 3])
@each_form
def test_edges_are_a_double_loop(form: Form, levels: int, k: int | None) -> None:
    student, teacher = outputs()
    s, t = levels_of(student, levels), levels_of(teacher, levels)
    edges = edges_of(t[0], k)
    found = [level_difference(*level, edges, form) for level in zip(s, t, strict=True)]
    expected = sum(found) / (levels if form == "max" else 1)
    loss = edge_only(form, levels, "dense" if k is None else Nearest(k))
    assert loss.terms(student, teacher)["edge"].item() == pytest.approx(expected, rel=1e-10)


@each_form
def test_one_to_many_lets_the_teachers_nodes_supervise_all_levels(form: Form) -> None:
    student, teacher = outputs()
    (top,) = levels_of(teacher, 1)
    found = [level_difference(level, top, edges_of(top, None), form) for level in levels_of(student, 3)]
    loss = IRG(0, 1, 0, form=form, layers="one-to-many")
    without_maps = teacher._replace(maps=())
    assert loss(student, without_maps).item() == pytest.approx(sum(found) / (3 if form == "max" else 1), rel=1e-10)


@each_form
def test_transitions_are_a_loop(form: Form) -> None:
    student, teacher = outputs()
    expected = difference(way(student), way(teacher), form, 1)
    found = transition_only(form).terms(student, teacher)
    assert {name: term.item() for name, term in found.items()} == pytest.approx({"transition": expected}, rel=1e-10)


@each_form
def test_vertices_are_a_loop_over_logits(form: Form) -> None:
    student, teacher = outputs()
    assert student.logits is not None and teacher.logits is not None
    total = sum(distance(s, t) for s, t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True))
    expected = {"max": total / (N * 4), "caffe": total / (2 * N), "literal": total}[form]
    found = IRG(1, 0, 0, form=form).terms(student, teacher)
    assert {name: term.item() for name, term in found.items()} == pytest.approx({"vertex": expected}, rel=1e-10)


@each_form
def test_the_terms_carry_their_weights(form: Form) -> None:
    student, teacher = outputs()
    terms = IRG(0.3, 0.7, 1.1, form=form).terms(student, teacher)
    alone = IRG(0.3, 0, 0, form=form), IRG(0, 0.7, 0, form=form), IRG(0, 0, 1.1, form=form)
    once = IRG(1, 0, 0, form=form), IRG(0, 1, 0, form=form), IRG(0, 0, 1, form=form)
    assert list(terms) == ["vertex", "edge", "transition"]
    for term, weight, weighted, unweighted in zip(terms.values(), (0.3, 0.7, 1.1), alone, once, strict=True):
        assert torch.equal(term, weighted(student, teacher))
        torch.testing.assert_close(term, weight * unweighted(student, teacher))


@pytest.mark.parametrize("k", [None, 2])
@each_form
def test_transitions_of_edges_are_a_double_loop(form: Form, k: int | None) -> None:
    student, teacher = outputs()
    edges = edges_of(levels_of(teacher, 1)[0], k)
    s, t = (
        level_difference(output.maps[-2].flatten(1).tolist(), output.maps[-1].flatten(1).tolist(), edges, form)
        for output in (student, teacher)
    )
    loss = IRG(0, 0, 0, form=form, edge_transition_weight=0.5, graph="dense" if k is None else Nearest(k))
    terms = loss.terms(student, teacher)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"edge_transition": 0.5 * (s - t) ** 2}, rel=1e-10
    )


@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
@pytest.mark.parametrize(("form", "weight"), [("max", 100), ("literal", 1e-8)])
def test_gradcheck_of_the_transitions_of_edges(form: Form, weight: float, graph: str | Nearest) -> None:
    student, teacher = outputs()
    loss = IRG(0, 0, 0, form=form, edge_transition_weight=weight, graph=graph)

    def value(first: Tensor, last: Tensor) -> Tensor:
        found: Tensor = loss(student._replace(maps=(first, last)), teacher)
        return found

    assert torch.autograd.gradcheck(value, student.maps[-2:])


@pytest.mark.parametrize(("form", "weights"), [("max", (0.1, 5, 5)), ("caffe", (0, 0.005, 0.005))])
def test_weights_that_are_not_given_are_those_of_the_form(form: Form, weights: tuple[float, float, float]) -> None:
    student, teacher = outputs()
    found, expected = IRG(form=form).terms(student, teacher), IRG(*weights, form=form).terms(student, teacher)
    assert list(found) == ["vertex", "edge", "transition"][0 if weights[0] else 1 :]
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    one = IRG(relation_weight=7, form=form).terms(student, teacher)
    torch.testing.assert_close(one, {**expected, "edge": expected["edge"] * 7 / weights[1]})


def test_the_way_of_images_between_maps_of_other_shapes() -> None:
    earlier, later = torch.randn(3, 2, 5, 5), torch.randn(3, 6, 5, 5)
    expected = (earlier - (later[:, [0, 3]] + later[:, [1, 4]] + later[:, [2, 5]]) / 3).square().sum((1, 2, 3))
    torch.testing.assert_close(transition(earlier, later), expected)
    same = torch.randn(3, 2, 5, 5)
    torch.testing.assert_close(transition(earlier, same), (earlier - same).square().sum((1, 2, 3)))


@each_form
def test_all_neighbours_equal_the_dense_form(form: Form) -> None:
    student, teacher = outputs()
    everyone = torch.tensor([(j, i) for i in range(N) for j in range(N) if i != j]).T
    expected = value_and_gradients(whole(form), student, teacher)
    for graph in (Nearest(N - 1), everyone):
        found = value_and_gradients(whole(form, graph), student, teacher)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_given_edges_are_those_and_each_nodes_own_on_all_levels() -> None:
    student, teacher = outputs()
    edges = [(i, i) for i in range(N)] + [(anchor, candidate) for candidate, anchor in EDGE_INDEX.T.tolist()]
    s, t = levels_of(student, 3), levels_of(teacher, 3)
    found = [level_difference(*level, edges, "max") for level in zip(s, t, strict=True)]
    assert edge_only("max", 3, EDGE_INDEX)(student, teacher).item() == pytest.approx(sum(found) / 3, rel=1e-10)


@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
@each_form
def test_relabelling_the_batch_changes_nothing(form: Form, graph: str | Nearest) -> None:
    student, teacher = outputs()
    order = torch.randperm(N)
    loss = whole(form, graph)
    value, *gradients = value_and_gradients(loss, student, teacher)
    moved, *moved_gradients = value_and_gradients(loss, reordered(student, order), reordered(teacher, order))
    torch.testing.assert_close(moved, value)
    torch.testing.assert_close(moved_gradients, [gradient[order] for gradient in gradients])


@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
def test_the_unit_of_a_networks_distances_changes_nothing_in_the_form_of_maxima(graph: str | Nearest) -> None:
    student, teacher = outputs()
    loss = IRG(0, 1, 1, graph=graph)
    scaled = Output(teacher.embedding, None, *_times(3, teacher))
    torch.testing.assert_close(loss(student, scaled), loss(student, teacher))


def _times(factor: float, output: Output) -> tuple[Tensor, tuple[Tensor, ...]]:
    assert output.feature is not None
    return factor * output.feature, tuple(factor * stage for stage in output.maps)


@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
@pytest.mark.parametrize("form", ["max", "literal"])  # a constant maximum is not what the value depends on
def test_gradcheck(form: Form, graph: str | Nearest) -> None:
    student, teacher = outputs()
    loss = IRG(0.1, 5, 5, form=form, graph=graph)

    def value(logits: Tensor, feature: Tensor, first: Tensor, last: Tensor) -> Tensor:
        found: Tensor = loss(Output(feature, logits, feature, (first, last)), teacher)
        return found

    assert torch.autograd.gradcheck(value, tuple(leaves(student)))


@each_form
def test_the_teacher_receives_no_gradient_and_the_loss_is_pure(form: Form) -> None:
    student, teacher = outputs()
    for leaf in leaves(teacher):
        leaf.requires_grad_()
    loss = whole(form)
    first, second = (value_and_gradients(loss, student, teacher) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(gradient.any() for gradient in first[1:])
    torch.autograd.backward(loss(student, teacher))
    assert all(leaf.grad is None for leaf in leaves(teacher))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("graph", ["dense", Nearest(2)])
@each_form
def test_relations_are_float32_under_autocast(form: Form, graph: str | Nearest, dtype: torch.dtype) -> None:
    student, teacher = (_as(output, dtype) for output in outputs())
    loss = whole(form, graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, *gradients = value_and_gradients(loss, student, teacher)
    assert value.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients} == {dtype}
    assert torch.equal(value, loss(_as(student, torch.float32), _as(teacher, torch.float32)))
    wider = loss(_as(student, torch.float64), _as(teacher, torch.float64))
    torch.testing.assert_close(value.double(), wider, rtol=1e-5, atol=1e-6)


def _as(output: Output, dtype: torch.dtype) -> Output:
    logits, feature, first, last = (x.detach().to(dtype).requires_grad_() for x in leaves(output))
    return Output(feature, logits, feature, (first, last))


def test_a_sum_of_student_and_teacher_of_two_dtypes_is_float32() -> None:
    student, teacher = outputs()
    found = IRG()(_as(student, torch.bfloat16), _as(teacher, torch.float32))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("nodes", ["feature", "embedding", "map"])
def test_the_first_level_is_that_of_the_nodes(nodes: Part) -> None:
    student, teacher = outputs()
    s, t = (
        {"feature": output.feature, "embedding": output.embedding, "map": output.maps[-1].flatten(1)}[nodes]
        for output in (student, teacher)
    )
    assert s is not None and t is not None
    below = edge_only()(*(output.maps[-2 if nodes == "map" else -1].flatten(1) for output in (student, teacher)))
    one, two = (IRG(0, 1, 0, levels=levels, nodes=nodes)(student, teacher) for levels in (1, 2))
    torch.testing.assert_close(one, edge_only()(s, t))
    torch.testing.assert_close(two, (edge_only()(s, t) + below) / 2)


def test_a_refinement_moves_the_nodes_and_no_map() -> None:
    student, teacher = outputs(width=7)
    refinement = Refinement("smooth", 7)
    one, two = (IRG(0, 1, 0, levels=levels, refinement=refinement) for levels in (1, 2))
    moved = one.vectors(student, teacher.detach())
    torch.testing.assert_close(one(student, teacher), edge_only()(*moved))
    assert one(student, teacher).item() != pytest.approx(edge_only()(student, teacher).item(), rel=1e-6)
    maps = edge_only()(*(output.maps[-1].flatten(1) for output in (student, teacher)))
    torch.testing.assert_close(two(student, teacher), (edge_only()(*moved) + maps) / 2)


@pytest.mark.parametrize(
    ("loss", "reads"),
    [
        (IRG(), ("feature", "maps", "logits")),
        (IRG(0), ("feature", "maps")),
        (IRG(0, 1, 0, levels=1), ("feature",)),
        (IRG(0, 1, 0, levels=2), ("feature", "maps")),
        (IRG(1, 1, 0, levels=1, nodes="embedding"), ("embedding", "logits")),
        (IRG(0, 1, 1, levels=1), ("feature", "maps")),
        (IRG(1, 0, 0), ("feature", "logits")),
        (IRG(0, 1, 0, levels=1, edge_transition_weight=1), ("feature", "maps")),
        (IRG(form="caffe"), ("feature", "maps")),
    ],
)
def test_what_it_reads_follows_from_its_terms(loss: IRG, reads: tuple[str, ...]) -> None:
    assert loss.reads == reads


DEGENERATE = {
    "a row of zeros": torch.cat([torch.randn(3, 8), torch.zeros(1, 8)]),
    "two equal rows": torch.randn(3, 8)[[0, 1, 1, 2]],
    "constant rows": torch.full((4, 8), 7.7),
    "all rows equal": torch.randn(1, 8).repeat(4, 1),
    "all zeros": torch.zeros(4, 8),
    "one image": torch.randn(1, 8),
    "float16": torch.randn(4, 8).half(),
    "bfloat16": torch.randn(4, 8).bfloat16(),
}


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
@each_form
def test_degenerate_batches_give_finite_values_and_gradients(form: Form, case: str, who: str) -> None:
    bad = DEGENERATE[case]
    good = torch.randn(bad.shape).to(bad.dtype)
    student = (good if who == "teacher" else bad).clone().requires_grad_()
    teacher = good if who == "student" else bad
    graphs: list[str | Nearest] = ["dense", Nearest(1)]
    for graph in graphs[: len(bad)]:  # one image has no neighbours
        loss = whole(form, graph)
        value = loss(*(Output(x, x, x, (x.view(-1, 2, 2, 2), x.view(-1, 8, 1, 1))) for x in (student, teacher)))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vertex_weight": -1}, "vertex_weight must be at least 0, got -1"),
        ({"relation_weight": float("nan")}, "relation_weight must be at least 0, got nan"),
        (
            {"vertex_weight": 0, "relation_weight": 0, "transition_weight": 0},
            "IRG needs a weight above 0, got 0 for vertices, edges and transitions alike (the form 'literal' has no "
            "published weights)",
        ),
        (
            {"form": "literal"},
            "IRG needs a weight above 0, got 0 for vertices, edges and transitions alike (the form 'literal' has no "
            "published weights)",
        ),
        ({"edge_transition_weight": -1}, "edge_transition_weight must be at least 0, got -1"),
        ({"form": "coffee"}, "unknown form 'coffee': did you mean 'caffe'? (known: caffe, literal, max)"),
        (
            {"layers": "one-to-all"},
            "unknown layers 'one-to-all': did you mean 'one-to-many'? (known: one-to-many, one-to-one)",
        ),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        (
            {"nodes": "featur"},
            "unknown nodes 'featur': did you mean 'feature'? (known: embedding, feature, map)",
        ),
        ({"graph": "dnse"}, "unknown graph 'dnse': did you mean 'dense'? (known: dense, knn)"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        IRG(**options)  # type: ignore[arg-type]


X = torch.zeros(4, 3)
MAPS = torch.zeros(4, 48, 2, 2), torch.zeros(4, 160, 2, 2)


@pytest.mark.parametrize(
    ("loss", "output", "message"),
    [
        (
            IRG(),
            Output(X, None, X, MAPS),
            "IRG reads logits: expected Output(embedding, logits) of student and teacher, got bare embeddings",
        ),
        (
            IRG(0),
            Output(X, None, X, MAPS[:1]),
            "IRG reads stage maps (N, C, H, W): expected Output(embedding, maps=(...)) with at least 2 "
            "of student and teacher, got 1",
        ),
        (
            IRG(0, 0, 1),
            Output(X),
            "IRG reads stage maps (N, C, H, W): expected Output(embedding, maps=(...)) with at least 2 "
            "of student and teacher, got 0",
        ),
        (
            IRG(0, 1, 0, nodes="map"),
            Output(X, None, X, MAPS),
            "IRG reads stage maps (N, C, H, W): expected Output(embedding, maps=(...)) with at least 3 "
            "of student and teacher, got 2",
        ),
        (
            IRG(0),
            Output(X, None, None, MAPS),
            "IRG reads features: expected Output(embedding, feature=...) of both networks",
        ),
        (
            IRG(0),
            Output(X, None, X, MAPS),
            "transitions need a last stage map whose channels are a multiple of those of the map before, got 160 after "
            "48 (without them: transition_weight=0)",
        ),
        (
            IRG(0, 1, 0, graph="knn"),
            Output(X, None, X, MAPS),
            "k must be between 1 and the number of nodes less one, 3, got 8",
        ),
    ],
)
def test_outputs_are_checked(loss: IRG, output: Output, message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(output, output)
