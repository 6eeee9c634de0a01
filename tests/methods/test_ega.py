"""Embedding Graph Alignment against double loops over numpy's correlations, its sparse form against its dense one.

The authors' own numbers are in tests/test_golden.py.
"""

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.errors import RelgraphError
from relgraph.graph.pair import MATCHES, STUDENT, weights
from relgraph.graph.refine import Refinement
from relgraph.graph.topology import Chooser, Nearest
from relgraph.methods import EGA, Batch, Output, RunFacts, ega_loss

N, D = 9, 6
EDGE_INDEX = torch.tensor([[1, 2, 7, 0, 3], [0, 0, 3, 5, 6]])


def embeddings(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, D).double().requires_grad_(), torch.randn(n, D).double()


def value_and_gradient(loss: EGA, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(student, teacher)
    return value, torch.autograd.grad(value, student)[0]


def neighbours(x: Tensor, k: int) -> set[tuple[int, int]]:
    """Return the edges (neighbour, anchor) of each row's k most correlated others."""
    r = np.corrcoef(x.detach().numpy())
    return {(j, i) for i in range(len(x)) for j in np.argsort(-r[i]).tolist()[: k + 1] if j != i}


def double_loop(student: Tensor, teacher: Tensor, edges: set[tuple[int, int]]) -> dict[str, float]:
    """Return both terms, unweighted, over the edges (neighbour, anchor) and each node with its own counterpart."""
    s, t = student.detach().numpy(), teacher.numpy()
    n = len(s)
    both = np.corrcoef(np.concatenate([s, t]))
    edge = sum((both[i, j] - both[n + i, n + j]) ** 2 for j, i in edges)
    node = sum((both[i, n + j] - (i == j)) ** 2 for j, i in edges | {(i, i) for i in range(n)})
    return {"edge": math.sqrt(edge), "node": math.sqrt(node)}


def everyone(n: int = N) -> set[tuple[int, int]]:
    return {(j, i) for i in range(n) for j in range(n) if i != j}


def refined(name: str | None, width: int = D) -> Refinement | None:
    return None if name is None else Refinement(name, width)


GRAPHS: dict[str, EGA] = {
    "dense": EGA(),
    "knn": EGA(graph="knn", k=3),
    "union": EGA(graph="knn", k=3, neighbours="union"),
    "edge_index": EGA(graph=EDGE_INDEX),
}
each_graph = pytest.mark.parametrize("graph", GRAPHS)


def test_the_dense_form_is_a_double_loop() -> None:
    student, teacher = embeddings()
    expected = double_loop(student, teacher, everyone())
    terms = EGA(2, 3).terms(student, teacher)
    assert terms["node"].item() == pytest.approx(2 * expected["node"], rel=1e-12)
    assert terms["edge"].item() == pytest.approx(3 * expected["edge"], rel=1e-12)
    assert EGA()(student, teacher).item() == pytest.approx(0.8 * expected["node"] + 0.24 * expected["edge"], rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("by", ["teacher", "student", "union", "mutual"])
def test_the_sparse_form_is_a_double_loop(by: Chooser, k: int) -> None:
    student, teacher = embeddings()
    s, t = neighbours(student, k), neighbours(teacher, k)
    edges = {"teacher": t, "student": s, "union": s | t, "mutual": s & t}[by]
    expected = double_loop(student, teacher, edges)
    terms = EGA(1, 1, graph="knn", k=k, neighbours=by).terms(student, teacher)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)


def test_given_edges_are_a_double_loop() -> None:
    student, teacher = embeddings()
    expected = double_loop(student, teacher, set(map(tuple, EDGE_INDEX.T.tolist())))
    terms = EGA(1, 1, graph=EDGE_INDEX).terms(student, teacher)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("refine", [None, "smooth", "conv"])
@pytest.mark.parametrize("by", ["teacher", "student", "union", "mutual"])
@pytest.mark.parametrize("n", [2, N])
def test_all_neighbours_equal_the_dense_form(n: int, by: Chooser, refine: str | None) -> None:
    student, teacher = embeddings(n)
    dense = EGA(refinement=refined(refine)).double()
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    sparse = EGA(graph="knn", k=n - 1, neighbours=by, refinement=refined(refine)).double()
    sparse.load_state_dict(dense.state_dict())
    found, expected = (value_and_gradient(loss, student, teacher) for loss in (sparse, dense))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    given = EGA(graph=torch.tensor(sorted(everyone(n))).T, refinement=refined(refine)).double()
    given.load_state_dict(dense.state_dict())
    torch.testing.assert_close(value_and_gradient(given, student, teacher), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("refine", [None, "smooth", "conv"])
@pytest.mark.parametrize("graph", ["dense", "knn"])
def test_relabelling_the_batch_changes_nothing(graph: str, refine: str | None) -> None:
    student, teacher = embeddings()
    order = torch.randperm(N)
    loss = EGA(graph=graph, k=3 if graph == "knn" else None, refinement=refined(refine)).double()
    value, gradient = value_and_gradient(loss, student, teacher)
    moved, moved_gradient = value_and_gradient(loss, student.detach()[order].requires_grad_(), teacher[order])
    torch.testing.assert_close(moved, value)
    torch.testing.assert_close(moved_gradient, gradient[order])


def test_the_rule_of_its_topology_may_be_given() -> None:
    student, teacher = embeddings()
    assert EGA(graph="knn", k=3, neighbours="union").rule == Nearest(3, "union")
    assert torch.equal(EGA(graph=Nearest(3))(student, teacher), GRAPHS["knn"](student, teacher))


@each_graph
def test_scale_and_shift_of_an_embedding_change_nothing(graph: str) -> None:
    student, teacher = (x.detach() for x in embeddings())
    scale, shift = torch.rand(2, N, 1).double() + 0.5, torch.randn(2, N, 1).double()
    moved = GRAPHS[graph](scale[0] * student + shift[0], scale[1] * teacher + shift[1])
    torch.testing.assert_close(moved, GRAPHS[graph](student, teacher))


@each_graph
def test_the_teacher_receives_no_gradient(graph: str) -> None:
    student, teacher = embeddings()
    teacher.requires_grad_()
    logits = torch.randn(N, 3, requires_grad=True)
    loss = GRAPHS[graph](Output(student, logits), Output(teacher, logits))
    torch.autograd.backward(loss)
    assert student.grad is not None and student.grad.any()
    assert teacher.grad is None and logits.grad is None


@each_graph
def test_the_loss_is_pure(graph: str) -> None:
    loss, (student, teacher) = GRAPHS[graph], embeddings()
    before = student.detach().clone(), teacher.clone()
    first = value_and_gradient(loss, student, teacher)
    loss.remember(Output(student), Output(teacher), Batch(torch.arange(N), torch.zeros(N, dtype=torch.long)))
    for a, b in zip(first, value_and_gradient(loss, student, teacher), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("refine", [None, "smooth", "conv"])
@pytest.mark.parametrize("graph", ["dense", "knn"])
def test_relations_are_float32_under_autocast(graph: str, refine: str | None, dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype).requires_grad_() for x in embeddings())
    loss = EGA(graph=graph, k=3 if graph == "knn" else None, refinement=refined(refine))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss, student, teacher)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert torch.equal(value, loss(student.float(), teacher.float()))
    torch.testing.assert_close(value.double(), loss.double()(student.double(), teacher.double()), rtol=1e-5, atol=1e-6)


@each_graph
def test_gradcheck(graph: str) -> None:
    student, teacher = embeddings()
    assert torch.autograd.gradcheck(lambda s: GRAPHS[graph](s, teacher), (student,))


@pytest.mark.parametrize("refine", ["smooth", "conv"])
@pytest.mark.parametrize("graph", ["dense", "knn"])
def test_gradcheck_with_refinement(graph: str, refine: str) -> None:
    student, teacher = embeddings(6)
    loss = EGA(graph=graph, k=2 if graph == "knn" else None, refinement=refined(refine)).double()
    for parameter in loss.parameters():
        nn.init.normal_(parameter)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


SIGNS = torch.randn(4, D, generator=torch.Generator().manual_seed(5)).sign()
DEGENERATE = {
    "a constant row": torch.cat([torch.randn(3, D), torch.full((1, D), 0.1)]),
    "constant rows": torch.full((4, D), 7.7),
    "two equal rows": torch.randn(3, D)[[0, 1, 1, 2]],
    "all rows equal": torch.randn(1, D).repeat(4, 1),
    "all zeros": torch.zeros(4, D),
    "one image": torch.randn(1, D),
    "two images": torch.randn(2, D),
    "one dimension": torch.randn(4, 1),
    "float16 extremes": (65504 * SIGNS).half(),
    "bfloat16 extremes": (1e38 * SIGNS).bfloat16(),
}


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("refine", [None, "smooth", "conv"])
@pytest.mark.parametrize("graph", ["dense", "knn"])
def test_degenerate_batches_give_finite_values_and_gradients(
    graph: str, refine: str | None, case: str, who: str
) -> None:
    bad = DEGENERATE[case]
    good = torch.randn(bad.shape).to(bad.dtype)
    student = (good if who == "teacher" else bad).clone().requires_grad_()
    teacher = good if who == "student" else bad
    if graph == "knn" and len(bad) == 1:
        pytest.skip("one image has no neighbours")
    loss = EGA(graph=graph, k=1 if graph == "knn" else None, refinement=refined(refine, bad.shape[1]))
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.isfinite() and gradient.isfinite().all()


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


def test_the_loss_learns_the_students_refinement_and_not_the_teachers() -> None:
    student, teacher = embeddings()
    loss = EGA(refinement=refined("conv")).double()
    torch.autograd.backward(loss(student, teacher))
    assert loss.refinement is not None
    assert all(p.grad is not None and p.grad.any() for p in loss.refinement.student.parameters())
    # The teacher's network is part of the loss's value: whoever trains the loss leaves its `teacher_parameters` out.
    assert {name.split(".")[1] for name, _ in loss.named_parameters()} == {"student", "teacher"}


@pytest.mark.parametrize("graph", ["dense", "knn"])
def test_the_teachers_refinement_learns_from_the_teachers_cross_entropy_alone(graph: str) -> None:
    student, teacher = embeddings()
    teacher.requires_grad_()
    labels = torch.arange(N) % 3
    classify = nn.Linear(D, 3).double()
    loss = EGA(graph=graph, k=3 if graph == "knn" else None, refinement=refined("conv")).double()
    for parameter in loss.parameters():
        nn.init.normal_(parameter)
    outputs, batch = (Output(student), Output(teacher)), Batch(torch.arange(N), labels)
    terms = loss.teacher_terms(*outputs, batch, lambda output: cross_entropy(classify(output.embedding), labels))
    pair = loss.pair(*outputs)
    assert pair is not None
    moved = pair["teacher"].refined
    assert list(terms) == ["refined"]
    torch.testing.assert_close(terms["refined"], cross_entropy(classify(moved), labels))
    torch.autograd.backward(terms["refined"])
    assert loss.refinement is not None
    assert all(p.grad is not None and p.grad.any() for p in loss.teacher_parameters())
    assert list(loss.teacher_parameters()) == list(loss.refinement.teacher.parameters())
    assert all(p.grad is None for p in loss.refinement.student.parameters())
    assert teacher.grad is not None and teacher.grad.any() and student.grad is None
    assert classify.weight.grad is not None and classify.weight.grad.any()


@pytest.mark.parametrize("refine", [None, "smooth"])
def test_without_parameters_there_is_no_refinement_of_the_teacher_to_learn(refine: str | None) -> None:
    student, teacher = embeddings()
    loss = EGA(refinement=refined(refine))
    batch = Batch(torch.arange(N), torch.zeros(N, dtype=torch.long))
    assert loss.teacher_terms(Output(student), Output(teacher), batch, lambda output: output.embedding.sum()) == {}
    assert not list(loss.parameters()) and list(loss.teacher_parameters()) == []


def test_conv_starts_at_the_loss_without_refinement() -> None:
    student, teacher = embeddings()
    for graph, k in (("dense", None), ("knn", 3)):
        plain, started = EGA(graph=graph, k=k), EGA(graph=graph, k=k, refinement=refined("conv")).double()
        torch.testing.assert_close(started(student, teacher), plain(student, teacher))


@each_graph
def test_the_function_is_the_module(graph: str) -> None:
    student, teacher = embeddings()
    options = {
        "dense": {},
        "knn": {"graph": "knn", "k": 3},
        "union": {"graph": "knn", "k": 3, "neighbours": "union"},
        "edge_index": {"graph": EDGE_INDEX},
    }[graph]
    assert torch.equal(ega_loss(student, teacher, **options), GRAPHS[graph](student, teacher))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_weight": -1}, "node_weight must be at least 0, got -1"),
        ({"edge_weight": math.nan}, "edge_weight must be at least 0, got nan"),
        ({"graph": "dnse"}, "unknown graph 'dnse': did you mean 'dense'? (known: dense, knn)"),
        ({"graph": "knn", "k": 0}, "k must be at least 1, got 0"),
        ({"k": 3}, "k and neighbours belong to the graph 'knn', got k = 3 and neighbours = 'teacher'"),
        (
            {"graph": torch.zeros(3, 64, dtype=torch.long)},
            "edge_index must be (2, E) of integers, got (3, 64) of torch.int64",
        ),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        EGA(**options)  # type: ignore[arg-type]


def test_a_run_gives_the_refinement_the_width_of_its_embeddings() -> None:
    run = RunFacts(dim=D, student_width=3, teacher_width=4)
    found = EGA.for_run(run, refine="conv", graph="knn", k=3)
    assert found.refinement is not None
    assert [tuple(p.shape) for p in found.refinement.parameters()] == 2 * [(D, D), (D, D), (D,)]
    with pytest.raises(
        RelgraphError, match=r"^unknown refinement 'con': did you mean 'conv'\? \(known: conv, smooth\)$"
    ):
        EGA.for_run(run, refine="con")


@pytest.mark.parametrize(
    ("loss", "shapes", "message"),
    [
        (
            EGA(),
            ((4, 3), (5, 3)),
            "embeddings must be (N, D), student and teacher of the same N images, got (4, 3) and (5, 3)",
        ),
        (
            EGA(),
            ((4, 3), (4, 5)),
            "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5",
        ),
        (EGA(), ((0, 3), (0, 3)), "embeddings must not be empty, got (0, 3) and (0, 3)"),
        (EGA(), ((2, 4, 3), (2, 4, 3)), "a graph pair holds one batch (N, D), got (2, 4, 3)"),
        (EGA(graph="knn"), ((4, 3), (4, 3)), "k must be between 1 and the number of nodes less one, 3, got 8"),
        (EGA(graph=EDGE_INDEX), ((4, 3), (4, 3)), "edge_index must name nodes 0 to 3, got 7"),
        (
            EGA(refinement=Refinement("smooth", 8)),
            ((4, 3), (4, 3)),
            "the refinement was built for embeddings of width 8, got 3",
        ),
    ],
)
def test_embeddings_are_checked(loss: EGA, shapes: tuple[tuple[int, ...], tuple[int, ...]], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(*(torch.zeros(shape) for shape in shapes))
