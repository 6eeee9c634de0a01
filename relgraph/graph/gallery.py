"""Queries against a gallery, in blocks of both: nearest images and ranks, without the matrix of all pairs `(Q, M)`.

Similarity is the cosine, computed in float64 and rounded to float32, so that equal vectors are equally near whatever
block they stand in. Of equally near images of the gallery the one at the lower position comes first. The gallery need
not be in memory: all that is read of it are blocks of `Rows`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import cosine
from relgraph.graph.search import BLOCK, Rows, block_starts, fitting, keep_nearest

# Positives of the queries of one block, at most: their similarities, positions and ranks are 80 MiB.
POSITIVES = 2**22
# Similarities of the queries of one block that are kept, 256 MiB; where there are more they are computed twice.
KEPT = 2**26


@dataclass(frozen=True, eq=False)
class Search:
    """Queries `(Q, D)` and the gallery `(M, D)` in which their neighbours are searched, exactly.

    Attributes:
        queries: The queries.
        gallery: The gallery.
        own: Position of each query's own image in the gallery, `(Q,)`, -1 for none: it is never an answer.
        junk: What else of the gallery is no answer to a query, neither right nor wrong, `(Q, M)` bool.
        block: Number of queries, and of images of the gallery, that are compared at a time.
        progress: Title of a progress bar on a terminal; `None` disables it.

    Raises:
        RelgraphError: if the two have no one width, or `own` or `junk` another shape.
    """

    queries: Rows
    gallery: Rows
    own: Tensor | None = None
    junk: Tensor | None = None
    block: int | None = None
    progress: str | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        """Check the shapes, and choose the size of a block."""
        shapes = tuple(self.queries.shape), tuple(self.gallery.shape)
        if not all(len(shape) == 2 and shape[0] > 0 for shape in shapes) or shapes[0][1] != shapes[1][1]:
            raise RelgraphError(f"queries and gallery must be (Q, D) and (M, D), got {shapes[0]} and {shapes[1]}")
        (count, _), (most, _) = shapes
        if self.own is not None and (self.own.shape != (count,) or int(self.own.max()) >= most):
            expected = f"own must hold a position below {most}, or -1, for each of {count} queries"
            raise RelgraphError(f"{expected}, got {tuple(self.own.shape)} up to {int(self.own.max())}")
        if self.junk is not None and (self.junk.shape != (count, most) or self.junk.dtype != torch.bool):
            raise RelgraphError(f"junk must be {(count, most)} bool, got {tuple(self.junk.shape)} {self.junk.dtype}")
        object.__setattr__(self, "size", fitting(self.block, BLOCK, self.gallery))

    @property
    def answers(self) -> int:
        """The number of images of the gallery that can answer each query."""
        return len(self.gallery) - int(self.own is not None and bool((self.own >= 0).any()))

    def check_k(self, k: int) -> None:
        """Raise RelgraphError unless each query has k answers."""
        if not 1 <= k <= self.answers:
            told = "the number of images in the gallery that can answer a query"
            raise RelgraphError(f"k must be between 1 and {told}, {self.answers}, got {k}")

    def tiles(self, which: slice) -> Iterator[tuple[int, Tensor]]:
        """Yield the similarities of some queries to each block of the gallery, `(B, W)`, with the block's position.

        What is no answer is at minus infinity.
        """
        asked = cosine.nodes(self.queries[which].double())
        for first in range(0, len(self.gallery), self.size):
            held = cosine.nodes(self.gallery[first : first + self.size].double())
            tile = cosine.matrix(asked, held).float()
            if self.own is not None:
                place = self.own[which].to(tile.device) - first
                here = ((place >= 0) & (place < len(held))).nonzero().flatten()
                tile[here, place[here]] = float("-inf")
            if self.junk is not None:
                part = self.junk[which, first : first + self.size].to(tile.device)
                tile.masked_fill_(part, float("-inf"))
            yield first, tile

    def blocks(self, most: int | None = None) -> Iterator[slice]:
        """Yield the blocks of queries, of at most so many."""
        size = self.size if most is None else max(1, min(most, self.size))
        for start in block_starts(len(self.queries), size, self.progress):
            yield slice(start, min(start + size, len(self.queries)))


@torch.no_grad()
def nearest_in_gallery(search: Search, k: int) -> tuple[Tensor, Tensor]:
    """Return the positions of each query's k nearest images of the gallery, nearest first, and similarities, `(Q, k)`.

    Where `junk` leaves a query fewer than k answers, the last ones are at minus infinity and of no meaning.

    Raises:
        RelgraphError: if `k` is not between 1 and the number of answers.

    >>> nearest_in_gallery(Search(torch.eye(3), torch.eye(3)[[2, 0, 0]], own=torch.tensor([1, -1, 0])), 2)[0]
    tensor([[2, 0],
            [0, 1],
            [1, 2]])
    """
    search.check_k(k)
    found = []
    for which in search.blocks():
        nearest = _NearestSoFar(which, k)
        for first, tile in search.tiles(which):
            nearest.update(first, tile)
        found.append((nearest.neighbours, nearest.weights))
    neighbours, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return neighbours, weights


class _NearestSoFar:
    """The k nearest images of some queries in the blocks of the gallery that were seen, `(B, k)`; k may be 0."""

    def __init__(self, which: slice, k: int) -> None:
        self.neighbours = torch.zeros(which.stop - which.start, k, dtype=torch.long)
        self.weights = torch.full(self.neighbours.shape, float("-inf"))

    def update(self, first: int, tile: Tensor) -> None:
        """Look at the similarities to the images from `first` on, which come after all that were seen."""
        if self.weights.shape[1]:
            self.weights, self.neighbours = self.weights.to(tile.device), self.neighbours.to(tile.device)
            keep_nearest(self.weights, self.neighbours, tile, first)


class Ranks(NamedTuple):
    """The ranks of the positives of some queries, from 1 on.

    Attributes:
        which: The queries.
        ranks: Ascending, `(B, P)`; behind the last one of a query infinity.
        found: Number of positives of each query, `(B,)`.
        nearest: The positions of its k nearest answers, as `nearest_in_gallery` has them, `(B, k)`.
    """

    which: slice
    ranks: Tensor
    found: Tensor
    nearest: Tensor


@torch.no_grad()
def ranks_of_positives(search: Search, query_labels: Tensor, gallery_labels: Tensor, k: int = 0) -> Iterator[Ranks]:
    """Yield the ranks of the images of each query's label among its answers, a block of queries at a time.

    With a `k` also its k nearest answers, of the same similarities.

    A rank counts the answers that are nearer, and the equally near ones at lower positions: each block of the gallery
    is looked at twice, for the similarities of the positives, and for what is before them; of a large gallery it is
    read twice. A negative label is unknown, and is no positive of any.

    Raises:
        RelgraphError: if labels are not one for each query and image of the gallery, or there are fewer than k answers.
    """
    if k:
        search.check_k(k)
    expected = (len(search.queries),), (len(search.gallery),)
    if (query_labels.shape, gallery_labels.shape) != expected:
        shapes = f"{tuple(query_labels.shape)} and {tuple(gallery_labels.shape)}"
        raise RelgraphError(f"labels must be one for each query and image of the gallery, {expected}, got {shapes}")
    known = gallery_labels[gallery_labels >= 0]
    most = int(known.bincount().max()) if len(known) else 0
    for which in search.blocks(POSITIVES // max(most, 1)):
        few = (which.stop - which.start) * len(search.gallery) <= KEPT
        kept = list(search.tiles(which)) if few else None
        similarity, place, count = _positives(kept or search.tiles(which), query_labels[which], gallery_labels)
        before, nearest = torch.zeros_like(place), _NearestSoFar(which, k)
        for first, tile in kept or search.tiles(which):
            before += _nearer(tile, first, similarity, place)
            nearest.update(first, tile)
        ranks = torch.where(place >= 0, 1.0 + before.double(), torch.inf)
        yield Ranks(which, ranks.sort(dim=1).values, count, nearest.neighbours)


def _positives(
    tiles: Iterable[tuple[int, Tensor]], query_labels: Tensor, gallery_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return similarities and positions of the positives of some queries, `(B, P)`, and their number `(B,)`.

    Behind the last one of a query the position is -1.
    """
    rows, places, values = [], [], []
    for first, tile in tiles:
        labels = gallery_labels[first : first + tile.shape[1]].to(tile.device)
        asked = query_labels.to(tile.device)[:, None]
        row, column = ((asked == labels) & (asked >= 0) & (tile > -torch.inf)).nonzero(as_tuple=True)
        rows.append(row)
        places.append(column + first)
        values.append(tile[row, column])
    row, order = torch.cat(rows).sort(stable=True)
    count = row.bincount(minlength=len(query_labels))
    within = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    shape = len(query_labels), int(count.max())
    place = row.new_full(shape, -1)
    similarity = torch.full(shape, torch.inf, device=row.device)
    place[row, within], similarity[row, within] = torch.cat(places)[order], torch.cat(values)[order]
    return similarity, place, count


