"""Relations on batches of seeds and neighbours: their sums over an epoch, and naive loops over the induced edges."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.data.neighbour_batches import ImageGraph, NeighbourBatches, neighbour_batches
from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import cosine
from relgraph.graph.pair import TEACHER, Form, anchors_of, weights
from relgraph.graph.relation import Relation
from relgraph.graph.scales import raw
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import Nearest, edges_of
from relgraph.methods import CSD, EGA, PKT, Batch, Method
from relgraph.methods.pkt import SIMILARITY
from relgraph.outputs import BatchEdges
from tests.checks import assert_refused_like, case
from tests.graph.test_criteria import CRITERIA, SCALES
from tests.methods.golden import vectors

N, D, K, SIZE = 16, 6, 3, 10


def batches(weights: Tensor | None = None) -> tuple[Tensor, Tensor, NeighbourBatches]:
    """Return the nodes of two networks for all images, and the batches of the teacher's k-NN graph."""
    student, teacher = vectors(N, D, D)
    graph = ImageGraph.of_edges(edges_of(nearest_in_blocks(teacher, K)[0]), N, weights)
    drawn = neighbour_batches(graph, torch.zeros(N), batch_size=SIZE, labelled_share=1, seed=0, epoch=0)
    assert len(drawn) > 4
    return student.detach().requires_grad_(), teacher, drawn


def summed(criterion: Criterion) -> Criterion:
    """Return a criterion as the plain sum over anchors."""
    row = criterion.row
    square: Callable[..., Tensor] = lambda s, t: row(s, t).square()  # noqa: E731
    return replace(criterion, row=square if criterion.norm else row, norm=False, finish=None, additive=False)


@pytest.mark.parametrize("form", ["matrix", "blocked"])
def test_the_sum_over_an_epochs_seeds_is_that_of_the_full_graph(form: Form) -> None:
    student, teacher, drawn = batches()
    full = BatchEdges(drawn.graph.edge_index, N, K)
    for scale in SCALES.values():
        for name, criterion in CRITERIA.items():
            relation = Relation(SIMILARITY, scale=scale, criterion=summed(criterion))
            some = (
                scale is raw or name in ("mean_square", "huber") or (scale.name, name) == ("softmax", "cross_entropy")
            )
            if not relation.anchored or not some:
                continue
            with case(scale.name, name):
                builder = replace(relation.builder, topology=Nearest(K).with_own(), form=form)
                expected = relation.of_pair(builder(student, teacher, edges=full))
                found = []
                for number, index in enumerate(drawn):
                    pair = builder(student[index], teacher[index], edges=drawn.edges(number))
                    found.append(relation.of_pair(pair))
                    assert anchors_of(pair) == drawn.edges(number).anchors < len(index)
                    assert len(weights(pair, TEACHER)) == anchors_of(pair) * (K + 1)
                total = torch.stack(found).sum()
                torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
                gradients = (torch.autograd.grad(value, student)[0] for value in (total, expected))
                torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_what_reads_a_whole_graph_is_no_sum_over_anchors() -> None:
    whole = {name for name, scale in SCALES.items() if not Relation(cosine, scale=scale).anchored}
    assert whole == {"by_mean", "by_max", "by_constant_max", "by_norm"}


def pearson(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


METHODS: list[Callable[..., Method]] = [EGA, partial(EGA, cross="own"), PKT, CSD]


def added(terms: Mapping[str, Tensor], anchors: int) -> Tensor:
    """Return terms as sums over the anchors: EGA's are norms, the others means."""
    return torch.stack([x.square() if name in ("edge", "node") else x * anchors for name, x in terms.items()])


def of_batches(method: Method, student: Tensor, teacher: Tensor, drawn: NeighbourBatches) -> Tensor:
    """Return the sums over the seeds of all batches."""
    sums = []
    for number, index in enumerate(drawn):
        edges = drawn.edges(number)
        terms = method.terms(student[index], teacher[index], Batch(index, index, edges))
        sums.append(added(terms, edges.anchors))
    return torch.stack(sums).sum(0)


@pytest.mark.parametrize("form", ["matrix", "blocked"])
def test_the_losses_of_an_epochs_batches_add_up_to_that_of_the_whole_graph(form: Form) -> None:
    """Which is a loop over edges in the method's own test."""
    student, teacher, drawn = batches()
    for make in METHODS:
        whole = make(graph=drawn.graph.edge_index).terms(student, teacher)
        method: Any = make(graph="knn", k=K, form=form)
        assert method.anchored
        values = of_batches(method, student, teacher, drawn), added(whole, N)
        with case(make):
            torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)
            gradients = [torch.autograd.grad(value.sum(), student)[0] for value in values]
            torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
            assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_given_weights_are_the_teachers_but_for_own_edges() -> None:
    student, teacher, drawn = batches(torch.linspace(-1, 1, N * K).double())
    index, edges = drawn.batch(0)
    s, t = student[index].detach(), teacher[index]
    assert edges.weights is not None
    for form in ("matrix", "blocked"):
        builder = replace(Relation().builder, topology=Nearest(K).with_own(), form=form)
        found = weights(builder(s, t, edges=edges), TEACHER)
        torch.testing.assert_close(found, torch.cat([torch.ones(edges.anchors).double(), edges.weights]))
    terms = EGA(1.0, 1.0, graph="knn", k=K).terms(s, t, Batch(index, index, edges))
    of_student = [pearson(s[i], s[j]) for j, i in edges.edge_index.T.tolist()]
    torch.testing.assert_close(terms["edge"], (torch.stack(of_student) - edges.weights).norm())
    plain = EGA(1.0, 1.0, graph="knn", k=K).terms(s, t, Batch(index, index, edges._replace(weights=None)))
    assert torch.equal(plain["node"], terms["node"]) and not torch.isclose(plain["edge"], terms["edge"])


def test_own_nodes_are_matched_alike_in_every_form() -> None:
    student, teacher = (x.detach() for x in vectors(N, D, D))
    expected = math.sqrt(sum((np.corrcoef(s, t)[0, 1] - 1) ** 2 for s, t in zip(student, teacher, strict=True)))
    forms: list[dict[str, Any]] = [{"form": form} for form in ("matrix", "factored", "blocked")]
    for options in (*forms, {"graph": "knn", "k": 2}, {"graph": "knn", "k": 2, "form": "blocked"}):
        with case(options):
            node = EGA(1.0, cross="own", **options).terms(student, teacher)["node"]
            assert node.item() == pytest.approx(expected, rel=1e-12)
    assert EGA(1.0).terms(student, teacher)["node"].item() > expected


def test_edges_of_a_batch_need_a_sparse_graph_and_images_without_any_are_counted() -> None:
    student, teacher, _ = batches()
    edges = BatchEdges(torch.tensor([[2, 3], [0, 0]]), 2)
    batch = Batch(torch.arange(N), torch.zeros(N).long(), edges)
    assert_refused_like((partial(EGA(), student, teacher, batch), "a method with a sparse graph, such as graph='knn'$"))
    found = PKT(graph="knn", k=K)(student, teacher, batch)
    alone = PKT(graph="knn", k=K)(student, teacher, Batch(*batch[:2], edges._replace(anchors=1)))
    torch.testing.assert_close(found * 4, alone * 3)  # an image alone has one edge, to itself, and no loss
    none = BatchEdges(torch.zeros(2, 0).long(), 1)
    assert EGA(1, 1, graph="knn", k=K).terms(student, teacher, Batch(*batch[:2], none))["edge"] == 0
