"""The analysis of finished runs against the run's own outputs and the matrix of all pairs."""

from functools import partial
from typing import Any

import pytest
import torch

from relgraph.analysis.analysis import SEARCHES, Analysis, analyse, compare
from relgraph.analysis.neighbourhoods import neighbour_overlap
from relgraph.analysis.run_loading import TrainedRun
from relgraph.graph.kernels import pearson
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import nearest
from tests.analysis.conftest import FIRST, K, Runs
from tests.checks import assert_refused_like


def test_graphs_are_those_of_the_run_s_embeddings(opened: TrainedRun, found: Analysis) -> None:
    images = opened.split("test").select(torch.arange(FIRST))
    for graph, output in zip(found.graphs.values(), opened.outputs(images), strict=True):
        assert output is not None and output.logits is not None and graph.prediction is not None
        torch.testing.assert_close(graph.embedding, output.embedding)
        assert torch.equal(graph.prediction, output.logits.argmax(-1))
        matrix = pearson(graph.embedding)
        assert torch.equal(graph.neighbours, nearest(matrix, K, pearson))
        torch.testing.assert_close(graph.weights, matrix.gather(1, graph.neighbours))
        assert graph.communities.shape == (FIRST,) and not graph.degenerate.any()
    assert list(found.graphs) == ["student", "teacher"]
    assert torch.equal(found.index, images.index)
    assert torch.equal(found.labels, opened.data.test.labels[:FIRST])
    assert (found.split, found.k, found.dataset, len(found.classes)) == ("test", K, "digits", 10)
    every = analyse(opened, "val", k=2)
    assert len(every.index) == len(every.labels) == len(opened.data.val) and every.split == "val"


def test_the_comparison_by_the_matrices(found: Analysis) -> None:
    comparison, teacher = found.comparison, found.teacher
    assert comparison is not None and teacher is not None and comparison.matched is not None
    assert found.overlap is comparison.overlap
    s, t = pearson(found.student.embedding), pearson(teacher.embedding)
    candidate, anchor = comparison.edges
    torch.testing.assert_close(comparison.edge_error, (s - t).abs()[anchor, candidate])
    tables = zip(found.student.neighbours.tolist(), teacher.neighbours.tolist(), strict=True)
    expected = [(s - t)[i, list({*a, *b})].abs().double().mean() for i, (a, b) in enumerate(tables)]
    torch.testing.assert_close(comparison.relation_error, torch.stack(expected))
    assert torch.equal(comparison.overlap, neighbour_overlap(found.student.neighbours, teacher.neighbours))
    own = pearson(found.student.embedding, teacher.embedding).argmax(1) == torch.arange(FIRST)
    assert torch.equal(comparison.matched, own)
    narrow = compare(found.student._replace(embedding=found.student.embedding[:, :-1]), teacher)
    assert narrow.matched is None, "embeddings of two widths match nothing"
    assert torch.equal(narrow.overlap, comparison.overlap)


def test_the_same_each_time_and_of_nodes_in_files(
    opened: TrainedRun, found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = analyse(opened.run.path, k=K, first=FIRST)
    monkeypatch.setattr("relgraph.analysis.memory_mapped.MEMORY_LIMIT", 0)
    monkeypatch.setattr("relgraph.graph.search.LARGEST", 0)
    in_files = analyse(opened, k=K, first=FIRST, search="blocks")
    assert in_files.student.embedding.untyped_storage().filename is not None
    for name, one in found.graphs.items():
        assert torch.equal(one.communities, again.graphs[name].communities)
        for other in (again.graphs[name], in_files.graphs[name]):
            assert torch.equal(one.neighbours, other.neighbours)
            torch.testing.assert_close(one.weights, other.weights)
            assert torch.equal(one.degenerate, other.degenerate)
    assert found.comparison is not None and in_files.comparison is not None
    torch.testing.assert_close(found.comparison, in_files.comparison)


def test_without_a_teacher(runs: Runs) -> None:
    alone = analyse(runs("none"), k=3, first=20)
    assert (alone.teacher, alone.comparison, alone.overlap) == (None, None, None)
    assert list(alone.graphs) == ["student"]


def test_mistakes_are_told(opened: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, first in ((0, 20), (20, 20), (3, 1)):
        told = rf"k must be between 1 and the number of images less one, .*got {k}$"
        assert_refused_like((partial(analyse, opened, k=k, first=first), told))
    student, teacher = opened.nodes(opened.split("test").select(torch.arange(20)))
    student.x[3] = torch.nan
    monkeypatch.setattr(opened, "nodes", lambda images: (student, teacher))
    assert_refused_like(
        (lambda: analyse(opened, "tets"), "unknown split 'tets'"),
        (lambda: analyse(opened, search="block"), "unknown search 'block'"),
        (lambda: analyse(opened, k=3, first=20), "NaN or infinity in 1 of 20 of the student's"),
    )


def test_faiss_is_taken_where_it_works(opened: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(**options: Any) -> str:
        return analyse(opened, k=3, first=20, **options).search

    monkeypatch.setitem(SEARCHES, "faiss", nearest_in_blocks)
    monkeypatch.setattr("relgraph.graph.search.has_faiss", lambda: True)
    assert (taken(), taken(search="blocks")) == ("faiss", "blocks")
    with monkeypatch.context() as patch:
        patch.setattr("relgraph.graph.search.LARGEST", 20 * 32 - 1)
        assert taken() == "blocks", "faiss holds copies of all nodes"
    monkeypatch.setattr("relgraph.graph.search.has_faiss", lambda: False)
    assert taken() == "blocks"
