"""The pair of a whole split against `graph_pair`, which holds the matrices."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from relgraph.analysis import split_graph
from relgraph.analysis.split_graph import split_pair
from relgraph.graph.kernels import euclidean, pearson
from relgraph.graph.pair import STUDENT, adjacency, graph_pair
from relgraph.graph.topology import CHOOSERS, Above, Chooser, Nearest
from tests.analysis.conftest import assert_same_pair
from tests.checks import assert_refused_like, case


def embeddings(count: int = 40, dim: int = 6) -> tuple[Tensor, Tensor]:
    teacher = torch.randn(count, dim, dtype=torch.float64)
    teacher[3] = 1.0  # a node without variance
    return teacher + torch.randn(count, dim, dtype=torch.float64), teacher


def test_knn_is_graph_pair() -> None:
    student, teacher = embeddings()
    teacher[3] = torch.randn(6)  # of a node without variance any neighbours are the nearest
    known: dict[str, Any] = {"image_id": torch.randperm(40), "y": torch.randint(0, 5, (40,))}
    for neighbours, kernel in product(CHOOSERS, (pearson, euclidean)):
        options: dict[str, Any] = {"kernel": kernel, **known}
        found = split_pair(student, teacher, graph="knn", k=3, neighbours=neighbours, **options)
        with case(neighbours, kernel.name):
            assert_same_pair(found, graph_pair(student, teacher, topology=Nearest(3, neighbours), **options))


def test_threshold_is_graph_pair() -> None:
    student, teacher = embeddings()
    sides: tuple[Chooser, ...] = ("teacher", "student")
    for side, threshold in product(sides, (0.1, 0.6, 1.5)):
        found = split_pair(student, teacher, graph="threshold", threshold=threshold, neighbours=side)
        with case(side, threshold):
            assert_same_pair(found, graph_pair(student, teacher, topology=Above(threshold, side)))


def test_dense_is_graph_pair_without_gradient() -> None:
    student, teacher = embeddings()
    found = split_pair(student.requires_grad_(), teacher, graph="dense")
    assert not adjacency(found, STUDENT).requires_grad
    assert_same_pair(found, graph_pair(student, teacher))


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = embeddings()
    broken = teacher.clone()
    broken[[1, 7]] = float("nan")

    def pair(teacher: Tensor = teacher, **options: Any) -> HeteroData:
        return split_pair(student, teacher, **options)

    monkeypatch.setattr(split_graph, "DENSE_LIMIT", 39)
    assert_refused_like(
        (lambda: pair(graph="dense"), "'dense' holds all pairs and takes at most 39 nodes, got 40"),
        (lambda: pair(graph="knm"), "unknown graph 'knm': did you mean 'knn'"),
        (lambda: pair(neighbours="both"), "unknown choice of neighbours 'both'"),
        (lambda: pair(k=40), r"k must be between 1 and .* 39, got 40"),
        (lambda: pair(teacher[:, :5]), "one width"),
        (lambda: pair(broken), "NaN or infinity in 2 of 40 of the teacher's"),
    )
    pair(graph="knn")
