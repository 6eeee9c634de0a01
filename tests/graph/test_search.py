"""The search in blocks against the matrix of all pairs and the rules of `topology` that read it."""

import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from relgraph.graph.kernels import Kernel, Product, dot, linear, pearson
from relgraph.graph.search import (
    above_in_blocks,
    check_finite,
    degenerate_in_blocks,
    edge_weights,
    has_faiss,
    matches_in_blocks,
    nearest_by_faiss,
    nearest_in_blocks,
)
from relgraph.graph.topology import Above, nearest
from tests.checks import assert_refused, assert_refused_like, case
from tests.graph.test_kernels import PAIRWISE, each_kernel


class Elsewhere:
    """Rows that are no tensor, how many were read at once, and how often."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape, self.most, self.reads = x, tuple(x.shape), 0, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        found = self.x[index]
        self.most, self.reads = max(self.most, len(found)), self.reads + 1
        return found


@each_kernel
def test_blocks_find_what_the_matrix_holds(kernel: Kernel) -> None:
    x = torch.randn(23, 6, dtype=torch.float64) + 3
    matrix = kernel(x)
    for block in (3, 7, 23, 100):
        indices, weights = nearest_in_blocks(x, 5, kernel, block)
        with case(block):
            assert torch.equal(indices, nearest(matrix, 5, kernel))
            torch.testing.assert_close(weights, matrix.gather(1, indices))


def test_groups_of_columns_lose_no_neighbour() -> None:
    """The last block is no multiple of a group, and k is below and above the number of groups."""
    x = torch.randn(200, 6, dtype=torch.float64)
    for block, k in product((64, 96, 200), (1, 3, 40, 150, 199)):
        indices, weights = nearest_in_blocks(x, k, block=block)
        with case(block, k):
            assert torch.equal(indices, nearest(pearson(x), k, pearson))
            torch.testing.assert_close(weights, pearson(x).gather(1, indices))


def test_an_order_in_which_each_block_is_nearer_than_those_before() -> None:
    angle = 3 * torch.rand(300, dtype=torch.float64).sort().values
    x = torch.stack([angle.cos(), angle.sin()], 1)
    assert torch.equal(nearest_in_blocks(x, 5, linear, 64)[0], nearest(linear(x), 5, linear))


def test_of_equal_weights_the_lower_position_is_nearer() -> None:
    """Whole numbers, whose products are exact; 20 nodes are 0, and each other one is there several times."""
    x = torch.randint(-2, 3, (80, 2)).float()
    x[3::4] = 0.0
    others = linear(x).fill_diagonal_(float("-inf"))
    expected = others.sort(descending=True, stable=True)
    for block, k in product((10, 32, 80), (1, 4, 30)):
        indices, weights = nearest_in_blocks(x, k, linear, block)
        with case(block, k):
            assert torch.equal(indices, expected.indices[:, :k])
            assert torch.equal(weights, expected.values[:, :k])


@each_kernel
def test_rows_that_are_no_tensor_are_read_a_block_at_a_time(kernel: Kernel) -> None:
    y = torch.randn(40, 6, dtype=torch.float64)
    x = y + 0.6 * torch.randn(40, 6, dtype=torch.float64)
    one, other = Elsewhere(x), Elsewhere(y)
    for found, expected in zip(nearest_in_blocks(one, 5, kernel, 7), nearest_in_blocks(x, 5, kernel), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(matches_in_blocks(one, other, kernel, 7), matches_in_blocks(x, y, kernel))
    assert torch.equal(above_in_blocks(one, 0.5, kernel, 7), above_in_blocks(x, 0.5, kernel))
    edges = torch.randint(40, (2, 50))
    torch.testing.assert_close(edge_weights(one, other, edges, kernel, 7), edge_weights(x, y, edges, kernel))
    assert degenerate_in_blocks(one, kernel, 7).tolist() == [False] * 40
    check_finite(one, "student", 7)
    assert one.most == other.most == 7


def test_rows_that_are_no_tensor_are_read_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relgraph.graph.search.STRIP", 3)
    x = torch.randn(40, 6, dtype=torch.float64)
    rows = Elsewhere(x)
    assert torch.equal(nearest_in_blocks(rows, 5, block=4)[0], nearest(pearson(x), 5, pearson))
    assert rows.reads == 1 + 10 + 7 + 4 + 1, "the type, and each of 10 blocks once for each strip that meets it"


def test_a_large_tensor_is_prepared_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def watch(x: Tensor) -> Tensor:
        held.append(len(x))
        return pearson.prepare(x)

    x = torch.randn(40, 6)
    watched = replace(pearson, prepare=watch)
    expected = nearest_in_blocks(x, 5, watched, 7)[0]
    assert held == [40]
    monkeypatch.setattr("relgraph.graph.search.LARGEST", 40 * 6 - 1)
    assert torch.equal(nearest_in_blocks(x, 5, watched, 7)[0], expected)
    assert max(held[1:]) == 7


def test_nodes_that_are_bounded_together_are_so_wherever_they_lie() -> None:
    x = torch.randn(40, 6) * torch.linspace(1, 9, 40)[:, None]
    kernel = replace(linear, bounded=True)
    assert torch.equal(nearest_in_blocks(Elsewhere(x), 5, kernel, 7)[0], nearest_in_blocks(x, 5, kernel)[0])


def test_degenerate_and_broken_nodes_are_counted() -> None:
    x = torch.randn(9, 4)
    x[[2, 7]] = 3.0
    assert degenerate_in_blocks(x, block=4).nonzero().flatten().tolist() == [2, 7]
    check_finite(x, "teacher")
    x[8, 1], x[3, 0] = torch.inf, torch.nan
    told = "embeddings must be finite, got NaN or infinity in 2 of 9 of the teach…"
    assert_refused((lambda: check_finite(x, "teacher", 4), told))


def test_above_is_the_rule_on_the_matrix() -> None:
    x = torch.randn(17, 8, dtype=torch.float64)
    matrix = pearson(x)
    for threshold, block in product((0.0, 0.3, 0.9, 2.0), (3, 6, 50)):
        expected = Above(threshold)(matrix, matrix, pearson).edge_index
        assert torch.equal(above_in_blocks(x, threshold, block=block), expected), (threshold, block)


@each_kernel
def test_matches_are_those_of_a_loop(kernel: Kernel) -> None:
    teacher = torch.randn(20, 4, dtype=torch.float64)
    student = teacher + 0.6 * torch.randn(20, 4, dtype=torch.float64)
    matrix = (kernel(student, teacher) if kernel.nearest_is_largest else -kernel(student, teacher)).tolist()
    expected = [all(row[i] > other for j, other in enumerate(row) if j != i) for i, row in enumerate(matrix)]
    for block in (3, 7, 50):
        assert matches_in_blocks(student, teacher, kernel, block).tolist() == expected, block
    assert 0 < sum(expected) < 20


def test_equal_candidates_of_different_blocks_match_nothing() -> None:
    """Each candidate is there twice, 64 apart, so in another block."""
    y = torch.randn(64, 16).repeat(2, 1)
    x = y + 0.1 * torch.randn(128, 16)
    for kernel, _ in PAIRWISE.values():
        assert not matches_in_blocks(x, y, kernel, 16).any()


def test_what_lies_equally_near_or_has_no_variance_matches_nothing() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [3.0, 3.0, 3.0], [4.0, 0.0, 1.0]])
    assert matches_in_blocks(x, x, block=2).tolist() == [False, False, False, True]


def test_no_more_than_a_block_of_the_matrix_is_held() -> None:
    """At a million nodes, 1,024 whole rows would be 4 GB."""
    held: list[int] = []

    def watch(one: Tensor, other: Tensor) -> Tensor:
        held.append(len(one) * len(other))
        return dot.pairs(one, other)

    watched = replace(pearson, product=Product(watch))
    x, y = torch.randn(2, 23, 6).unbind()
    expected = nearest_in_blocks(x, 5)[0], above_in_blocks(x, 0.5), matches_in_blocks(x, y)
    found = (
        nearest_in_blocks(x, 5, watched, 4)[0],
        above_in_blocks(x, 0.5, watched, 4),
        matches_in_blocks(x, y, watched, 4),
    )
    assert max(held) == 4 * 4 and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    # Each weight is computed once for both its ends: 15 + 6 of the 36 tiles; the others need all of them.
    assert len(held) == 21 + 36 + 36


def test_what_is_refused() -> None:
    x, between = torch.randn(10, 4), "k must be between 1 and the number of nodes less one, 9, got"
    assert above_in_blocks(x, 0.0, limit=90).shape == (2, 90)
    assert_refused(
        (lambda: nearest_in_blocks(x, 0), f"{between} 0"),
        (lambda: nearest_in_blocks(x, 10), f"{between} 10"),
        (
            lambda: above_in_blocks(x, 0.0, limit=89),
            "the threshold 0.0 must leave at most 89 edges, got 90 from the first 10 of 10 nodes: raise the threshold",
        ),
        (lambda: matches_in_blocks(x, x[:, :2]), "nodes must be (N, D) alike, got (10, 4) and (10, 2)"),
    )


def test_a_bar_changes_nothing() -> None:
    x = torch.randn(9, 4)
    assert torch.equal(nearest_in_blocks(x, 2, block=2, progress="neighbours")[0], nearest_in_blocks(x, 2)[0])


def test_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss")
    x = torch.randn(200, 16) + 3
    indices, weights = nearest_by_faiss(x, 7)
    expected = nearest_in_blocks(x, 7)
    assert torch.equal(indices, expected[0])
    torch.testing.assert_close(weights, expected[1])


def test_faiss_never_finds_the_node_itself_among_equals() -> None:
    pytest.importorskip("faiss")
    x = torch.randn(6, 5)
    x[2:] = x[2]  # four equal nodes, and k + 1 = 3 of them are asked for
    indices, weights = nearest_by_faiss(x, 2)
    assert indices.shape == weights.shape == (6, 2)
    assert not (indices == torch.arange(6)[:, None]).any()
    torch.testing.assert_close(weights[2:], torch.ones(4, 2))


def test_faiss_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss.contrib.torch_utils", None)
    assert not has_faiss()
    told = r"needs faiss, which is not installed .*pip install faiss-cpu"
    assert_refused_like((lambda: nearest_by_faiss(torch.randn(9, 4), 2), told))


def test_faiss_has_a_largest_k() -> None:
    told = "at most 2047 neighbours, got k = 2048"
    assert_refused_like((lambda: nearest_by_faiss(torch.randn(2100, 2), 2048), told))
