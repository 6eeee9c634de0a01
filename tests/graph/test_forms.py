"""The blocked form against the matrix, edges found in blocks against those of the matrix, and what "auto" takes."""

import itertools
from functools import partial
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor

from relgraph.graph import blocks, pair
from relgraph.graph.criteria import frobenius, half_square, huber, mean_square
from relgraph.graph.kernels import Kernel, cosine, euclidean, gaussian, identity, linear, pearson
from relgraph.graph.pair import Form, PairBuilder, check_form
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale, by_anchor_norm, by_anchor_sum, by_max, by_mean, raw
from relgraph.graph.search import edge_weights
from relgraph.graph.topology import ALL_PAIRS, Above, Edges, Given, Nearest, Rule, WithOwn
from tests.checks import assert_refused, case
from tests.graph.test_criteria import CRITERIA, SCALES
from tests.graph.test_factored import largest_tensor, with_gradient
from tests.graph.test_kernels import each_kernel

N = 9
BLOCKS = (1, 4)  # larger ones are one block, as of `test_blocks`


def nodes() -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(N, 5).double(), torch.randn(N, 4).double()
    student[2], teacher[3] = 1.5, 0.0  # without variance, and without length
    student[5] = student[6]  # at distance 0
    return student, teacher


def compare(relation: Relation, student: Tensor, teacher: Tensor, block: int) -> Tensor:
    z = relation.kernel.nodes(student), relation.kernel.nodes(teacher)
    return relation.in_blocks(*z, block=block)


# Each scale with two criteria, each criterion with two scales; what reads probabilities or their logarithms with those.
PARTS = [
    (SCALES["softmax"], CRITERIA["cross_entropy"]),
    *(
        (s, c)
        for s, c in itertools.product(SCALES.values(), CRITERIA.values())
        if (s in (raw, by_mean) or c in (frobenius, huber)) and c.name not in ("KL", "cross-entropy")
    ),
]


def parts_of(kernel: Kernel) -> list[tuple[Scale, Any]]:
    """Return all parts for a product and a distance; for the other kernels, which they cannot tell, some."""
    return PARTS if kernel in (pearson, euclidean) else [PARTS[0], (raw, frobenius), (by_mean, huber)]


@each_kernel
def test_value_and_gradient_are_those_of_the_matrix(kernel: Kernel) -> None:
    torch.manual_seed(len(kernel.name))  # rounding of two equal nodes' distance shows in the gradient of some draws
    student, teacher = nodes()
    parts = [*parts_of(kernel), *([(SCALES["by_anchor_sum"], CRITERIA["kl"])] if kernel.name == "gaussian" else [])]
    for scale, criterion in parts:
        relation = Relation(kernel, scale=scale, criterion=criterion, form="matrix")
        expected = with_gradient(relation, student, teacher)
        for block in BLOCKS:
            with case(scale.name, criterion.name, block):
                found = with_gradient(partial(compare, relation, block=block), student, teacher)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    relation = Relation(kernel, form="matrix")  # of equal nodes value and gradient are 0
    assert all(not found.any() for found in with_gradient(partial(compare, relation, block=2), student, student))


def test_every_type_gives_what_the_matrix_does() -> None:
    for dtype, scale in itertools.product(
        (torch.float16, torch.bfloat16, torch.float32), (raw, by_mean, by_anchor_norm)
    ):
        student, teacher = (x.to(dtype) for x in nodes())
        rough = 1e-5 if dtype == torch.float32 else 2e-2
        relation = Relation(euclidean, scale=scale, criterion=huber)
        expected = with_gradient(relation, student, teacher)
        found = with_gradient(partial(compare, relation, block=2), student, teacher)
        with case(dtype, scale.name):
            torch.testing.assert_close(found, expected, rtol=rough, atol=rough)


def test_own_distances_are_0_in_every_block() -> None:
    x = 1e4 + torch.randn(7, 3)
    for start in range(7):
        rows = euclidean.rows(x, slice(start, start + 1))
        assert rows[0, start] == 0
        torch.testing.assert_close(rows, euclidean(x)[start : start + 1], rtol=1e-4, atol=1e-3)


