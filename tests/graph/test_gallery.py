"""Queries against a gallery in blocks: a loop over all pairs, ties, own images and junk."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.graph import gallery as module
from relgraph.graph.gallery import Search, nearest_in_gallery, ranks_of_positives
from tests.checks import assert_refused, case


def orders_of(queries: Tensor, gallery: Tensor, own: Tensor, junk: Tensor | None = None) -> list[list[int]]:
    """Return the positions of a gallery's answers to each query, nearest first, of equal ones the lower first."""
    near = (normalize(queries.double()) @ normalize(gallery.double()).T).float().tolist()
    left = torch.ones(len(queries), len(gallery)).bool() if junk is None else ~junk
    left[torch.arange(len(own))[own >= 0], own[own >= 0]] = False
    return [sorted(some.nonzero().flatten().tolist(), key=lambda j, row=row: -row[j])  # type: ignore[misc]
            for row, some in zip(near, left, strict=True)]  # fmt: skip


def example(ties: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return 23 queries and a gallery of 37, their labels, some unknown, and own positions."""
    queries, gallery = torch.randn(23, 5), torch.randn(37, 5)
    if ties:
        queries, gallery = queries.sign(), gallery.sign()  # 32 directions: each several times, at equal distances
    labels = torch.randint(-1, 4, (23,)), torch.randint(-1, 4, (37,))
    own = torch.where(torch.rand(23) < 0.6, torch.randperm(37)[:23], -1)
    return queries, gallery, *labels, own


def test_nearest_and_ranks_are_those_of_a_loop() -> None:
    for ties in (False, True):
        queries, gallery, asked, held, own = example(ties)
        junk = torch.rand(23, 37) < 0.2
        for block, removed in ((None, None), (1, None), (5, junk), (36, junk), (100, None)):
            with case(ties, block, removed is not None):
                search = Search(queries, gallery, own, removed, block)
                orders = orders_of(queries, gallery, own, removed)
                nearest, similarity = nearest_in_gallery(search, 9)
                assert nearest.tolist() == [order[:9] for order in orders]
                assert bool((similarity.diff(dim=1) <= 0).all())
                parts = [*ranks_of_positives(search, asked, held, 9)]
                assert torch.equal(torch.cat([part.nearest for part in parts]), nearest)
                found = [row for part in parts for row in rows_of(part)]
                classes = held.tolist()
                expected = [
                    [rank for rank, j in enumerate(order, start=1) if classes[j] == label >= 0]
                    for label, order in zip(asked.tolist(), orders, strict=True)
                ]
                assert found == expected


def rows_of(part: Any) -> list[list[int]]:
    assert part.ranks.shape[0] == part.which.stop - part.which.start
    assert part.ranks.isfinite().sum(1).tolist() == part.found.tolist()
    return [[int(rank) for rank in row if rank < torch.inf] for row in part.ranks]


def test_equal_vectors_are_equally_near_in_every_block_and_type() -> None:
    row, query = torch.randn(1, 300), torch.randn(1, 300)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        gallery = torch.cat([-row, row.repeat(40, 1), -row]).to(dtype)
        for block in (7, 16, 100):
            with case(dtype, block):
                nearest, _ = nearest_in_gallery(Search(query.to(dtype), gallery, block=block), 42)
                same = nearest[0].tolist()
                assert same in ([*range(1, 41), 0, 41], [0, 41, *range(1, 41)])


def test_zeros_are_as_near_to_everything_and_one_image_is_enough() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    assert nearest_in_gallery(Search(torch.zeros(1, 2), gallery), 3)[0].tolist() == [[0, 1, 2]]
    assert nearest_in_gallery(Search(torch.ones(1, 2), gallery), 3)[0].tolist() == [[0, 1, 2]]
    assert nearest_in_gallery(Search(torch.ones(1, 2), torch.ones(1, 2)), 1)[0].tolist() == [[0]]


def test_positives_are_held_for_few_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery, asked, held, own = example()
    whole = [*ranks_of_positives(Search(queries, gallery, own), asked, held)]
    monkeypatch.setattr(module, "POSITIVES", 20)
    monkeypatch.setattr(module, "KEPT", 0)  # what does not fit is computed twice
    parts = [*ranks_of_positives(Search(queries, gallery, own), asked, held, 4)]
    nearest = nearest_in_gallery(Search(queries, gallery, own), 4)[0]
    assert torch.equal(torch.cat([part.nearest for part in parts]), nearest)
    assert len(whole) == 1 and len(parts) > 5
    assert [row for part in parts for row in rows_of(part)] == rows_of(whole[0])


class Blocks:
    """Rows that are read a slice at a time, as those of a store, and never as a whole."""

    def __init__(self, rows: Tensor, most: int) -> None:
        self.rows, self.most, self.shape = rows, most, tuple(rows.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        found = self.rows[index]
        assert len(found) <= self.most
        return found


def test_a_gallery_is_read_in_blocks_alone() -> None:
    queries, gallery, asked, held, own = example()
    for search in (Search(queries, Blocks(gallery, 6), own, block=6), Search(queries, gallery, own)):
        nearest, ranks = nearest_in_gallery(search, 4)[0], [*ranks_of_positives(search, asked, held)]
        assert nearest.tolist() == nearest_in_gallery(Search(queries, gallery, own), 4)[0].tolist()
        assert sum(len(part.found) for part in ranks) == 23
        assert all(part.nearest.shape == (len(part.found), 0) for part in ranks)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    queries, gallery, asked, held, own = example()
    search = Search(queries, gallery, own)
    told = "the number of images in the gallery that can answer a query"
    assert_refused(
        (
            lambda: Search(queries, gallery[:, :4]),
            "queries and gallery must be (Q, D) and (M, D), got (23, 5) and …",
        ),
        (lambda: Search(queries, gallery[:0]), "queries and gallery must be (Q, D) and (M, D), got (23, 5) and (0, 5)"),
        (lambda: Search(queries, gallery, own + 37), "own must hold a position below 37, or -1, for each of 23 queri…"),
        (lambda: Search(queries, gallery, own[1:]), "own must hold a position below 37, or -1, for each of 23 queri…"),
        (lambda: Search(queries, gallery, own, torch.ones(2, 2)), "junk must be (23, 37) bool, got (2, 2) torch.floa…"),
        (lambda: nearest_in_gallery(search, 37), f"k must be between 1 and {told}, 36, got 37"),
        (lambda: nearest_in_gallery(Search(queries, gallery), 0), f"k must be between 1 and {told}, 37, got 0"),
        (lambda: [*ranks_of_positives(search, asked, held, 37)], f"k must be between 1 and {told}, 36, got 37"),
        (lambda: [*ranks_of_positives(search, asked, held[1:])], "labels must be one for each query and image of the…"),
    )
