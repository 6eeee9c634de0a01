"""The student's nodes against the teacher's: every form and topology against loops over the nodes of both networks."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from relgraph.analysis.diagnostics import diagnose
from relgraph.graph import blocks, search
from relgraph.graph.criteria import frobenius, huber, mean_square, sum_square
from relgraph.graph.kernels import Kernel, Product, cosine, euclidean, linear, pearson, squared_distance
from relgraph.graph.pair import MATCHES, TEACHER, Form, across, graph_pair, student_weights, weights
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale, by_anchor_norm, by_max, by_mean, raw
from relgraph.graph.topology import Above, Given, Graph, Nearest, WithOwn
from tests.checks import assert_refused, case
from tests.graph.test_criteria import CRITERIA, SCALES
from tests.graph.test_factored import largest_tensor, with_gradient
from tests.graph.test_forms import parts_of
from tests.graph.test_kernels import each_kernel
from tests.methods.golden import EDGES, nearest

N, D = 8, 5
IN_ROWS: tuple[Form, ...] = ("matrix", "blocked")
BOTH = partial(Relation, against="teacher")


def nodes(count: int = N) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(count, D).double(), torch.randn(count, D).double()
    return student, teacher


def degenerate() -> tuple[Tensor, Tensor]:
    student, teacher = nodes()
    student[2], teacher[3] = 1.5, 0.0  # without variance, and without length
    student[5], teacher[6] = student[6], teacher[7]
    student[1] = teacher[1]  # at distance 0 across the networks
    return student, teacher


def loop(
    weight: Callable[[Tensor, Tensor], Tensor], edges: list[tuple[int, int]], row: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean over anchors of a row of the weights from a student's, and a teacher's, node to the teacher's."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        total = torch.zeros(()).double()
        for i in range(len(teacher)):
            near = sorted(j for j, anchor in edges if anchor == i)
            if near:
                s, t = (torch.stack([weight(x[i], teacher[j]) for j in near]) for x in (student, teacher))
                total = total + row(s, t)
        return total / len(teacher)

    return loss


def dot(x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = x @ y / (x.norm() * y.norm())
    return found


def widest(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().amax(-1)


OWN = [(i, i) for i in range(N)]
ALL = [(j, i) for i in range(N) for j in range(N)]


def graphs(teacher: Tensor, student: Tensor) -> list[tuple[str, Graph, list[tuple[int, int]]]]:
    def near(x: Tensor, k: int) -> list[tuple[int, int]]:
        return nearest(list(x), k, lambda one, other: -float(dot(one, other)))

    union = sorted({*near(teacher, 2), *near(student, 2)})
    return [
        ("all pairs", "dense", ALL),
        ("nearest", Nearest(3), near(teacher, 3)),
        ("with own", WithOwn(Nearest(3)), OWN + near(teacher, 3)),
        ("student's", Nearest(3, "student"), near(student, 3)),  # of the student's own graph, in every form
        ("union", Nearest(2, "union"), union),
        ("given", torch.tensor(EDGES).T, EDGES),
    ]


def test_every_topology_and_form_is_a_loop_over_student_and_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST", 3 * N)
    monkeypatch.setattr(search, "BLOCK", 3)
    monkeypatch.setattr(search, "CHUNK", 5)
    student, teacher = nodes()
    for name, graph, edges in graphs(teacher, student):
        expected = with_gradient(loop(dot, edges, widest), student, teacher)
        for form in IN_ROWS:
            with case(name, form):
                relation = BOTH(cosine, graph, criterion=widest, form=form)
                found = with_gradient(relation, student, teacher)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_scales_of_edges_found_in_blocks_are_those_of_the_matrix() -> None:
    student, teacher = nodes()
    rules: tuple[Graph, ...] = Above(0.5, "union"), Nearest(2, "mutual"), Given(torch.tensor(EDGES).T)
    for rule, kernel, scale in product(rules, (pearson, euclidean), (by_mean, by_max)):
        relations = (BOTH(kernel, rule, scale, huber, form) for form in IN_ROWS)
        one, other = (with_gradient(relation, student, teacher) for relation in relations)
        with case(rule, kernel.name, scale.name):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def compare(relation: Relation, student: Tensor, teacher: Tensor, block: int) -> Tensor:
    z = relation.kernel.nodes(student), relation.kernel.nodes(teacher)
    return relation.in_blocks(*z, block=block)


@each_kernel
def test_blocks_are_the_matrix(kernel: Kernel) -> None:
    student, teacher = degenerate()
    for scale, criterion in parts_of(kernel):
        relation = BOTH(kernel, scale=scale, criterion=criterion, form="matrix")
        expected = with_gradient(relation, student, teacher)
        for block in (1, 3):
            with case(scale.name, criterion.name, block):
                found = with_gradient(partial(compare, relation, block=block), student, teacher)
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_products_are_the_matrix() -> None:
    student, teacher = degenerate()
    factored = [scale for scale in SCALES.values() if scale.factors is not None]
    squares = [criterion for criterion in CRITERIA.values() if criterion.square]
    assert {raw, by_anchor_norm} <= {*factored} and {frobenius, mean_square} <= {*squares}
    for kernel, scale, criterion in product((linear, cosine, pearson), factored, squares):
        with case(kernel.name, scale.name, criterion.name):
            one, other = (
                with_gradient(BOTH(kernel, scale=scale, criterion=criterion, form=form), student, teacher)
                for form in ("factored", "matrix")
            )
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_own_number_belongs_to_the_teachers_diagonal_alone() -> None:
    """A marked kernel shows where it stands: in no weight of the student's, however the relation is computed."""
    marked = Kernel("marked", torch.positive, Product(squared_distance.pairs, own=100.0), nearest_is_largest=False)

    def row(student: Tensor, teacher: Tensor) -> Tensor:
        assert not (student == 100).any()
        return (teacher == 100).sum(-1).to(student.dtype)

    student, teacher = nodes()
    graphs: tuple[Graph, ...] = ("dense", WithOwn(Nearest(2)))
    for graph, form in product(graphs, IN_ROWS):
        with case(graph, form):
            assert BOTH(marked, graph, criterion=row, form=form)(student, teacher) == 1
    same = student.clone()
    assert BOTH(euclidean, criterion=sum_square)(same, student.clone()) == 0


