"""The details of one run for the report, as plain data: numbers, maps, matrices, neighbourhoods, the graph."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.layout import planes
from relgraph.graph.kernels import pearson

MAP_NODES = 2_000  # which the graph view draws fluidly, and t-SNE places within seconds
MATRIX_NODES = 400
MATRIX_CLASSES = 20  # more blocks than these could not be distinguished
WORST = 12
SIDES = ("student", "teacher")
SHARES = ("Accuracy of the head", "Label homophily")
OF_LABELS = (*SHARES, "Communities and labels, NMI", "Communities and labels, ARI")


class Matrices(NamedTuple):
    """Edges between some of the images, sorted by class, `(M, M)` each.

    Attributes:
        chosen: Which images, as positions `(M,)`.
        blocks: Name and number of images of each class, in order; empty without labels.
        student: The student's correlations.
        teacher: The teacher's; `None` in a run without one.
    """

    chosen: Tensor
    blocks: list[tuple[str, int]]
    student: Tensor
    teacher: Tensor | None = None


class Maps(NamedTuple):
    """The images in the plane, `(n, 2)` within -1..1, and the method by which they were placed.

    `chosen` `(n,)` are their positions; `places` has one map for each network of the run, the student's first.
    """

    chosen: Tensor
    places: list[Tensor]
    method: str


class Neighbourhood(NamedTuple):
    """One image, and its neighbours by student and teacher, nearest first; all are positions in the split."""

    image: int
    student: list[int]
    teacher: list[int]
    overlap: float


def spread(count: int, most: int) -> Tensor:
    """Return at most `most` evenly spaced positions of `count`.

    >>> spread(10, 4)
    tensor([0, 2, 5, 7])
    """
    kept = min(count, most)
    return torch.arange(kept) * count // max(kept, 1)


def matrices(analysis: Analysis) -> Matrices:
    """Return the edges between at most 400 images of at most 20 classes, evenly spaced among classes and images."""
    labels = analysis.labels
    present = torch.unique(labels[labels >= 0])
    classes = present[spread(len(present), MATRIX_CLASSES)].tolist()
    members = [(labels == label).nonzero().flatten() for label in classes]
    members = [part[spread(len(part), MATRIX_NODES // len(classes))] for part in members]
    chosen = torch.cat(members) if members else spread(len(labels), MATRIX_NODES)
    blocks = [(analysis.classes[label], len(part)) for label, part in zip(classes, members, strict=True)]
    return Matrices(chosen, blocks, *(pearson(graph.embedding[chosen]) for graph in analysis.graphs.values()))


def maps(analysis: Analysis) -> Maps:
    """Return 2,000 evenly spaced images in the plane, or all, by each network of the run; the worst are among them."""
    listed = [one.image for one in worst(analysis)]
    chosen = torch.unique(torch.cat([spread(len(analysis.labels), MAP_NODES), torch.tensor(listed, dtype=torch.long)]))
    places, method = planes([graph.embedding[chosen] for graph in analysis.graphs.values()])
    return Maps(chosen, places, method)


def worst(analysis: Analysis, count: int = WORST, shown: int = 8) -> list[Neighbourhood]:
    """Return the images on whose neighbours student and teacher agree least, among equals by their relation error.

    At most `shown` neighbours of each are listed.
    """
    if analysis.comparison is None:
        return []
    student, teacher = (graph.neighbours[:, :shown].tolist() for graph in analysis.graphs.values())
    overlap = analysis.comparison.overlap.tolist()
    return [Neighbourhood(i, student[i], teacher[i], overlap[i]) for i in analysis.comparison.worst(count)]


def figures(analysis: Analysis, summary: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return the table of diagnostics: for each name the student's number and, if there is one, the teacher's."""
    columns: list[dict[str, float | None]] = []
    known = analysis.labels >= 0
    for name, graph in analysis.graphs.items():
        one, labels = summary[name], summary["agreement"].get(f"{name}_labels", {})
        right = None if graph.prediction is None else graph.prediction == analysis.labels
        columns.append({
            "Accuracy of the head": None if right is None else float(right[known].float().mean()),
            "Label homophily": one.get("homophily"),
            "Communities": one["communities"],
            "Modularity": one["modularity"],
            "Communities and labels, NMI": labels.get("nmi"),
            "Communities and labels, ARI": labels.get("ari"),
            "Mean correlation of an edge": float(graph.weights.mean()),
            "Connected components": one["components"]["count"],
            "Most often chosen as a neighbour": one["in_degree"]["largest"],
            "Never chosen as a neighbour": one["in_degree"]["orphans"],
            "Degenerate nodes": one["degenerate"],
        })  # fmt: skip
    listed = [name for name in columns[0] if analysis.labelled or name not in OF_LABELS]
    return {name: [column[name] for column in columns] for name in listed}


def agreement(summary: Mapping[str, Any]) -> dict[str, tuple[float, bool]]:
    """Return how well student and teacher agree, and whether a number is a share; empty in a run without a teacher."""
    named = {
        f"Neighbour overlap@{summary['k']}": (summary.get("overlap"), True),
        "Node match": (summary.get("match"), True),
        "Rank correlation of all pairs": (summary.get("pair_rank"), False),
        "Communities of both, NMI": (summary["agreement"].get("student_teacher", {}).get("nmi"), False),
    }
    return {
        name: (value, share) for name, (value, share) in named.items() if value is not None and math.isfinite(value)
    }


def networks(analysis: Analysis) -> list[str]:
    """Return what the networks are called in headings: "Teacher" alone means the frozen teacher's own vectors."""
    called = {"teacher": "Teacher's projection"} if analysis.source == "projection" else {}
    return [called.get(side, side.capitalize()) for side in analysis.graphs]


def scale_of(matrix: Tensor) -> tuple[float, float]:
    """Return the range of a matrix's numbers off its diagonal, without 1 % at either end, outliers."""
    others = matrix[~torch.eye(len(matrix), dtype=torch.bool)].double().numpy()
    low, high = np.quantile(others, (0.01, 0.99)) if len(others) else (-1.0, 1.0)
    return (float(low), float(high)) if high - low > 1e-6 else (float(low) - 0.5, float(low) + 0.5)