def largest(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().amax(-1)


class Saved:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_no_more_than_a_block_is_ever_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of matrices, at once; nor does a graph of all blocks wait for the backward pass."""
    monkeypatch.setattr(blocks, "LARGEST", 4000)
    student, teacher = torch.randn(200, 3, requires_grad=True), torch.randn(200, 3)
    parts: list[tuple[Scale, Any]] = [(raw, huber), (by_mean, huber), (by_max, huber), (raw, largest)]
    for scale, criterion in parts:
        kept: WeakSet[Saved] = WeakSet()

        def pack(tensor: Tensor, kept: WeakSet[Saved] = kept) -> Saved:
            kept.add(saved := Saved(tensor))
            return saved

        relation = Relation(euclidean, scale=scale, criterion=criterion, form="blocked")
        with case(scale.name, criterion), largest_tensor() as seen:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
                value = relation(student, teacher)
            assert sum(saved.tensor.numel() for saved in kept) < 200 * 20
            torch.autograd.backward(value)
            assert seen.numel == 4000


RULES: list[Rule] = [
    *(Nearest(3, by) for by in ("teacher", "student", "union", "mutual")),
    WithOwn(Nearest(2)),
    Above(0.5),
    Above(0.5, "union"),
    Above(0.5, "mutual"),
    Given(torch.tensor([[1, 2, 4], [0, 0, 3]])),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__ + getattr(rule, "by", ""))
def test_edges_and_weights_found_in_blocks_are_those_of_the_matrix(rule: Rule) -> None:
    student, teacher = torch.randn(N, 5).double(), torch.randn(N, 4).double()
    for kernel in (pearson, euclidean):
        expected = rule(kernel(student), kernel(teacher), kernel)
        found = rule.find(student, teacher, kernel)
        assert isinstance(expected, Edges) and isinstance(found, Edges)
        assert torch.equal(found.edge_index, expected.edge_index)
        relations = (Relation(kernel, rule, by_anchor_norm, mean_square, form) for form in ("matrix", "blocked"))
        one, other = (with_gradient(relation, student, teacher) for relation in relations)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@each_kernel
def test_weights_of_edges_have_the_gradient_of_the_matrix(kernel: Kernel) -> None:
    x, y = nodes()[0], nodes()[0]
    edges = Nearest(3)(pearson(x), pearson(x), pearson).with_own()
    scales = torch.randn(edges.edge_index.shape[1]).double()
    expected = with_gradient(lambda x, y: (edges.pick(kernel(x, y)) * scales).sum(), x, y)
    for chunk in (4, 100):
        for prepare, related in ((identity, kernel), (kernel.nodes, kernel.of_prepared)):

            def found(x: Tensor, y: Tensor, chunk: int = chunk, f: Any = prepare, related: Any = related) -> Tensor:
                return (edge_weights(f(x), f(y), edges.edge_index, related, chunk) * scales).sum()

            torch.testing.assert_close(with_gradient(found, x, y), expected, rtol=1e-7, atol=1e-7)


def test_no_edge_is_no_weight() -> None:
    edges = Edges(torch.zeros(2, 0, dtype=torch.long), 3)
    x = torch.randn(3, 2, requires_grad=True)
    weights = edge_weights(x, x, edges.edge_index, pearson)
    torch.autograd.backward(weights.sum())
    assert weights.shape == (0,) and x.grad is not None and not x.grad.any()


def test_sparse_graphs_without_matrices_hold_none() -> None:
    student, teacher = torch.randn(600, 4, requires_grad=True), torch.randn(600, 4)
    edges = Given(torch.stack([torch.arange(1, 600), torch.arange(599)]))
    with largest_tensor() as seen:
        torch.autograd.backward(Relation(pearson, edges, form="blocked")(student, teacher))
    assert seen.numel < 600**2 / 10


def test_auto_takes_what_suits_the_size() -> None:
    every: tuple[Form, ...] = ("matrix", "factored", "blocked")
    cases: list[tuple[int, int, Rule, tuple[Form, ...], Form]] = [
        (64, 256, ALL_PAIRS, every, "matrix"),
        (768, 256, ALL_PAIRS, every, "matrix"),
        (769, 256, ALL_PAIRS, every, "factored"),
        (2896, 4096, ALL_PAIRS, every, "matrix"),
        (2897, 4096, ALL_PAIRS, every, "blocked"),
        (2897, 16, ALL_PAIRS, ("matrix", "blocked"), "blocked"),
        (2897, 16, ALL_PAIRS, ("matrix",), "matrix"),
        (2896, 16, Nearest(8), every, "matrix"),
        (2897, 16, Nearest(8), ("matrix", "blocked"), "blocked"),
    ]
    for count, width, rule, known, expected in cases:
        with case(count, width, rule, known):
            student, teacher = torch.zeros(1, width), torch.zeros(1, 3)
            builder = PairBuilder(rule, forms=known)
            assert builder.form_of(student, teacher, count) == expected
            assert PairBuilder(rule, form="matrix", forms=known).form_of(student, teacher, count) == "matrix"


def test_graphs_of_a_batch_hold_no_matrices_where_one_graph_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(blocks, "SMALLEST", 20)
    monkeypatch.setattr(blocks, "LARGEST", 20)
    x, y = torch.randn(2, 2, 20, 3)
    for relation in (Relation(cosine), Relation(euclidean, scale=by_mean, criterion=huber)):
        with largest_tensor() as seen:
            relation(x, y)
        assert seen.numel < 20 * 20


def test_a_relation_says_which_forms_it_has() -> None:
    median = Scale("median", divisor=torch.median)
    assert Relation(linear, scale=by_anchor_norm, criterion=half_square).forms() == ("matrix", "factored", "blocked")
    for parts in ({"kernel": euclidean}, {"criterion": huber}, {"scale": by_anchor_sum}, {"kernel": gaussian(0.4)}):
        assert Relation(**parts).forms() == ("matrix", "blocked"), parts
    assert Relation(scale=median).forms() == ("matrix",)
    has = "weights has the forms auto,"
    pearsons, euclideans = (f"the relation of {name} {has} matrix" for name in ("pearson", "euclidean"))
    assert_refused(
        (lambda: Relation(euclidean, form="factored"), f"{euclideans}, blocked, got 'factored'"),
        (lambda: Relation(scale=median, form="blocked"), f"{pearsons}, got 'blocked'"),
        (lambda: Relation(topology=Nearest(3), form="factored"), f"{pearsons}, blocked, got 'factored'"),
        (lambda: check_form("dense", ("matrix",), "it"), "unknown form 'dense'…"),
    )