def test_the_pair_has_the_teachers_graph_and_the_cross_graph() -> None:
    student, teacher = nodes()
    for graph in ("dense", Nearest(3), WithOwn(Nearest(3))):
        pair = BOTH(cosine, graph).builder(student, teacher)
        assert set(pair.edge_types) == {TEACHER, MATCHES}
        edges = len(pair[TEACHER].edge_weight)
        assert len(pair[MATCHES].edge_weight) - edges == (N if isinstance(graph, Nearest) else 0)
        assert torch.equal(pair[MATCHES].edge_index[:, -edges:], pair[TEACHER].edge_index)
        candidate, anchor = pair[TEACHER].edge_index
        found = student_weights(pair)
        assert torch.equal(found, across(pair))
        torch.testing.assert_close(found.flatten(), cosine(student, teacher)[anchor, candidate])
    whole = graph_pair(student, teacher, kernel=cosine)  # a pair that has all three is read as well
    torch.testing.assert_close(BOTH(cosine).of_pair(whole), BOTH(cosine)(student, teacher))
    assert torch.equal(student_weights(whole), weights(whole, ("student", "relates", "student")))
    sparse = graph_pair(student, teacher, kernel=cosine, topology=Nearest(3))
    torch.testing.assert_close(BOTH(cosine).of_pair(sparse), BOTH(cosine, Nearest(3))(student, teacher))


def test_such_a_pair_is_measured_by_its_cross_graph() -> None:
    student, teacher = nodes(12)
    s, t = (cosine(x, teacher).fill_diagonal_(-2).topk(3).indices for x in (student, teacher))
    expected = sum(len({*a} & {*b}) for a, b in zip(s.tolist(), t.tolist(), strict=True))
    for graph in ("dense", Nearest(4)):
        total, count = diagnose(BOTH(cosine, graph).builder(student, teacher), cosine, 3)["overlap"].tolist()
        assert (total, count) == (expected, 36)


def test_batches_of_graphs_are_a_loop_over_them() -> None:
    student, teacher = torch.randn(3, N, D).double(), torch.randn(3, N, D).double()
    for graph in ("dense", torch.tensor(EDGES).T):
        relation = BOTH(cosine, graph, criterion=mean_square)
        if isinstance(graph, Tensor):
            relation = BOTH(cosine, relation.topology(teacher[0], teacher[0], cosine), criterion=mean_square)
        expected = torch.stack([relation(s, t) for s, t in zip(student, teacher, strict=True)]).mean()
        torch.testing.assert_close(relation(student, teacher), expected)


def test_degenerate_nodes_and_half_precision_give_finite_numbers() -> None:
    """L11, L6."""
    forms: tuple[Form, ...] = ("matrix", "factored", "blocked")
    half = torch.float16, torch.bfloat16, torch.float32
    for form, count, dtype, (kernel, fill) in product(forms, (1, 6), half, ((cosine, 0.0), (pearson, 3.0))):
        student, teacher = torch.full((count, 4), fill, dtype=dtype), torch.randn(count, 4).to(dtype)
        for ends in ((student, teacher), (teacher, student), (student, student)):
            with case(form, count, dtype, kernel.name), torch.autocast("cpu", dtype=torch.bfloat16):
                found = with_gradient(BOTH(kernel, form=form), *(x.clone() for x in ends))
                assert all(each.isfinite().all() for each in found)
                assert BOTH(kernel, form=form)(*ends).dtype == torch.float32


def test_no_matrix_is_held_in_blocks_and_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST", 4000)
    student, teacher = torch.randn(400, 3, requires_grad=True), torch.randn(400, 3)
    cases: list[tuple[Form, Scale]] = [("blocked", scale) for scale in (raw, by_mean, by_max)]
    for form, scale in (*cases, ("factored", by_anchor_norm)):
        with case(form, scale.name), largest_tensor() as seen:
            torch.autograd.backward(BOTH(cosine, scale=scale, form=form)(student, teacher))
        assert seen.numel <= 4000


def test_what_is_refused() -> None:
    student, teacher = nodes()
    told = (
        "relating the student's nodes to the teacher's needs embeddings of one width: project the student to the "
        "teacher's (--target-space teacher, or a linear layer), got 3 and 5"
    )
    graph = "unknown graph against which the student's nodes are related 'techer': did you mean 'teacher'? (known: …"
    assert_refused(
        (lambda: BOTH(cosine)(student[:, :3], teacher), told),
        (lambda: BOTH(cosine, form="blocked")(student[:, :3], teacher), told),
        (lambda: BOTH(cosine)(student[None, :, :3], teacher[None]), told),
        (lambda: Relation(cosine, against="techer"), graph),  # type: ignore[arg-type]
    )
    assert Relation(cosine, against="own") == Relation(cosine)