def _nearer(tile: Tensor, first: int, similarity: Tensor, place: Tensor) -> Tensor:
    """Return how many images of a tile `(B, W)` come before each positive, `(B, P)`, by nearness and by position."""
    width, ascending = tile.shape[1], _ascending(tile)
    # Equally near images of this tile come before a positive in a later one, and after one in an earlier.
    above = similarity.nextafter(torch.full_like(similarity, torch.inf))
    before = width - torch.searchsorted(ascending, torch.where(place >= first + width, similarity, above))
    equal = ascending[:, 1:] == ascending[:, :-1]
    tied = equal.any(1).nonzero().flatten()
    if len(tied):
        order = tile[tied].sort(dim=1, descending=True, stable=True).indices
        position = torch.empty_like(order)
        position.scatter_(1, order, torch.arange(width, device=tile.device).expand_as(order))
        column = place[tied] - first
        within = position.gather(1, column.clamp(0, width - 1))
        before[tied] = torch.where((column >= 0) & (column < width), within, before[tied])
    return before


def _ascending(tile: Tensor) -> Tensor:
    """Return each row sorted; on a CPU by numpy, which takes a tenth of torch's time."""
    return tile.sort(dim=1).values if tile.device.type != "cpu" else torch.from_numpy(np.sort(tile.numpy(), axis=1))
