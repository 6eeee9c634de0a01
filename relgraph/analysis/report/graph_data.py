"""The data of the interactive graph: images with their numbers and places, and the edges of both networks."""

from typing import Any

import torch
from torch import Tensor

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.colours import RAMP, SHAPES, TEN
from relgraph.analysis.report.content import SIDES, Maps
from relgraph.graph.search import edge_weights, nearest_in_blocks
from relgraph.graph.topology import edges_of


def graph_data(
    analysis: Analysis, maps: Maps, thumbs: list[list[int]], files: list[str] | None = None
) -> dict[str, Any]:
    """Return nodes, classes, numbers and edges for the graph view, as JSON has them.

    Nodes are the images of the maps, and neighbours are sought among them. Without a teacher the nodes have the
    student's places and communities for both, and there are no teacher's edges.

    Args:
        analysis: The graphs of a split.
        maps: Which of its images are shown, and where.
        thumbs: Column and row of each of them in the sprite.
        files: Their names, where they are files.
    """
    chosen, k = maps.chosen, min(analysis.k, len(maps.chosen) - 1)
    labels = [analysis.class_name(place) for place in chosen.tolist()]
    columns: dict[str, list[Any]] = {"label": labels, "class": analysis.labels[chosen].clamp_min(-1).tolist()}
    columns |= {"index": analysis.index[chosen].tolist(), "thumb": thumbs}
    columns |= {} if files is None else {"file": files}
    for name, places in zip(SIDES, [*maps.places, maps.places[0]], strict=False):
        graph = analysis.graphs.get(name, analysis.student)
        prediction = graph.prediction if name in analysis.graphs else None
        columns[f"prediction_{name}"] = [None] * len(thumbs) if prediction is None else prediction[chosen].tolist()
        columns[f"community_{name}"] = graph.communities[chosen].tolist()
        for axis, values in zip("xy", places.T.tolist(), strict=True):
            columns[f"{axis}_{name}"] = [round(value, 4) for value in values]
    numbers = node_numbers(analysis)
    columns |= {key: [round(value, 4) for value in values[chosen].tolist()] for key, (_, values) in numbers.items()}
    rows = enumerate(zip(*columns.values(), strict=True))
    nodes = [{"id": number, **dict(zip(columns, row, strict=True))} for number, row in rows]
    embeddings = {name: graph.embedding[chosen] for name, graph in analysis.graphs.items()}
    edges = {name: graph_edges(x, embeddings.get(SIDES[name == "student"]), k) for name, x in embeddings.items()}
    return {
        "nodes": nodes,
        "classes": list(analysis.classes),
        "numbers": [{"key": key, "name": name, "share": key == "overlap"} for key, (name, _) in numbers.items()],
        "edges": {"teacher": [], **edges},
        "k": k,
        "layout": maps.method,
        "colours": TEN,
        "ramp": RAMP,
        "shapes": SHAPES,
    }


def node_numbers(analysis: Analysis) -> dict[str, tuple[str, Tensor]]:
    """Return what the images can be coloured by: for each key a name and a number of each image, `(N,)`."""
    found: dict[str, tuple[str, Tensor]] = {}
    if analysis.comparison is not None:
        found["overlap"] = f"Neighbour overlap@{analysis.k}", analysis.comparison.overlap
        found["relation_error"] = "Relation error", analysis.comparison.relation_error
    for name, graph in analysis.graphs.items():
        times = graph.neighbours.flatten().bincount(minlength=len(analysis.labels))
        found[f"chosen_{name}"] = f"Times chosen by others, {name}", times
    return found


def graph_edges(x: Tensor, other: Tensor | None, k: int) -> list[list[float | None]]:
    """Return the k-NN graph of embeddings `(n, D)` as rows: anchor, neighbour, correlation, that of `other`, mutual.

    A pair that both choose is one row, whose last number is 1; without an `other` network its number is `None`.
    """
    edges = edges_of(nearest_in_blocks(x, k)[0])
    forward, backward = edges[1] * len(x) + edges[0], edges[0] * len(x) + edges[1]
    mutual = torch.isin(forward, backward)
    kept = ~mutual | (edges[0] > edges[1])
    edges, mutual = edges[:, kept], mutual[kept]
    weights = [None if one is None else edge_weights(one, one, edges) for one in (x, other)]
    columns: list[list[Any]] = [edges[1].tolist(), edges[0].tolist()]
    for values in weights:
        columns.append([None] * len(mutual) if values is None else [round(value, 3) for value in values.tolist()])
    return [list(row) for row in zip(*columns, mutual.int().tolist(), strict=True)]
