"""Where the nodes of a graph pair stand in a plane."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from relgraph.analysis.export import to_networkx
from relgraph.analysis.graph_tables import Side, parts_of
from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import Pair

Layout = Literal["tsne", "spring", "none"]
# 5,000 nodes take some 20 s of one core for each network.
TSNE_NODES = 5_000
# Gephi draws a node 20 wide: so much room for each leaves as much again between them.
ROOM = 40.0


def tsne(x: Tensor, seed: int = 0, start: Tensor | None = None) -> Tensor:
    """Return the t-SNE of embeddings in a plane, `(N, D) -> (N, 2)`, centred, as scikit-learn computes it.

    Distances are those of the standardised embeddings, `sqrt(2 - 2 r)` for a Pearson correlation r, so that near
    positions mean strong edges of the graph. The perplexity is 30, or a third of the other nodes. It begins at
    `start` (N, 2), in any scale, or at the first two principal components.

    Reference: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9, 2008.

    Raises:
        RelgraphError: for fewer than two nodes.

    >>> tsne(torch.eye(5)).shape
    torch.Size([5, 2])
    """
    from sklearn.manifold import TSNE

    if len(x) < 2:
        raise RelgraphError(f"t-SNE needs two nodes, got {len(x)}")
    z = pearson.nodes(x.detach().cpu().float())
    if start is None:  # a missing component is 0
        vectors, scales, _ = torch.linalg.svd(z - z.mean(0), full_matrices=False)
        start = pad(vectors[:, :2] * scales[:2], (0, max(0, 2 - len(scales)))).contiguous()
    begin = start.float()
    spread = begin.std(0).max().clamp_min(1e-12)
    # Nodes that begin at one point would stay at one.
    noise = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(seed))
    begin = 1e-4 * ((begin - begin.mean(0)) / spread + 0.01 * noise)
    perplexity = min(30.0, (len(x) - 1) / 3)
    found = TSNE(init=begin.numpy(), perplexity=perplexity, random_state=seed).fit_transform(z.numpy())
    plane = torch.from_numpy(found).float()
    return plane - plane.mean(0)


def planes(embeddings: Sequence[Tensor], seed: int = 0) -> tuple[list[Tensor], str]:
    """Return each network's embeddings `(N, D)` in the plane, `(N, 2)` within -1..1, and the method's name.

    The method is UMAP if it is installed, otherwise t-SNE; near positions mean strong edges. The last network, the
    teacher, is placed first, and the student's map begins at its places, so that most images stand at like places of
    both.
    """
    place, method = (_umap, "UMAP") if find_spec("umap") is not None else (tsne, "t-SNE")
    return [_scaled(plane, 1.0) for plane in reversed(_in_turn(place, embeddings[::-1], seed))], method


def _in_turn(place: Callable[..., Tensor], embeddings: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return each network's plane, which begins where the one before it ended."""
    planes: list[Tensor] = []
    for x in embeddings:
        planes.append(place(x, seed, planes[-1] if planes else None))
    return planes


def _umap(x: Tensor, seed: int, start: Tensor | None) -> Tensor:
    import umap  # type: ignore[import-not-found, unused-ignore]

    nodes = pearson.nodes(x.float()).numpy()
    begin = "spectral" if start is None else _scaled(start, 10.0).numpy()  # umap's own beginnings are that wide
    mapper = umap.UMAP(n_neighbors=max(2, min(15, len(x) - 1)), init=begin, random_state=seed, n_jobs=1)
    return torch.as_tensor(mapper.fit_transform(nodes)).float()


def place(pair: Pair, layout: Layout, side: Side = "pair", seed: int = 0) -> None:
    """Put a `position` (N, 2) float32 into the nodes of the side that is to be written.

    `tsne` is each network's own; of the pair the student's begins at the teacher's positions, so that most images
    stand at like places of both, and the teacher's nodes stand to the left of the student's. The difference, where
    both networks share their nodes, stands at the teacher's positions. `spring` pulls nodes together by the weights of
    the edges (Fruchterman and Reingold, 1991, by networkx). `none` places nothing.

    Raises:
        RelgraphError: for an unknown layout or side, and where `to_networkx` raises it.
    """
    if layout not in get_args(Layout):
        raise unknown("layout", layout, get_args(Layout))
    kinds = parts_of(side)[0] if side != "difference" else ("teacher",)
    if layout == "none":
        return
    if layout == "spring":
        import networkx as nx

        graph = to_networkx(pair, side, ())
        found = nx.spring_layout(graph, seed=seed, weight="weight")
        every = torch.tensor([[float(x), float(y)] for x, y in (found[node] for node in graph)])
        planes = [part.clone() for part in _with_room(every).chunk(len(kinds))]
    else:
        planes = [_with_room(plane) for plane in _in_turn(tsne, [pair[kind].x for kind in kinds], seed)]
    for kind, plane in zip(kinds, planes, strict=True):
        pair[kind].position = plane
    if side == "difference":
        pair["student"].position = pair["teacher"].position
    elif side == "pair" and layout == "tsne":
        width = ROOM * len(pair["teacher"].x) ** 0.5
        pair["teacher"].position[:, 0] -= 0.6 * width
        pair["student"].position[:, 0] += 0.6 * width


def _with_room(plane: Tensor) -> Tensor:
    """Return positions centred at 0, in a square with `ROOM` for each node."""
    return _scaled(plane, ROOM * len(plane) ** 0.5 / 2)


def _scaled(plane: Tensor, half: float) -> Tensor:
    """Return positions centred at 0, at most `half` from it, with the same scale in both directions."""
    centred: Tensor = plane - (plane.amax(0) + plane.amin(0)) / 2
    return centred / centred.abs().max().clamp_min(1e-12) * half
