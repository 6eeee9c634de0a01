"""IRG against the authors' and a third party's numbers, loops in Python's floats, and its dense form."""

from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import half_square
from relgraph.graph.kernels import squared_euclidean
from relgraph.graph.refine import Refinement
from relgraph.graph.scales import by_constant_max
from relgraph.graph.topology import Rule
from relgraph.methods.base import Output
from relgraph.methods.irg import FORMS, IRG, Form, transition
from tests.checks import assert_refused, case
from tests.methods import golden

N = 7
Rows = list[list[float]]
each_form = pytest.mark.parametrize("form", FORMS)


def edge_only(form: Form = "max", levels: int = 1, graph: str | Tensor | Rule = "dense") -> IRG:
    return IRG(0, 1, 0, form=form, levels=levels, graph=graph)


def transition_only(form: Form = "max") -> IRG:
    return IRG(0, 0, 1, form=form)


def outputs(width: int = 5) -> tuple[Output, Output]:
    """Return student and teacher with maps of the stem and of two stages; the student's logits are as many."""
    return tuple(  # type: ignore[return-value]
        golden.random_output(N, 3, 4, size, ((2, 8, 8), (channels, 4, 4), (2 * channels, 2, 2)))
        for channels, size in ((2, width), (3, 7))
    )


def distance(x: list[float], y: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def difference(student: list[float], teacher: list[float], form: Form, anchors: int) -> float:
    """Return the difference of two lists of weights as the form has it."""
    if form != "literal":
        student, teacher = ([value / max(side) for value in side] for side in (student, teacher))
    total = distance(student, teacher)
    return {"max": total / len(student), "caffe": total / (2 * anchors), "literal": total}[form]


def level_difference(student: Rows, teacher: Rows, edges: list[tuple[int, int]], form: Form) -> float:
    """Return the difference of the distances of two levels over edges (candidate, anchor)."""
    s, t = ([distance(x[i], x[j]) for j, i in edges] for x in (student, teacher))
    return difference(s, t, form, N)


def levels_of(output: Output, count: int) -> list[Rows]:
    assert output.feature is not None
    levels = [output.feature, *output.maps[::-1]][:count]
    return [level.flatten(1).tolist() for level in levels]


def way(output: Output) -> list[float]:
    """Return each image's squared distance between its last two maps, position by position."""
    earlier, later = output.maps[-2:]
    means = later.view(N, -1, 2, 2, 2).mean(2)  # of two channels each
    found: list[float] = (golden.halved(earlier) - means).square().sum((1, 2, 3)).tolist()
    return found


def golden_outputs() -> tuple[Output, Output, dict[str, Tensor]]:
    first, last = golden.maps(8, 4, 8, 8, phase=0), golden.maps(8, 8, 4, 4, phase=0.5)
    nodes, logits = golden.embeddings(), golden.logits()
    student, teacher = (
        Output(torch.zeros(8, 1), logits[side], nodes[side], (first[side], last[side])) for side in range(2)
    )
    return student, teacher, {"fm1": first[0], "fm2": last[0], "feat": nodes[0], "logits": logits[0]}


def test_official_values_and_gradients() -> None:
    """Those of a third party, and those of one level."""
    zoo = {
        "irg_zoo_vertex": IRG(1, 0, 0),
        "irg_zoo_edge": IRG(0, 1, 0),
        "irg_zoo_transition": IRG(0, 0, 1),
        "irg_zoo_total_0.1_5_5": IRG(),
    }
    for key, loss in zoo.items():
        student, teacher, inputs = golden_outputs()
        with case(key):
            golden.check(key, partial(loss, student, teacher), inputs)
    levels: dict[str, tuple[Form, str]] = {
        "irg_edge_feat_only_mse": ("max", "student"),
        "irg_caffe_edge_loss (before loss_weight 0.005)": ("caffe", "student_true_maxdetached"),
        "irg_paper_edge_literal": ("literal", "student"),
    }
    for key, (form, name) in levels.items():
        nodes = golden.embeddings()
        with case(key):
            golden.check(key, partial(edge_only(form), *nodes), {name: nodes[0]})


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


@each_form
def test_edges_are_a_double_loop(form: Form) -> None:
    student, teacher = outputs()
    for levels in (1, 2, 3):
        s, t = levels_of(student, levels), levels_of(teacher, levels)
        for graph, edges in golden.graphs_with_edges(t[0], distance):
            with case(levels, graph):
                found = [level_difference(*level, edges, form) for level in zip(s, t, strict=True)]
                expected = sum(found) / (levels if form == "max" else 1)
                terms = edge_only(form, levels, graph).terms(student, teacher)
                assert golden.values(terms) == pytest.approx({"edge": expected}, rel=1e-10)


@each_form
def test_one_to_many_lets_the_teachers_nodes_supervise_all_levels(form: Form) -> None:
    student, teacher = outputs()
    (top,) = levels_of(teacher, 1)
    _, edges = golden.graphs_with_edges(top, distance)[0]
    found = [level_difference(level, top, edges, form) for level in levels_of(student, 3)]
    loss = IRG(0, 1, 0, form=form, layers="one-to-many")
    without_maps = teacher._replace(maps=())
    assert loss(student, without_maps).item() == pytest.approx(sum(found) / (3 if form == "max" else 1), rel=1e-10)


@each_form
def test_transitions_and_vertices_are_loops(form: Form) -> None:
    student, teacher = outputs()
    expected = {"transition": difference(way(student), way(teacher), form, 1)}
    assert golden.values(transition_only(form).terms(student, teacher)) == pytest.approx(expected, rel=1e-10)
    assert student.logits is not None and teacher.logits is not None
    total = sum(distance(s, t) for s, t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True))
    expected = {"vertex": {"max": total / (N * 4), "caffe": total / (2 * N), "literal": total}[form]}
    assert golden.values(IRG(1, 0, 0, form=form).terms(student, teacher)) == pytest.approx(expected, rel=1e-10)


