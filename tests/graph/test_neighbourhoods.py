"""Relations on batches of seeds and neighbours: their sums over an epoch, and naive loops over the induced edges."""

import math
from collections.abc import Callable
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
            if not relation.anchored or (scale.name, name) == ("softmax", "kl"):  # it reads no log-probabilities
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


def naive_ega(
    s: Tensor, t: Tensor, around: list[list[int]], cross: str, moved: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return EGA's loss by loops over the seeds, which come first, and their neighbours; `moved` ones are matched."""
    edge, node = s.new_zeros(()), s.new_zeros(())
    a, b = (s, t) if moved is None else moved
    for i, candidates in enumerate(around):
        for j in candidates:
            edge = edge + (pearson(s[i], s[j]) - pearson(t[i], t[j])) ** 2
            node = node + (pearson(a[i], b[j]) ** 2 if cross == "edges" else 0)
        node = node + (pearson(a[i], b[i]) - 1) ** 2
    return 0.8 * node.sqrt() + 0.24 * edge.sqrt()


def naive_pkt(s: Tensor, t: Tensor, around: list[list[int]]) -> Tensor:
    """Return PKT's loss by the same loops, each seed among its own candidates."""
    total, edges = s.new_zeros(()), 0
    for i, candidates in enumerate(around):
        near = [[torch.cosine_similarity(x[i], x[j], dim=0) for j in (i, *candidates)] for x in (t, s)]
        p, q = ((torch.stack(row) + 1) / 2 for row in near)
        p, q = p / p.sum(), q / q.sum()
        total, edges = total + (p * ((p + 1e-7) / (q + 1e-7)).log()).sum(), edges + len(p)
    return total / edges


def naive_csd(s: Tensor, t: Tensor, around: list[list[int]]) -> Tensor:
    """Return CSD's loss by the same loops: the student's nodes against the teacher's."""
    total = s.new_zeros(())
    for i, candidates in enumerate(around):
        p, q = (
            torch.stack([torch.cosine_similarity(x[i], t[j], dim=0) for j in (i, *candidates)]).div(0.1).log_softmax(0)
            for x in (t, s)
        )
        total = total + (p.exp() * (p - q)).sum()
    return total / len(around)


METHODS: dict[str, tuple[Method, Callable[..., Tensor]]] = {
    "ega": (EGA(graph="knn", k=K), partial(naive_ega, cross="edges")),
    "ega, own nodes": (EGA(graph="knn", k=K, cross="own"), partial(naive_ega, cross="own")),
    "pkt": (PKT(graph="knn", k=K), naive_pkt),
    "csd": (CSD(graph="knn", k=K), naive_csd),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("form", ["matrix", "blocked"])
def test_a_batch_is_naive_loops_over_its_seeds_and_their_neighbours(name: str, form: Form) -> None:
    student, teacher, drawn = batches()
    method, naive = METHODS[name]
    assert isinstance(method, EGA | PKT | CSD) and method.anchored
    method.builder = replace(method.builder, form=form)
    for number in range(2):
        index, edges = drawn.batch(number)
        s, t, place = student[index], teacher[index], index.tolist()
        graph = drawn.graph
        around = [
            [place.index(j) for j in graph.neighbours[graph.first[image] : graph.first[image + 1]].tolist()]
            for image in place[: edges.anchors]
        ]
        values = method(s, t, Batch(index, index, edges)), naive(s, t, around)
        torch.testing.assert_close(*values, rtol=1e-6 if name == "pkt" else 1e-10, atol=1e-14)
        gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in values]
        torch.testing.assert_close(*gradients, rtol=1e-5 if name == "pkt" else 1e-8, atol=1e-9)
        assert all(float(gradient.abs().max()) > 1e-6 for gradient in gradients)


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
