"""What the methods over the graphs of a batch share: nodes, edges, refinement, and what the teacher's side learns."""

from dataclasses import field

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from relgraph.graph.kernels import Kernel, euclidean, linear
from relgraph.graph.pair import STUDENT, TEACHER, weights
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.topology import ALL_PAIRS, Graph, Nearest
from relgraph.methods import Batch, Output, RunFacts
from relgraph.methods.base import Part
from relgraph.methods.relational import Relational
from relgraph.training.spread import labelled_cross_entropy
from tests.checks import assert_refused
from tests.graph.test_refine import double_loop
from tests.methods.golden import nearest, random_output

N, DIM, STUDENT_WIDTH, TEACHER_WIDTH, CLASSES = 7, 4, 5, 6, 3
BATCH = Batch(torch.arange(N), torch.tensor([0, 1, 2, -1, 1, 0, 2]))
WIDTHS: dict[Part, tuple[int, int]] = {"embedding": (DIM, DIM), "feature": (STUDENT_WIDTH, TEACHER_WIDTH)}


class Weighing(Relational):
    """Compares the graphs of one kernel."""

    kernel: Kernel = field(default=linear, kw_only=True)

    def make_relation(self) -> Relation:
        return Relation(self.kernel)


def relational(graph: Graph = "dense", nodes: Part = "feature", refinement: Refinement | None = None) -> Relational:
    return Relational(graph=graph, nodes=nodes, refinement=refinement)


def outputs() -> tuple[Output, Output]:
    return tuple(  # type: ignore[return-value]
        random_output(N, DIM, CLASSES, width, ((2, 4, 4), (width, 2, 2))) for width in (STUDENT_WIDTH, TEACHER_WIDTH)
    )


def refinement(part: Part) -> Refinement:
    found = Refinement("conv", *WIDTHS[part])
    for parameter in found.parameters():
        nn.init.normal_(parameter)
    return found.double()


PARTS: tuple[Part, ...] = ("embedding", "feature", "map")


@pytest.mark.parametrize("part", PARTS)
def test_smoothing_moves_the_nodes(part: Part) -> None:
    """Each network's nodes by its own correlations, over the teacher's edges."""
    student, teacher = outputs()
    plain = relational("dense", part).vectors(student, teacher)
    for graph, k in ((ALL_PAIRS, N - 1), (Nearest(3), 3)):
        refinement = Refinement("smooth", *(x.shape[1] for x in plain))
        refined = relational(graph, part, refinement).vectors(student, teacher)
        edges = nearest(list(plain[1].numpy()), k, lambda a, b: -float(np.corrcoef(a, b)[0, 1]))
        for x, found in zip(plain, refined, strict=True):
            neighbours = double_loop(x, torch.from_numpy(np.corrcoef(x.numpy())), edges)
            torch.testing.assert_close(found, (x + neighbours) / 2)


@pytest.mark.parametrize("kernel", [linear, euclidean], ids=lambda kernel: kernel.name)
def test_neighbours_are_chosen_by_the_methods_own_kernel_and_each_node_has_its_own_edge(kernel: Kernel) -> None:
    student, teacher = outputs()
    pair = Weighing(graph=Nearest(3), kernel=kernel).pair(student, teacher)
    assert pair is not None and teacher.feature is not None and student.feature is not None
    sign = -1 if kernel.nearest_is_largest else 1
    near = nearest(list(teacher.feature), 3, lambda a, b: sign * float(kernel(a[None], b[None])))
    expected = {(i, i) for i in range(N)} | set(near)
    for kind, x in ((STUDENT, student.feature), (TEACHER, teacher.feature)):
        source, target = pair[kind].edge_index
        assert len(source) == 4 * N
        assert set(zip(source.tolist(), target.tolist(), strict=True)) == expected
        torch.testing.assert_close(weights(pair, kind), kernel(x)[target, source])
    assert set(pair.edge_types) == {STUDENT, TEACHER}
    without_relation = relational(Nearest(3)).pair(student, teacher)
    assert without_relation is not None and without_relation[STUDENT].edge_index.shape[1] == 4 * N


def test_a_relation_is_read_from_the_pair_that_the_method_builds() -> None:
    student, teacher = outputs()
    method = Weighing(graph=Nearest(3))
    pair = method.pair(student, teacher)
    s, t = (weights(pair, kind) for kind in (STUDENT, TEACHER))
    terms = method.terms(student, teacher)
    assert list(terms) == ["weighing"]
    torch.testing.assert_close(terms["weighing"], (s - t).norm())


def test_a_relation_does_not_hide_a_topology_from_the_options() -> None:
    class Near(Relational):
        def make_relation(self) -> Relation:
            return Relation(linear, Nearest(2))

    told = "Near takes its graph from the option graph, expected a relation without a topology of its own, got Nearest"
    assert_refused((Near, told), (lambda: Near(graph="knn", k=2), told))


def test_a_method_without_a_relation_has_to_compare_pairs_itself() -> None:
    with pytest.raises(NotImplementedError):
        relational()(*outputs())


@pytest.mark.parametrize("part", WIDTHS)
def test_the_teachers_side_learns_from_its_classifier_on_the_refined_nodes(part: Part) -> None:
    student, teacher = outputs()
    head, known = nn.Linear(WIDTHS[part][1], CLASSES).double(), BATCH.labels >= 0
    given: list[Output] = []

    def of_the_head(output: Output) -> Tensor:
        given.append(output)
        return labelled_cross_entropy(head(getattr(output, part)), BATCH.labels)

    for graph in (ALL_PAIRS, Nearest(3, "student")):
        method = relational(graph, part, refinement(part))
        terms = method.teacher_terms(student, teacher, BATCH, of_the_head)
        logits = head(method.vectors(student, teacher)[1])
        assert list(terms) == ["refined"]
        torch.testing.assert_close(terms["refined"], functional.cross_entropy(logits[known], BATCH.labels[known]))
    if part == "embedding":
        assert given[0].feature is None, "or the head would project what was not refined"
    else:
        assert torch.equal(given[0].embedding, teacher.embedding)


def test_a_learned_refinement_of_maps_is_refused() -> None:
    learned_maps = (
        "a learned refinement trains the teacher's side by its classifier, which reads the nodes 'embedding' or "
        "'feature', got 'map'"
    )
    run = RunFacts(4, 5, 5, ((3, 2, 2),), ((3, 2, 2),))
    assert_refused(
        (lambda: relational("dense", "map", Refinement("conv", 3)), learned_maps),
        (lambda: Relational.for_run(run, refine="conv", nodes="map"), learned_maps),
    )