@each_form
def test_transitions_of_edges_are_a_double_loop(form: Form) -> None:
    student, teacher = outputs()
    for graph, edges in golden.graphs_with_edges(levels_of(teacher, 1)[0], distance):
        with case(graph):
            s, t = (
                level_difference(output.maps[-2].flatten(1).tolist(), output.maps[-1].flatten(1).tolist(), edges, form)
                for output in (student, teacher)
            )
            terms = IRG(0, 0, 0, form=form, edge_transition_weight=0.5, graph=graph).terms(student, teacher)
            assert golden.values(terms) == pytest.approx({"edge_transition": 0.5 * (s - t) ** 2}, rel=1e-10)


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


def test_the_first_level_is_that_of_the_nodes() -> None:
    student, teacher = outputs()
    for nodes in ("feature", "embedding", "map"):
        s, t = (
            {"feature": output.feature, "embedding": output.embedding, "map": output.maps[-1].flatten(1)}[nodes]
            for output in (student, teacher)
        )
        below = edge_only()(*(output.maps[-2 if nodes == "map" else -1].flatten(1) for output in (student, teacher)))
        two = IRG(0, 1, 0, levels=2, nodes=nodes)(student, teacher)
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


def test_what_it_reads_follows_from_its_terms() -> None:
    for loss, reads in (
        (IRG(0), ("feature", "maps")),
        (IRG(0, 1, 0, levels=1), ("feature",)),
        (IRG(0, 1, 0, levels=2), ("feature", "maps")),
        (IRG(1, 1, 0, levels=1, nodes="embedding"), ("embedding", "logits")),
        (IRG(0, 1, 1, levels=1), ("feature", "maps")),
        (IRG(1, 0, 0), ("feature", "logits")),
        (IRG(0, 1, 0, levels=1, edge_transition_weight=1), ("feature", "maps")),
        (IRG(form="caffe"), ("feature", "maps")),
    ):
        assert loss.reads == reads, loss


def test_what_it_refuses() -> None:
    no_weight = (
        "IRG needs a weight above 0, got 0 for vertices, edges and transitions alike (the form 'literal' has no "
        "published weights)"
    )
    multiple = (
        "transitions need a last stage map whose channels are a multiple of those of the map before, got 160 after "
        "48 (without them: transition_weight=0)"
    )
    maps = "IRG reads stage maps (N, C, H, W): expected Output(embedding, maps=(...)) with at least"
    x, stages = torch.zeros(4, 3), (torch.zeros(4, 48, 2, 2), torch.zeros(4, 160, 2, 2))
    full, bare = Output(x, None, x, stages), Output(x)
    assert_refused(
        (lambda: IRG(0, 0, 0), no_weight),
        (lambda: IRG(form="literal"), no_weight),
        (lambda: IRG()(full, full), "IRG reads logits…"),
        (lambda: IRG(0)(full._replace(maps=stages[:1]), full), f"{maps} 2 of student and teacher, got 1"),
        (lambda: IRG(0, 0, 1)(bare, bare), f"{maps} 2 of student and teacher, got 0"),
        (lambda: IRG(0, 1, 0, nodes="map")(full, full), f"{maps} 3 of student and teacher, got 2"),
        (lambda: IRG(0)(full._replace(feature=None), full), "IRG reads features…"),
        (lambda: IRG(0)(full, full), multiple),
    )
