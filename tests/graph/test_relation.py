"""Relations put together: sparse against dense, invariances, purity, precision, messages."""

import math
import re
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import cross_entropy, huber, kl, mean_square
from relgraph.graph.kernels import Kernel, cosine, dot, euclidean, linear, pearson, squared_euclidean, unit
from relgraph.graph.pair import check_nodes
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm, by_anchor_sum, by_max, by_mean, softmax
from relgraph.graph.topology import ALL_PAIRS, Edges, Given, Graph, Nearest, Rule

shifted_cosine = Kernel("shifted cosine", unit, dot, lambda c: (c + 1) / 2)


def compositions(topology: Graph = ALL_PAIRS) -> dict[str, Relation]:
    return {
        "ega edges": Relation(topology=topology),
        "rkd distance": Relation(euclidean, topology, by_mean, huber),
        "sp": Relation(linear, topology, by_anchor_norm, mean_square),
        "pkt": Relation(shifted_cosine, topology, by_anchor_sum, kl),
        "softmax": Relation(cosine, topology, softmax(0.5), cross_entropy),
        "irg": Relation(squared_euclidean, topology, by_max, mean_square),
    }


NAMES = list(compositions())
named = pytest.mark.parametrize("name", NAMES)


def embeddings(n: int = 8, student: int = 6, teacher: int = 10) -> tuple[Tensor, Tensor]:
    return torch.randn(n, student).double().requires_grad_(), torch.randn(n, teacher).double()


def value_and_gradient(relation: Relation, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    value = relation(student, teacher)
    return value, torch.autograd.grad(value, student)[0]


def every_pair(student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
    """Be the rule of all pairs, each node with itself included, as an edge list in a random order."""
    n = len(teacher)
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))[torch.randperm(n * n)]
    return Edges(pairs.T, n)


@named
def test_an_edge_list_of_all_pairs_equals_all_pairs(name: str) -> None:
    student, teacher = embeddings()
    dense = value_and_gradient(compositions()[name], student, teacher)
    sparse = value_and_gradient(compositions(every_pair)[name], student, teacher)
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-14)


@named
def test_all_neighbours_equal_all_pairs_without_the_diagonal(name: str) -> None:
    student, teacher = embeddings()
    relation = compositions()[name]
    off = ~torch.eye(8, dtype=torch.bool)
    # Without the diagonal each row is a matrix of its own, (N, N - 1).
    s, t = (relation.kernel(x)[off].view(8, 7) for x in (student, teacher))
    dense = relation.compare(s, t, ALL_PAIRS)
    expected = dense, torch.autograd.grad(dense, student)[0]
    for by in ("teacher", "student"):
        rule = Nearest(7, "teacher" if by == "teacher" else "student")
        found = value_and_gradient(compositions(rule)[name], student, teacher)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_what_the_diagonal_means() -> None:
    student, teacher = embeddings()
    dense, sparse = compositions(), compositions(Nearest(7))
    torch.testing.assert_close(sparse["ega edges"](student, teacher), dense["ega edges"](student, teacher))
    # The diagonal of distances is 0 on both sides: it adds nothing to a sum, and N of N^2 entries to a mean.
    for name in ("rkd distance", "irg"):
        torch.testing.assert_close(sparse[name](student, teacher) * 7 / 8, dense[name](student, teacher))


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3), Nearest(3, "mutual")], ids=str)
@named
def test_relabelling_the_batch_changes_nothing(name: str, rule: Rule) -> None:
    student, teacher = embeddings()
    order = torch.randperm(8)
    relation = compositions(rule)[name]
    value, gradient = value_and_gradient(relation, student, teacher)
    moved, moved_gradient = value_and_gradient(relation, student.detach()[order].requires_grad_(), teacher[order])
    torch.testing.assert_close(moved, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-10, atol=1e-14)


@named
def test_a_relation_is_pure(name: str) -> None:
    student, teacher = embeddings()
    relation = compositions(Nearest(3))[name]
    before = student.detach().clone(), teacher.clone()
    assert torch.equal(relation(student, teacher), relation(student, teacher))
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3)], ids=str)
@named
def test_relations_are_float32_under_autocast(name: str, rule: Rule, dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype) for x in embeddings())
    relation = compositions(rule)[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = relation(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, relation(student.float(), teacher.float()))
    torch.testing.assert_close(value.double(), relation(student.double(), teacher.double()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2)], ids=str)
