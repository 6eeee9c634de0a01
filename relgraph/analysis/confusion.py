"""Which classes a k-NN graph joins: edges counted by the classes of their ends.

A label is the number of a class; a negative one is unknown, and its nodes and edges count for no class.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from relgraph.errors import RelgraphError

if TYPE_CHECKING:
    import networkx as nx


class ClassEdge(NamedTuple):
    """The k-NN edges from the images of one class to those of another.

    Attributes:
        anchor: Number of the class whose images have the neighbours.
        candidate: Number of the neighbours' class.
        student: Number of such edges in the student's graph.
        teacher: Number in the teacher's.
        student_share: Share of all the student's edges from the class `anchor`, 0 to 1.
        teacher_share: Share of all the teacher's.
    """

    anchor: int
    candidate: int
    student: int
    teacher: int
    student_share: float
    teacher_share: float


def class_counts(neighbours: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the number of edges from each class to each, `(N, k), (N,) -> (C, C)`, anchors' classes as rows.

    Raises:
        RelgraphError: if a label is not below the number of classes.

    >>> class_counts(torch.tensor([[1], [0], [0]]), torch.tensor([0, 0, 1]), classes=2)
    tensor([[2, 0],
            [1, 0]])
    """
    if len(labels) and int(labels.max()) >= classes:
        raise RelgraphError(f"labels must be below the number of classes, {classes}, got {int(labels.max())}")
    anchors, candidates = labels[:, None].expand_as(neighbours), labels[neighbours]
    known = (anchors >= 0) & (candidates >= 0)
    pairs = anchors[known] * classes + candidates[known]
    return pairs.bincount(minlength=classes * classes).view(classes, classes)


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of the values of each class, `(M,), (M,) -> (C,)`; NaN for a class without any.

    >>> class_means(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 2]), classes=3)
    tensor([1.5000,    nan, 6.0000], dtype=torch.float64)
    """
    known = labels >= 0
    total = torch.zeros(classes, dtype=torch.float64).index_add(0, labels[known], values[known].double())
    return total / labels[known].bincount(minlength=classes)


def class_edges(student: Tensor, teacher: Tensor) -> list[ClassEdge]:
    """Return the edges between different classes, the largest differences of shares first.

    Args:
        student: `class_counts` of the student's graph, `(C, C)`.
        teacher: Those of the teacher's.
    """
    shares = [counts / counts.sum(1, keepdim=True).clamp_min(1).double() for counts in (student, teacher)]
    joined = ((student + teacher) > 0).fill_diagonal_(False)
    anchors, candidates = joined.nonzero(as_tuple=True)
    ones, others = (share[anchors, candidates] for share in shares)
    order = (ones - others).abs().argsort(descending=True, stable=True)
    columns = (anchors, candidates, student[joined], teacher[joined], ones, others)
    return [ClassEdge(*row) for row in zip(*(column[order].tolist() for column in columns), strict=True)]


def class_graph(edges: Sequence[ClassEdge], names: Sequence[str]) -> "nx.DiGraph[int]":
    """Return the confusion of classes for networkx: a node for each class, an edge from anchors' to neighbours'.

    Nodes are the numbers of the classes and have a `name`; edges have the counts `student` and `teacher`,
    `student_share` and `teacher_share`.

    >>> graph = class_graph([ClassEdge(1, 0, 3, 1, 0.3, 0.1)], ["cat", "dog"])
    >>> graph.nodes[1]["name"], graph.edges[1, 0]["student"]
    ('dog', 3)
    """
    import networkx as nx

    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from((number, {"name": name}) for number, name in enumerate(names))
    for edge in edges:
        figures = edge._asdict()
        graph.add_edge(figures.pop("anchor"), figures.pop("candidate"), **figures)
    return graph
