"""Edges of a whole data set, found and weighed in blocks: the matrix of all pairs, `(N, N)`, is never held."""

from collections.abc import Iterator

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.topology import check_k

# 1,024 rows against 50,000 nodes are 200 MB of float32; more rows at once are not faster.
BLOCK = 1024
# Each edge of a chunk holds the embeddings of both its ends: 16,384 edges at width 512 are 64 MB.
CHUNK = 16_384


@torch.no_grad()
def nearest_in_blocks(x: Tensor, k: int, kernel: Kernel = pearson, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return each node's k nearest others, nearest first, and their weights, `(N, D) -> (N, k), (N, k)`.

    It is `topology.nearest` on the matrix of all pairs, exact, `block` rows at a time.

    Raises:
        RelgraphError: if `k` is not in 1..N-1.

    >>> nearest_in_blocks(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [3.0, 2.0, 1.0]]), k=1)[0].flatten()
    tensor([1, 0, 1])
    """
    check_k(k, len(x))
    farthest = float("-inf") if kernel.nearest_is_largest else float("inf")
    found = [
        rows.topk(k, dim=-1, largest=kernel.nearest_is_largest)
        for _, rows in _rows_of_others(x, kernel, block, farthest)
    ]
    return torch.cat([best.indices for best in found]), torch.cat([best.values for best in found])


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


def _rows_of_others(x: Tensor, kernel: Kernel, block: int, itself: float) -> Iterator[tuple[int, Tensor]]:
    """Yield the matrix as blocks `(block, N)`, each after its first row's number, with `itself` on the diagonal."""
    z = kernel.nodes(x)
    for start in range(0, len(z), block):
        rows = kernel.matrix(z[start : start + block], z)
        rows.diagonal(start).fill_(itself)
        yield start, rows
