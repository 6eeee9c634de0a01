"""Edges of a whole data set, found and weighed in blocks: the matrix of all pairs, `(N, N)`, is never held.

`block` rows, or a `chunk` of edges, are read at a time; if `None`, the width D determines how many. The nodes need not
be in memory either: all functions but the search by faiss read `Rows`, which may be files, a block at a time.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.gradients import OTHER_FORM, once_differentiable
from relgraph.graph.blocks import OneByOne, transformed
from relgraph.graph.kernels import Kernel, pearson
from relgraph.printing import no_bar

# A block against a block is 30 MiB of float32. From 32 MiB on the C library takes new memory from the system each time:
# for 50,000 nodes that costs half as much as all products. Smaller blocks are slower on a busy machine, because each of
# their many steps waits for the slowest thread.
BLOCK = 2816
# Number of blocks in memory when nodes are prepared as they are read: the other blocks are read a quarter as often.
STRIP = 4
# Size up to which all nodes, 512 MB of float32, are prepared at once and held; larger sets are prepared by block.
LARGEST = 2**27
# Numbers in the nodes that are read at a time, 32 MiB of float32, at most: wider ones are read in smaller blocks.
READ = 2**23
# Edges that are weighed at a time; each needs the embeddings of both its ends: 64 MiB in all at width 512.
CHUNK = 2**14
# The largest number of neighbours that PyG returns from faiss.
FAISS_LIMIT = 2048


class Rows(Protocol):
    """Embeddings `(N, D)` that can be read in parts: a tensor, or a view of files that need not fit into memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, D)`."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return the rows of a slice, or those that `(B,)` integers number, `(B, D)`."""


def check_k(k: int, count: int) -> None:
    """Raise RelgraphError unless each of `count` nodes has k others."""
    if not 1 <= k <= count - 1:
        raise RelgraphError(f"k must be between 1 and the number of nodes less one, {count - 1}, got {k}")


def chosen_k(k: int | None, default: int, count: int) -> int:
    """Return the k that was chosen, else the default, or as many neighbours as each of fewer nodes has.

    >>> chosen_k(None, 8, 100), chosen_k(None, 8, 5), chosen_k(8, 8, 5)
    (8, 4, 8)
    """
    return max(1, min(default, count - 1)) if k is None else k


class Prepared:
    """Rows as a kernel's nodes, prepared each time they are read."""

    def __init__(self, rows: Rows, kernel: Kernel) -> None:
        self.rows, self.kernel, self.shape = rows, kernel, rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        return self.kernel.nodes(self.rows[index])


@torch.no_grad()
def nearest_in_blocks(
    x: Rows, k: int, kernel: Kernel = pearson, block: int | None = None, progress: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return each node's k nearest others, nearest first, and their weights, `(N, D) -> (N, k), (N, k)`.

    It is `topology.nearest` on the matrix of all pairs, exact, `block` rows and columns at a time; each weight is
    computed once and serves both its ends. Of equal weights, the one at the lower position is the nearer; `nearest`
    breaks ties arbitrarily. `progress` is the title of a progress bar on a terminal; `None` disables it. Embeddings
    must be finite (`check_finite`).

    Raises:
        RelgraphError: if `k` is not in 1..N-1.

    >>> nearest_in_blocks(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [3.0, 2.0, 1.0]]), k=1)[0].flatten()
    tensor([1, 0, 1])
    """
    check_k(k, len(x))
    z, block = prepared(x, kernel), fitting(block, BLOCK, x)
    weights = z[:0].new_full((len(x), k), float("-inf"))
    neighbours = torch.zeros_like(weights, dtype=torch.long)
    for start, first, anchors, candidates in _two_blocks(z, block, progress):
        rows, columns = slice(start, start + block), slice(first, first + block)
        tile = nearness(kernel, anchors, candidates)
        weights = weights.to(tile.dtype)  # some kernels compute in float64
        if first == start:
            tile.fill_diagonal_(float("-inf"))
        else:
            keep_nearest(weights[columns], neighbours[columns], tile.mT, start)
        keep_nearest(weights[rows], neighbours[rows], tile, first)
    return neighbours, weights if kernel.nearest_is_largest else -weights


def has_faiss() -> bool:
    """Return whether faiss is installed and works with torch."""
    try:
        import_module("faiss.contrib.torch_utils")
    except Exception:  # a library that does not fit numpy or torch fails in many ways
        return False
    return True


@torch.no_grad()
def nearest_by_faiss(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the result of `nearest_in_blocks` for correlations, by faiss through PyG's index of inner products.

    The index is flat, so the search is exact: neighbours are the same where no weights are equal to
    rounding (of 500,000 at 50,000 nodes, 2 differed).

    Raises:
        RelgraphError: if `k` is not in 1..N-1 or is above 2,047, or faiss is not installed (faiss-cpu on PyPI).
    """
    check_k(k, len(x))
    if k >= FAISS_LIMIT:
        raise RelgraphError(f"faiss finds at most {FAISS_LIMIT - 1} neighbours, got k = {k}: search without it")
    if not has_faiss():
        raise RelgraphError("this search needs faiss, which is not installed or does not load: pip install faiss-cpu")
    from relgraph.graph.pyg import MIPSKNNIndex

    z = pearson.nodes(x).float()
    weights, indices = MIPSKNNIndex(z).search(z, k + 1)
    others = indices != torch.arange(len(x), device=x.device)[:, None]
    others[others.all(1), -1] = False  # ties, or no variance, can displace the node itself
    return indices[others].view(-1, k), weights[others].view(-1, k)


@torch.no_grad()
def matches_in_blocks(
    x: Rows, y: Rows, kernel: Kernel = pearson, block: int | None = None, progress: str | None = None
) -> Tensor:
    """Return for each node of `x` whether the nearest node of `y` is its own, `(N, D), (N, D) -> (N,)`, and no other.

    A node with a second node at the same distance, or without variance, has no match; of two equal nodes in different
    blocks one can be nearer by rounding. `progress` is the title of a
    progress bar on a terminal; `None` disables it.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> matches_in_blocks(torch.eye(3), torch.tensor([[9.0, 1.0, 2.0], [9.0, 1.0, 8.0], [0.0, 2.0, 3.0]]))
    tensor([ True, False,  True])
    """
    if len(x.shape) != 2 or x.shape != y.shape:
        raise RelgraphError(f"nodes must be (N, D) alike, got {tuple(x.shape)} and {tuple(y.shape)}")
    one, other, block = prepared(x, kernel), prepared(y, kernel), fitting(block, BLOCK, x)
    own, others = torch.full((2, len(x)), float("-inf"), dtype=torch.float64, device=one[:0].device).unbind()
    for start, first, anchors, candidates in _tiles(one, other, block, progress):
        # Distances are taken from the mean of the second: with the anchors as second argument, equal candidates stay
        # equal.
        rows, tile = slice(start, start + block), nearness(kernel, candidates, anchors)
        if first == start:
            own[rows] = tile.diagonal()
            tile.fill_diagonal_(float("-inf"))
        others[rows] = torch.maximum(others[rows], tile.amax(0))
    return own > others


@torch.no_grad()
def above_in_blocks(
    x: Rows, threshold: float, kernel: Kernel = pearson, block: int | None = None, limit: int = 5_000_000
) -> Tensor:
    """Return the pairs whose weight has at least this magnitude, a node itself left out, as `edge_index` (2, E).

    It is the rule `topology.Above` on the matrix of all pairs, `block` rows and columns at a time.

    Raises:
        RelgraphError: if there are more than `limit` edges.
    """
    z, block = prepared(x, kernel), fitting(block, BLOCK, x)
    found, count = [], 0
    for start, first, anchors, candidates in _tiles(z, z, block):
        tile = kernel.matrix(anchors, candidates)
        if first == start:
            tile.fill_diagonal_(float("nan"))  # NaN is not above any threshold
        anchor, candidate = (tile.abs() >= threshold).nonzero(as_tuple=True)
        found.append(torch.stack([candidate + first, anchor + start]))
        count += len(anchor)
        if count > limit:
            expected = f"the threshold {threshold} must leave at most {limit:,} edges"
            seen = f"{count:,} from the first {start + len(anchors):,} of {len(x):,} nodes"
            raise RelgraphError(f"{expected}, got {seen}: raise the threshold")
    edges = torch.cat(found, dim=1)
    return edges[:, edges[1].argsort(stable=True)]


def edge_weights(x: Rows, y: Rows, edge_index: Tensor, kernel: Kernel = pearson, chunk: int | None = None) -> Tensor:
    """Return the weight of each edge, `kernel(x, y)[anchor, candidate]`, `(N, D), (M, D) -> (E,)`.

    `chunk` edges are weighed at a time, and the matrix of all pairs is not needed. Weights of tensors have a gradient,
    for which the weights are computed once more; they can be differentiated once.

    `edge_index` (2, E) holds candidates, which are rows of `y`, above anchors, which are rows of `x`.

    >>> edge_weights(torch.eye(3), torch.eye(3), torch.tensor([[0, 1], [0, 0]]))
    tensor([ 1.0000, -0.5000])
    """
    anchors = prepared(x, kernel)
    candidates = anchors if y is x else prepared(y, kernel)
    chunk = fitting(chunk, CHUNK, x)
    tensors = isinstance(anchors, Tensor) and isinstance(candidates, Tensor)
    weigh = _EdgeWeights.apply if tensors else _weigh_in_chunks
    return weigh(anchors, candidates, edge_index, kernel, chunk, y is x)


def _weigh_in_chunks(x: Rows, y: Rows, edges: Tensor, kernel: Kernel, chunk: int, one_graph: bool) -> Tensor:
    parts = torch.split(edges, chunk, dim=1)
    return torch.cat([_weigh(kernel, part, one_graph, x[part[1]], y[part[0]]) for part in parts])


def _weigh(kernel: Kernel, edges: Tensor, one_graph: bool, one: Tensor, other: Tensor) -> Tensor:
    """Return the weights of edges (2, E) from their ends, `(E, D), (E, D) -> (E,)`; of one graph, own ones exactly."""
    own = (edges[0] == edges[1]).view(-1, 1, 1) if one_graph else None
    return kernel.matrix(one.unsqueeze(-2), other.unsqueeze(-2), own).flatten()


class _EdgeWeights(OneByOne):
    """Weights of some edges at a time, computed once more for the gradient."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, edge_index: Tensor, kernel: Kernel, chunk: int, one_graph: bool) -> Tensor:
        return _weigh_in_chunks(x, y, edge_index, kernel, chunk, one_graph)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.save_for_forward(*inputs[:3])
        ctx.kernel, ctx.chunk, ctx.one_graph = inputs[3:]

    @staticmethod
    @once_differentiable(OTHER_FORM)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, edge_index = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        found = [torch.zeros_like(nodes) if need else None for nodes, need in zip((x, y), needed, strict=True)]
        add = Tensor.index_add if transformed() else Tensor.index_add_
        parts = zip(torch.split(edge_index, ctx.chunk, dim=1), torch.split(gradient, ctx.chunk), strict=True)
        for edges, weight in parts:
            candidate, anchor = edges
            weigh = partial(_weigh, ctx.kernel, edges, ctx.one_graph)
            pull_back = torch.func.vjp(weigh, x[anchor], y[candidate])[1]
            of_ends = zip(found, (anchor, candidate), pull_back(weight), strict=True)
            found = [None if total is None else add(total, 0, at, of_end) for total, at, of_end in of_ends]
        return *found, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> Tensor:
        x, y, edges = ctx.saved_tensors
        candidate, anchor = edges
        ends = x[anchor], y[candidate]
        moved = zip(changes[:2], (anchor, candidate), ends, strict=True)
        tangents = tuple(torch.zeros_like(end) if change is None else change[at] for change, at, end in moved)
        along: Tensor = torch.func.jvp(partial(_weigh, ctx.kernel, edges, ctx.one_graph), ends, tangents)[1]
        return along


@torch.no_grad()
def degenerate_in_blocks(x: Rows, kernel: Kernel = pearson, block: int | None = None) -> Tensor:
    """Return which nodes are zero once prepared, `(N, D) -> (N,)`: for Pearson, those without variance.

    >>> degenerate_in_blocks(torch.tensor([[1.0, 2.0], [3.0, 3.0]]))
    tensor([False,  True])
    """
    return torch.cat([kernel.degenerate(kernel.nodes(part)) for part in _parts(x, block)])


def check_finite(x: Rows, owner: str, block: int | None = None) -> None:
    """Raise RelgraphError if an embedding of `x` (N, D) is not finite; `owner` names the network."""
    broken = sum(int((~part.isfinite().all(-1)).sum()) for part in _parts(x, block))
    if broken:
        raise RelgraphError(f"embeddings must be finite, got NaN or infinity in {broken} of {len(x)} of the {owner}'s")


def fitting(rows: int | None, most: int, x: Rows) -> int:
    """Return how many rows are read at a time: `rows` if given, else at most `most` rows and `READ` numbers."""
    return max(min(most, READ // max(x.shape[-1], 1)), 1) if rows is None else rows


def _parts(x: Rows, block: int | None) -> Iterator[Tensor]:
    block = fitting(block, BLOCK, x)
    return (x[start : start + block] for start in range(0, len(x), block))


def prepared(x: Rows, kernel: Kernel) -> Rows:
    """Return a kernel's nodes: prepared at once for a small or trained tensor, else when they are read."""
    small = isinstance(x, Tensor) and (x.numel() <= LARGEST or x.requires_grad)
    return kernel.nodes(x[:]) if small or kernel.bounded or kernel.centred else Prepared(x, kernel)


def _tiles(x: Rows, y: Rows, block: int, progress: str | None = None) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield each block of `x` with each block of `y`, with their first rows."""
    for start in block_starts(len(x), block, progress):
        anchors = x[start : start + block]
        for first in range(0, len(y), block):
            yield start, first, anchors, y[first : first + block]


def _two_blocks(z: Rows, block: int, progress: str | None) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield each pair of blocks once, and each block with itself, with their first rows, the smaller first.

    The partners of each block are yielded in ascending order of their first rows.
    """
    strip = block if isinstance(z, Tensor) else STRIP * block
    for begin in block_starts(len(z), strip, progress):
        starts = range(begin, min(begin + strip, len(z)), block)
        held = {start: z[start : start + block] for start in starts}
        for first in range(begin, len(z), block):
            candidates = held[first] if first in held else z[first : first + block]
            for start in starts[: (first - begin) // block + 1]:
                yield start, first, held[start], candidates
        held.clear()  # frees them before the next blocks are read


def nearness(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Return the weights of all pairs, `(N, D), (M, D) -> (N, M)`, negative where the smallest is the nearest."""
    tile = kernel.matrix(x, y)
    return tile if kernel.nearest_is_largest else tile.neg_()


def keep_nearest(weights: Tensor, neighbours: Tensor, tile: Tensor, first: int) -> None:
    """Update each row's k nearest with nearer columns of a tile, `(N, k), (N, k), (N, M)`.

    The tile holds the columns from `first` on, which come after all columns of earlier calls. It is read as groups of
    columns, at least k if it has k: each of k groups has a number of at least the k-th largest maximum, so smaller
    numbers are not among the k largest.
    """
    (count, k), width = weights.shape, tile.shape[1]
    # The k largest numbers lie in the k groups of largest maximum, and maxima are quick to find.
    size = next((size for size in (32, 16, 8, 4, 2) if width % size == 0 and width // size >= k), 1)
    groups, least = tile.view(count, -1, size), weights[:, -1:]
    bar = least.nextafter(torch.full_like(least, float("inf")))
    # Maxima laid out as the tile is: those of a transposed one would take 20 times as long.
    maxima = torch.amax(groups, -1, out=torch.empty_like(groups[..., 0]))
    if maxima.shape[1] >= k:
        bar = torch.maximum(bar, maxima.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True))
    row, group = (maxima >= bar).nonzero(as_tuple=True)
    found = groups[row, group]
    which, place = (found >= bar[row]).nonzero(as_tuple=True)
    if len(which) == 0:
        return
    row, column, nearer = row[which], group[which] * size + place, found[which, place]
    each = row.bincount(minlength=count)
    place = k + torch.arange(len(row), device=row.device) - (each.cumsum(0) - each)[row]
    table = weights.new_full((count, k + int(each.max())), float("-inf"))
    names = torch.zeros_like(table, dtype=torch.long)
    table[:, :k], table[row, place] = weights, nearer
    names[:, :k], names[row, place] = neighbours, column + first
    best = table.sort(dim=-1, descending=True, stable=True)
    weights.copy_(best.values[:, :k])
    neighbours.copy_(names.gather(1, best.indices[:, :k]))


def block_starts(count: int, block: int, progress: str | None) -> Iterable[int]:
    """Return the first row of each block, with a progress bar on a terminal if `progress` gives its title."""
    from tqdm import tqdm

    hidden = no_bar(shown=progress is not None)
    return tqdm(range(0, count, block), desc=progress, unit="block", leave=False, disable=hidden)
