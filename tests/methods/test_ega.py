"""Embedding Graph Alignment against double loops over numpy's correlations, its sparse form against its dense one.

The authors' own numbers are in tests/test_golden.py.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.graph.pair import MATCHES, STUDENT, weights
from relgraph.graph.refine import Refinement
from relgraph.graph.topology import Nearest
from relgraph.methods import EGA, Output, RunFacts, ega_loss
from tests.checks import assert_refused, case
from tests.methods.golden import nearest, vectors

N, D = 9, 6
EDGE_INDEX = torch.tensor([[1, 2, 7, 0, 3], [0, 0, 3, 5, 6]])


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
    "edge_index": {"graph": EDGE_INDEX},
}


def test_the_dense_form_is_a_double_loop() -> None:
    student, teacher = embeddings()
    expected = double_loop(student, teacher, {(j, i) for i in range(N) for j in range(N) if i != j})
    terms = EGA(2, 3).terms(student, teacher)
    assert terms["node"].item() == pytest.approx(2 * expected["node"], rel=1e-12)
    assert terms["edge"].item() == pytest.approx(3 * expected["edge"], rel=1e-12)
    assert EGA()(student, teacher).item() == pytest.approx(0.8 * expected["node"] + 0.24 * expected["edge"], rel=1e-12)


def test_the_sparse_form_is_a_double_loop() -> None:
    student, teacher = embeddings()
    graphs: list[tuple[dict[str, Any], set[tuple[int, int]]]] = [
        ({"graph": EDGE_INDEX}, set(map(tuple, EDGE_INDEX.T.tolist())))
    ]
    for k in (1, 3, 8):
        s, t = (nearest_by_correlation(x, k) for x in (student, teacher))
        for by, edges in {"teacher": t, "student": s, "union": s | t, "mutual": s & t}.items():
            graphs.append(({"graph": "knn", "k": k, "neighbours": by}, edges))
    for graph, edges in graphs:
        with case(graph):
            terms = EGA(1, 1, **graph).terms(student, teacher)
            expected = double_loop(student, teacher, edges)
            assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)


def test_the_rule_of_its_topology_may_be_given() -> None:
    student, teacher = embeddings()
    assert EGA(graph="knn", k=3, neighbours="union").rule == Nearest(3, "union")
    assert torch.equal(EGA(graph=Nearest(3))(student, teacher), EGA(**GRAPHS["knn"])(student, teacher))


@pytest.mark.parametrize("graph", GRAPHS)
def test_scale_and_shift_of_an_embedding_change_nothing(graph: str) -> None:
    loss, (student, teacher) = EGA(**GRAPHS[graph]), (x.detach() for x in embeddings())
    scale, shift = torch.rand(2, N, 1).double() + 0.5, torch.randn(2, N, 1).double()
    moved = loss(scale[0] * student + shift[0], scale[1] * teacher + shift[1])
    torch.testing.assert_close(moved, loss(student, teacher))
    assert torch.equal(ega_loss(student, teacher, **GRAPHS[graph]), loss(student, teacher))


def test_a_degenerate_node_spoils_no_other_and_is_counted() -> None:
    student, teacher = (x.detach() for x in embeddings())
    student[4], teacher[7] = 0.1, 3
    loss = EGA(1, 1)
    pair = loss.pair(Output(student), Output(teacher))
    assert pair is not None
    assert pair["student"].degenerate.nonzero().flatten().tolist() == [4]
    assert pair["teacher"].degenerate.nonzero().flatten().tolist() == [7]
    matrix = weights(pair, STUDENT)
    assert not matrix[4].any() and not weights(pair, MATCHES)[4].any()
    others = [i for i in range(N) if i != 4]
    torch.testing.assert_close(matrix[others][:, others], torch.from_numpy(np.corrcoef(student[others].numpy())))


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


def test_equal_embeddings_differ_in_their_nodes_alone() -> None:
    student = embeddings()[0]
    terms = EGA(1, 1).terms(student, student.detach().clone())
    off_diagonal = np.corrcoef(student.detach().numpy()) - np.eye(N)
    assert terms["edge"].item() == pytest.approx(0, abs=1e-14)
    assert terms["node"].item() == pytest.approx(np.linalg.norm(off_diagonal), rel=1e-12)


def test_conv_starts_at_the_loss_without_refinement() -> None:
    student, teacher = embeddings()
    for graph in GRAPHS.values():
        plain, started = EGA(**graph), EGA(**graph, refinement=Refinement("conv", D)).double()
        torch.testing.assert_close(started(student, teacher), plain(student, teacher))


def test_a_run_gives_the_refinement_the_width_of_its_embeddings() -> None:
    run = RunFacts(dim=D, student_width=3, teacher_width=4)
    found = EGA.for_run(run, refine="conv", graph="knn", k=3)
    assert found.refinement is not None
    assert [tuple(p.shape) for p in found.refinement.parameters()] == 2 * [(D, D), (D, D), (D,)]


def test_what_it_refuses() -> None:
    assert_refused(
        (lambda: EGA(-1), "node_weight must be at least 0, got -1"),
        (lambda: EGA(edge_weight=math.nan), "edge_weight must be at least 0, got nan"),
        (
            lambda: EGA.for_run(RunFacts(D, 3, 4), refine="con"),
            "unknown refinement 'con': did you mean 'conv'? (known: conv, smooth)",
        ),
        (
            lambda: EGA()(torch.zeros(4, 3), torch.zeros(4, 5)),
            "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5",
        ),
        (
            lambda: EGA(refinement=Refinement("smooth", 8))(torch.zeros(4, 3), torch.zeros(4, 3)),
            "the refinement was built for embeddings of width 8, got 3",
        ),
    )