@named
def test_gradcheck(name: str, rule: Rule) -> None:
    student, teacher = embeddings(5)
    relation = compositions(rule)[name]
    assert torch.autograd.gradcheck(lambda s: relation(s, teacher), (student,))


@pytest.mark.parametrize("case", ["constant rows", "equal rows", "zeros", "one node", "two nodes", "float16 extremes"])
@named
def test_degenerate_batches_give_finite_values_and_gradients(name: str, case: str) -> None:
    nodes = {
        "constant rows": torch.cat([torch.randn(2, 6), torch.full((2, 6), 0.1)]),
        "equal rows": torch.randn(2, 6)[[0, 1, 1]],
        "zeros": torch.zeros(4, 6),
        "one node": torch.randn(1, 6),
        "two nodes": torch.randn(2, 6),
        "float16 extremes": 65504 * torch.randn(4, 6).sign(),
    }[case]
    rules: list[Rule] = [ALL_PAIRS] if len(nodes) == 1 else [ALL_PAIRS, Nearest(1)]
    for rule in rules:
        for student, teacher in combinations_with_replacement((nodes, torch.randn_like(nodes)), 2):
            leaf = student.clone().requires_grad_()
            value, gradient = value_and_gradient(compositions(rule)[name], leaf, teacher)
            assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            torch.zeros(4, 3),
            torch.zeros(5, 3),
            "embeddings must be (N, D), student and teacher of the same N images, got (4, 3) and (5, 3)",
        ),
        (
            torch.zeros(4),
            torch.zeros(4),
            "embeddings must be (N, D), student and teacher of the same N images, got (4,) and (4,)",
        ),
        (torch.zeros(0, 3), torch.zeros(0, 3), "embeddings must not be empty, got (0, 3) and (0, 3)"),
        (torch.zeros(4, 0), torch.zeros(4, 3), "embeddings must not be empty, got (4, 0) and (4, 3)"),
        (
            torch.zeros(4, 3, dtype=torch.long),
            torch.zeros(4, 3),
            "embeddings must be of floating point, got torch.int64 and torch.float32",
        ),
        (
            torch.zeros(4, 3),
            torch.zeros(4, 3, device="meta"),
            "student and teacher must lie on one device, got cpu and meta",
        ),
    ],
)
def test_embeddings_are_checked(student: Tensor, teacher: Tensor, message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        Relation()(student, teacher)


def test_matching_nodes_needs_one_width() -> None:
    check_nodes(torch.zeros(4, 3), torch.zeros(4, 5))
    message = "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5"
    with pytest.raises(RelgraphError, match=f"^{message}$"):
        check_nodes(torch.zeros(4, 3), torch.zeros(4, 5), one_width=True)


def test_given_edges() -> None:
    student, teacher = embeddings()
    edges = torch.tensor([[1, 2, 7], [0, 0, 3]])
    s, t = pearson(student), pearson(teacher)
    expected = math.sqrt(sum((s[i, j] - t[i, j]).item() ** 2 for j, i in edges.T.tolist()))
    assert Relation(topology=Given(edges))(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [6, 1500])
def test_a_row_that_is_not_one_number_for_each_anchor_is_refused_in_every_form(n: int) -> None:
    x = torch.randn(n, 2)
    for form in ("matrix", "blocked"):
        wrong = Relation(criterion=torch.nn.functional.mse_loss, form=form)
        with pytest.raises(
            RelgraphError,
            match=r"^the row of a criterion returns one number for each anchor: expected \(\d+,\), got \(\)",
        ):
            wrong(x, x)
    with pytest.raises(RelgraphError, match=r"^a scale keeps the shape of the weights: expected"):
        Relation(scale=lambda weights: weights.sum(-1))(x, x)
    with pytest.raises(RelgraphError, match=r"^a rule returns Edges\(edge_index, anchors\), got Tensor$"):
        Relation(topology=lambda student, teacher, kernel: student)(x[:6], x[:6])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"kernel": lambda x, y: x}, "the kernel of a relation is a Kernel, such as"),
        ({"topology": mean_square}, "the topology of a relation is a Rule, such as"),
        ({"topology": Nearest}, "the topology of a relation is a Rule, such as"),
        ({"scale": "softmax"}, "the scale of a relation is a Scale, such as"),
        ({"criterion": pearson}, "the criterion of a relation is a Criterion, such as"),
    ],
)
def test_a_part_of_another_kind_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{message}"):
        Relation(**parts)
