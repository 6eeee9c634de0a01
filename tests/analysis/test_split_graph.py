"""The pair of a whole split against `graph_pair`, which holds the matrices."""

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from relgraph.analysis import split_graph
from relgraph.analysis.split_graph import split_pair
from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, euclidean, pearson
from relgraph.graph.pair import STUDENT, adjacency, graph_pair
from relgraph.graph.topology import CHOOSERS, Above, Chooser, Nearest


def embeddings(count: int = 40, dim: int = 6) -> tuple[Tensor, Tensor]:
    teacher = torch.randn(count, dim, dtype=torch.float64)
    teacher[3] = 1.0  # a node without variance
    return teacher + torch.randn(count, dim, dtype=torch.float64), teacher


def assert_same(found: HeteroData, expected: HeteroData) -> None:
    found_stores, expected_stores = found.to_dict(), expected.to_dict()
    assert found_stores.keys() == expected_stores.keys()
    for kind, store in expected_stores.items():
        if kind == "_global_store":  # says how each was computed
            continue
        assert found_stores[kind].keys() == store.keys()
        for name, value in store.items():
            torch.testing.assert_close(found_stores[kind][name], value)


@pytest.mark.parametrize("neighbours", CHOOSERS)
@pytest.mark.parametrize("kernel", [pearson, euclidean], ids=lambda kernel: kernel.name)
def test_knn_is_graph_pair(neighbours: Chooser, kernel: Kernel) -> None:
    student, teacher = embeddings()
    teacher[3] = torch.randn(6)  # of a node without variance any neighbours are the nearest
    image_id, y = torch.randperm(40), torch.randint(0, 5, (40,))
    found = split_pair(student, teacher, graph="knn", k=3, neighbours=neighbours, kernel=kernel, image_id=image_id, y=y)
    assert_same(
        found, graph_pair(student, teacher, topology=Nearest(3, neighbours), kernel=kernel, image_id=image_id, y=y)
    )


@pytest.mark.parametrize("neighbours", ["teacher", "student"])
@pytest.mark.parametrize("threshold", [0.1, 0.6, 1.5])
def test_threshold_is_graph_pair(neighbours: Chooser, threshold: float) -> None:
    student, teacher = embeddings()
    found = split_pair(student, teacher, graph="threshold", threshold=threshold, neighbours=neighbours)
    rule = Above(threshold, "student" if neighbours == "student" else "teacher")
    assert_same(found, graph_pair(student, teacher, topology=rule))


def test_dense_is_graph_pair_without_gradient() -> None:
    student, teacher = embeddings()
    found = split_pair(student.requires_grad_(), teacher, graph="dense")
    assert not adjacency(found, STUDENT).requires_grad
    assert_same(found, graph_pair(student, teacher))


def test_dense_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_graph, "DENSE_LIMIT", 39)
    with pytest.raises(RelgraphError, match="'dense' holds all pairs and takes at most 39 nodes, got 40"):
        split_pair(*embeddings(), graph="dense")
    split_pair(*embeddings(), graph="knn")


def test_mistakes_are_told() -> None:
    student, teacher = embeddings()
    with pytest.raises(RelgraphError, match="unknown graph 'knm': did you mean 'knn'"):
        split_pair(student, teacher, graph="knm")  # type: ignore[arg-type]
    with pytest.raises(RelgraphError, match="unknown choice of neighbours 'both'"):
        split_pair(student, teacher, neighbours="both")  # type: ignore[arg-type]
    with pytest.raises(RelgraphError, match=r"k must be between 1 and .* 39, got 40"):
        split_pair(student, teacher, k=40)
    with pytest.raises(RelgraphError, match="one width"):
        split_pair(student[:, :5], teacher)
    teacher[[1, 7]] = float("nan")
    with pytest.raises(RelgraphError, match="NaN or infinity in 2 of 40 of the teacher's"):
        split_pair(student, teacher)
