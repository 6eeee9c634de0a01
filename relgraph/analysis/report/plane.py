"""Embeddings in the plane for the page: UMAP if it is installed, otherwise t-SNE."""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from relgraph.analysis.layout import tsne
from relgraph.graph.kernels import pearson


def planes(embeddings: Sequence[Tensor], seed: int = 0) -> tuple[list[Tensor], str]:
    """Return each network's embeddings `(N, D)` in the plane, `(N, 2)` within -1..1, and the method's name.

    Near positions mean strong edges. The last network, the teacher, is placed first, and the student's map
    begins at its places, so that most images stand at like places of both.
    """
    place, method = (_umap, "UMAP") if find_spec("umap") is not None else (tsne, "t-SNE")
    placed: list[Tensor] = []
    for x in reversed(embeddings):
        placed.insert(0, place(x, seed, placed[0] if placed else None))
    return [_scaled(plane) for plane in placed], method


def _umap(x: Tensor, seed: int, start: Tensor | None) -> Tensor:
    import umap  # type: ignore[import-not-found, unused-ignore]

    nodes = pearson.nodes(x.float()).numpy()
    begin = "spectral" if start is None else 10 * _scaled(start).numpy()  # umap's own beginnings are that wide
    mapper = umap.UMAP(n_neighbors=max(2, min(15, len(x) - 1)), init=begin, random_state=seed, n_jobs=1)
    return torch.as_tensor(mapper.fit_transform(nodes)).float()


def _scaled(plane: Tensor) -> Tensor:
    """Return places within -1..1, with the same scale in both directions."""
    centred = plane - (plane.amax(0) + plane.amin(0)) / 2
    scaled: Tensor = centred / centred.abs().max().clamp_min(1e-12)
    return scaled
