"""The analysis of finished runs against the run's own outputs and the matrix of all pairs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from relgraph.analysis.analysis import SEARCHES, Analysis, analyse, compare
from relgraph.analysis.run_loading import TrainedRun
from relgraph.errors import RelgraphError
from relgraph.graph.kernels import pearson
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import nearest

Runs = Callable[[str], Path]
FIRST = 50


@pytest.fixture(scope="module")
def opened(runs: Runs) -> TrainedRun:
    return TrainedRun(runs("all"))


@pytest.fixture(scope="module")
def found(opened: TrainedRun) -> Analysis:
    return analyse(opened, k=4, first=FIRST)


def test_graphs_are_those_of_the_run_s_embeddings(opened: TrainedRun, found: Analysis) -> None:
    images = opened.split("test").select(torch.arange(FIRST))
    for graph, output in zip(found.graphs.values(), opened.outputs(images), strict=True):
        assert output is not None
        assert output.logits is not None
        assert graph.prediction is not None
        torch.testing.assert_close(graph.embedding, output.embedding)
        assert torch.equal(graph.prediction, output.logits.argmax(-1))
        matrix = pearson(graph.embedding)
        assert torch.equal(graph.neighbours, nearest(matrix, 4, pearson))
        torch.testing.assert_close(graph.weights, matrix.gather(1, graph.neighbours))
        assert graph.communities.shape == (FIRST,)
        assert not graph.degenerate.any()
    assert list(found.graphs) == ["student", "teacher"]
    assert torch.equal(found.index, images.index)
    assert torch.equal(found.labels, opened.data.test.labels[:FIRST])
    assert (found.split, found.k, found.dataset, len(found.classes)) == ("test", 4, "digits", 10)


def test_the_comparison_by_the_matrices(found: Analysis) -> None:
    comparison, teacher = found.comparison, found.teacher
    assert comparison is not None
    assert teacher is not None
    assert found.overlap is comparison.overlap
    s, t = pearson(found.student.embedding), pearson(teacher.embedding)
    candidate, anchor = comparison.edges
    torch.testing.assert_close(comparison.edge_error, (s - t).abs()[anchor, candidate])
    rows = [
        set(a) | set(b) for a, b in zip(found.student.neighbours.tolist(), teacher.neighbours.tolist(), strict=True)
    ]
    expected = [float((s - t)[i, list(row)].abs().double().mean()) for i, row in enumerate(rows)]
    torch.testing.assert_close(comparison.relation_error, torch.tensor(expected, dtype=torch.float64))
    assert comparison.matched is not None
    own = pearson(found.student.embedding, teacher.embedding).argmax(1) == torch.arange(FIRST)
    assert torch.equal(comparison.matched, own)


def test_the_same_numbers_each_time(opened: TrainedRun, found: Analysis) -> None:
    again = analyse(opened.run.path, k=4, first=FIRST)
    for one, other in zip(found.graphs.values(), again.graphs.values(), strict=True):
        assert torch.equal(one.neighbours, other.neighbours)
        assert torch.equal(one.communities, other.communities)


def test_the_same_of_nodes_in_files(opened: TrainedRun, found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relgraph.analysis.memory_mapped.MEMORY_LIMIT", 0)
    monkeypatch.setattr("relgraph.graph.search.LARGEST", 0)
    again = analyse(opened, k=4, first=FIRST, search="blocks")
    assert again.student.embedding.untyped_storage().filename is not None
    for one, other in zip(found.graphs.values(), again.graphs.values(), strict=True):
        assert torch.equal(one.neighbours, other.neighbours)
        torch.testing.assert_close(one.weights, other.weights)
        assert torch.equal(one.degenerate, other.degenerate)
    assert found.comparison is not None and again.comparison is not None
    torch.testing.assert_close(found.comparison, again.comparison)


def test_without_a_teacher(runs: Runs) -> None:
    alone = analyse(runs("none"), k=3, first=20)
    assert (alone.teacher, alone.comparison, alone.overlap) == (None, None, None)
    assert list(alone.graphs) == ["student"]


def test_embeddings_of_two_widths_match_nothing(found: Analysis) -> None:
    narrow = found.student._replace(embedding=found.student.embedding[:, :-1])
    assert found.teacher is not None
    comparison = compare(narrow, found.teacher)
    assert comparison.matched is None
    assert found.comparison is not None
    assert torch.equal(comparison.overlap, found.comparison.overlap)


def test_all_images_of_a_split(opened: TrainedRun) -> None:
    every = analyse(opened, "val", k=2)
    assert len(every.index) == len(every.labels) == len(opened.data.val)
    assert every.split == "val"


@pytest.mark.parametrize(("k", "first"), [(0, 20), (20, 20), (3, 1)])
def test_k_must_fit_the_images(opened: TrainedRun, k: int, first: int) -> None:
    with pytest.raises(RelgraphError, match=rf"k must be between 1 and the number of images less one, .*got {k}$"):
        analyse(opened, k=k, first=first)


def test_unknown_names(opened: TrainedRun) -> None:
    with pytest.raises(RelgraphError, match="unknown split 'tets'"):
        analyse(opened, "tets")
    with pytest.raises(RelgraphError, match="unknown search 'block'"):
        analyse(opened, search="block")


def test_embeddings_that_are_not_finite(opened: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = opened.nodes(opened.split("test").select(torch.arange(20)))
    student.x[3] = torch.nan
    monkeypatch.setattr(opened, "nodes", lambda images: (student, teacher))
    with pytest.raises(RelgraphError, match="NaN or infinity in 1 of 20 of the student's"):
        analyse(opened, k=3, first=20)


def test_faiss_is_taken_where_it_works(opened: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEARCHES, "faiss", nearest_in_blocks)
    monkeypatch.setattr("relgraph.graph.search.has_faiss", lambda: True)
    assert analyse(opened, k=3, first=20).search == "faiss"
    assert analyse(opened, k=3, first=20, search="blocks").search == "blocks"
    with monkeypatch.context() as patch:
        patch.setattr("relgraph.graph.search.LARGEST", 20 * 32 - 1)
        assert analyse(opened, k=3, first=20).search == "blocks", "faiss holds copies of all nodes"
    monkeypatch.setattr("relgraph.graph.search.has_faiss", lambda: False)
    assert analyse(opened, k=3, first=20).search == "blocks"
