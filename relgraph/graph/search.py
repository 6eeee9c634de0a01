"""Edges of a whole data set, found and weighed in blocks: the matrix of all pairs, `(N, N)`, is never held."""

from collections.abc import Iterable, Iterator
from importlib import import_module

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.topology import check_k

# 1,024 rows against 50,000 nodes are 200 MB of float32; more rows at once are not faster.
BLOCK = 1024
# Numbers in a block, 512 MB of float32: of more nodes than 131,072 fewer rows at once.
LARGEST = 2**27
# Each edge of a chunk holds the embeddings of both its ends: 16,384 edges at width 512 are 64 MB.
CHUNK = 16_384
# PyG hands no more of faiss's neighbours out.
FAISS_LIMIT = 2048


@torch.no_grad()
def nearest_in_blocks(
    x: Tensor, k: int, kernel: Kernel = pearson, block: int = BLOCK, progress: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return each node's k nearest others, nearest first, and their weights, `(N, D) -> (N, k), (N, k)`.

    It is `topology.nearest` on the matrix of all pairs, exact, `block` rows at a time. `progress` is what a bar on a
    terminal is called; `None` shows none.

    Raises:
        RelgraphError: if `k` is not in 1..N-1.

    >>> nearest_in_blocks(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [3.0, 2.0, 1.0]]), k=1)[0].flatten()
    tensor([1, 0, 1])
    """
    check_k(k, len(x))
    farthest = float("-inf") if kernel.nearest_is_largest else float("inf")
    found = [
        rows.topk(k, dim=-1, largest=kernel.nearest_is_largest)
        for _, rows in _rows_of_others(x, kernel, block, farthest, progress)
    ]
    return torch.cat([best.indices for best in found]), torch.cat([best.values for best in found])


def has_faiss() -> bool:
    """Return whether faiss is installed and works with torch."""
    try:
        import_module("faiss.contrib.torch_utils")
    except Exception:  # a library that does not fit numpy or torch fails in many ways
        return False
    return True


@torch.no_grad()
def nearest_by_faiss(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return what `nearest_in_blocks` does for correlations, found by faiss through PyG's index of inner products.

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
    from torch_geometric.nn.pool import MIPSKNNIndex

    z = pearson.nodes(x).float()
    weights, indices = MIPSKNNIndex(z).search(z, k + 1)
    others = indices != torch.arange(len(x), device=x.device)[:, None]
    others[others.all(1), -1] = False  # equally near nodes, or one of no variance, can crowd the node itself out
    return indices[others].view(-1, k), weights[others].view(-1, k)


@torch.no_grad()
def matches_in_blocks(
    x: Tensor, y: Tensor, kernel: Kernel = pearson, block: int = BLOCK, progress: str | None = None
) -> Tensor:
    """Return for each node of `x` whether the nearest node of `y` is its own, `(N, D), (N, D) -> (N,)`, and no other.

    A node that has another at the same distance, or no variance, matches none. `progress` is what a bar on a terminal
    is called; `None` shows none.

    Raises:
        RelgraphError: if the two are not (N, D) alike.

    >>> matches_in_blocks(torch.eye(3), torch.tensor([[9.0, 1.0, 2.0], [9.0, 1.0, 8.0], [0.0, 2.0, 3.0]]))
    tensor([ True, False,  True])
    """
    if x.ndim != 2 or x.shape != y.shape:
        raise RelgraphError(f"nodes must be (N, D) alike, got {tuple(x.shape)} and {tuple(y.shape)}")
    one, other = kernel.nodes(x), kernel.nodes(y)
    block = _at_once(block, len(other))
    found = []
    for start in _starts(len(one), block, progress):
        rows = kernel.matrix(one[start : start + block], other)
        rows = rows if kernel.nearest_is_largest else -rows
        own = rows.diagonal(start).clone()
        rows.diagonal(start).fill_(float("-inf"))
        found.append(own > rows.amax(-1))
    return torch.cat(found)


@torch.no_grad()
def above_in_blocks(
    x: Tensor, threshold: float, kernel: Kernel = pearson, block: int = BLOCK, limit: int = 5_000_000
) -> Tensor:
    """Return the pairs whose weight has at least this magnitude, a node itself left out, as `edge_index` (2, E).

    It is the rule `topology.Above` on the matrix of all pairs, `block` rows at a time.

    Raises:
        RelgraphError: if there are more than `limit` edges.
    """
    found, count = [], 0
    for start, rows in _rows_of_others(x, kernel, block, float("nan")):  # NaN is not above anything
        anchor, candidate = (rows.abs() >= threshold).nonzero(as_tuple=True)
        found.append(torch.stack([candidate, anchor + start]))
        count += len(anchor)
        if count > limit:
            seen = f"{count:,} from the first {start + len(rows):,} of {len(x):,} nodes"
            raise RelgraphError(
                f"the threshold {threshold} must leave at most {limit:,} edges, got {seen}: raise the threshold"
            )
    return torch.cat(found, dim=1)


@torch.no_grad()
def edge_weights(x: Tensor, y: Tensor, edge_index: Tensor, kernel: Kernel = pearson, chunk: int = CHUNK) -> Tensor:
    """Return the weight of each edge, `kernel(x, y)[anchor, candidate]`, `(N, D), (M, D) -> (E,)`.

    `chunk` edges at a time are weighed, and the matrix of all pairs is not needed.

    `edge_index` (2, E) holds candidates, which are rows of `y`, above anchors, which are rows of `x`.

    >>> edge_weights(torch.eye(3), torch.eye(3), torch.tensor([[0, 1], [0, 0]]))
    tensor([ 1.0000, -0.5000])
    """
    anchors, candidates = kernel.nodes(x), kernel.nodes(y)
    weights = anchors.new_empty(edge_index.shape[1])
    for start in range(0, len(weights), chunk):
        candidate, anchor = edge_index[:, start : start + chunk]
        one, other = anchors[anchor].unsqueeze(-2), candidates[candidate].unsqueeze(-2)
        weights[start : start + chunk] = kernel.matrix(one, other).flatten()
    return weights


def _rows_of_others(
    x: Tensor, kernel: Kernel, block: int, itself: float, progress: str | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield the matrix as blocks `(block, N)`, each after its first row's number, with `itself` on the diagonal."""
    z = kernel.nodes(x)
    block = _at_once(block, len(z))
    for start in _starts(len(z), block, progress):
        rows = kernel.matrix(z[start : start + block], z)
        rows.diagonal(start).fill_(itself)
        yield start, rows


def _at_once(block: int, count: int) -> int:
    """Return how many rows of so many numbers are held at once, at most `block`."""
    return min(block, max(1, LARGEST // max(1, count)))


def _starts(count: int, block: int, progress: str | None) -> Iterable[int]:
    """Return the first row of each block, behind a bar on a terminal if `progress` names one."""
    starts = range(0, count, block)
    if progress is None:
        return starts
    from tqdm import tqdm

    return tqdm(starts, desc=progress, unit="block", leave=False, disable=None)
