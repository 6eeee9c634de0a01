"""What the methods over the graphs of a batch share: nodes, edges, refinement, and what the teacher's side learns."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from relgraph.graph.kernels import linear
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
