"""Embedding Graph Alignment against double loops over numpy's correlations, its sparse form against its dense one.

The authors' own numbers are in tests/test_golden.py.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.graph.kernels import cosine
from relgraph.graph.pair import MATCHES, STUDENT, weights
from relgraph.graph.refine import Refinement
from relgraph.methods import EGA, Output, RunFacts
from tests.checks import assert_refused, case
from tests.methods.golden import EDGES, nearest, vectors

N, D = 9, 6


def embeddings() -> tuple[Tensor, Tensor]:
    return vectors(N, D, D)


def nearest_by_correlation(x: Tensor, k: int) -> set[tuple[int, int]]:
    return set(nearest(list(x.detach().numpy()), k, lambda a, b: -float(np.corrcoef(a, b)[0, 1])))


def double_loop(student: Tensor, teacher: Tensor, edges: set[tuple[int, int]]) -> dict[str, float]:
    """Return both terms, unweighted, over the edges (neighbour, anchor) and each node with its own counterpart."""
    s, t = student.detach().numpy(), teacher.numpy()
    n = len(s)
    both = np.corrcoef(np.concatenate([s, t]))
    edge = sum((both[i, j] - both[n + i, n + j]) ** 2 for j, i in edges)
    node = sum((both[i, n + j] - (i == j)) ** 2 for j, i in edges | {(i, i) for i in range(n)})
    return {"edge": math.sqrt(edge), "node": math.sqrt(node)}


GRAPHS: dict[str, dict[str, Any]] = {
    "dense": {},
    "knn": {"graph": "knn", "k": 3},
    "union": {"graph": "knn", "k": 3, "neighbours": "union"},
    "edge_index": {"graph": torch.tensor(EDGES).T},
}


def test_the_terms_are_double_loops() -> None:
    student, teacher = embeddings()
    everybody = {(j, i) for i in range(N) for j in range(N) if i != j}
    graphs: list[tuple[dict[str, Any], set[tuple[int, int]]]] = [({}, everybody), (GRAPHS["edge_index"], set(EDGES))]
    for k in (1, 3, 8):
        s, t = (nearest_by_correlation(x, k) for x in (student, teacher))
        for by, edges in {"teacher": t, "student": s, "union": s | t, "mutual": s & t}.items():
            graphs.append(({"graph": "knn", "k": k, "neighbours": by}, edges))
    for graph, edges in graphs:
        with case(graph):
            terms, expected = EGA(1, 1, **graph).terms(student, teacher), double_loop(student, teacher, edges)
            assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)
            weighted = 0.8 * expected["node"] + 0.24 * expected["edge"]
            assert EGA(**graph)(student, teacher).item() == pytest.approx(weighted, rel=1e-12)


def test_neighbours_that_nobody_shares_leave_the_own_counterparts() -> None:
    student = torch.tensor([[1.0, 2, 3], [1, 2, 3.1], [3, 2, 1], [3, 2, 1.1]], requires_grad=True)
    teacher = student.detach()[[0, 2, 1, 3]]  # each student node's neighbour is another than its teacher node's
    loss = EGA(1, 1, graph="knn", k=1, neighbours="mutual")
    pair = loss.pair(Output(student), Output(teacher))
    assert pair is not None
    assert pair[STUDENT].edge_index.shape == (2, 0)
    terms = loss.terms(student, teacher)
    own = weights(pair, MATCHES)
    assert terms["edge"].item() == 0
    assert terms["node"].item() == pytest.approx((own - 1).norm().item(), rel=1e-6)
    assert torch.autograd.grad(terms["edge"] + terms["node"], student)[0].isfinite().all()


def test_nodes_that_are_their_own_and_no_other_match_exactly() -> None:
    for form in ("matrix", "factored", "blocked"):
        x, loss = torch.eye(4, requires_grad=True), EGA(1, 0, kernel=cosine, form=form)
        value = loss(x, torch.eye(4))
        (gradient,) = torch.autograd.grad(value, x)
        assert value.item() == 0 and value.dtype == torch.float32 and not gradient.any(), form
        assert loss(x.roll(1, 0), torch.eye(4)).item() == pytest.approx(math.sqrt(8)), form


def test_conv_starts_at_the_loss_without_refinement() -> None:
    student, teacher = embeddings()
    for graph in GRAPHS.values():
        plain, started = EGA(**graph), EGA(**graph, refinement=Refinement("conv", D)).double()
        torch.testing.assert_close(started(student, teacher), plain(student, teacher))


def test_what_it_refuses() -> None:
    x, run = torch.zeros(4, 3), RunFacts(D, 3, 4)
    width = "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5"
    smooth = EGA(refinement=Refinement("smooth", 8))
    assert_refused(
        (
            lambda: EGA.for_run(run, refine="con"),
            "unknown refinement 'con': did you mean 'conv'? (known: conv, smooth)",
        ),
        (lambda: EGA()(x, torch.zeros(4, 5)), width),
        (lambda: smooth(x, x), "the refinement was built for embeddings of width 8, got 3"),
    )
