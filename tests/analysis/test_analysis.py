"""The analysis of a run against its outputs and the matrix of all pairs, its figures against what they sum up."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.metrics import normalized_mutual_info_score

from relgraph.analysis.analysis import SEARCHES, Analysis, analyse, compare, write_summary
from relgraph.analysis.neighbourhoods import class_counts, class_edges, homophily, neighbour_overlap
from relgraph.analysis.run_loading import TrainedRun
from relgraph.errors import RelgraphError
from relgraph.graph.kernels import pearson
from relgraph.graph.search import nearest_in_blocks
from relgraph.graph.topology import nearest
from tests.analysis.conftest import FIRST, K, Runs
from tests.checks import assert_refused_like


def test_graphs_are_those_of_the_run_s_embeddings(opened: TrainedRun, found: Analysis) -> None:
    images = opened.images("test", FIRST)
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
    assert torch.equal(found.labels, images.labels)
    assert (found.split, found.k, found.dataset, len(found.classes)) == ("test", K, "digits", 10)
    every = analyse(opened, "val", k=2)
    assert len(every.index) == len(every.labels) == len(opened.data.val) and every.split == "val"


def test_the_comparison_by_the_matrices(found: Analysis) -> None:
    comparison, teacher = found.comparison, found.teacher
    assert comparison is not None and teacher is not None and comparison.matched is not None
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
    again = analyse(opened.run.path, k=K, first=FIRST, source="projection")
    monkeypatch.setattr("relgraph.analysis.run_loading.MEMORY_LIMIT", 0)
    monkeypatch.setattr("relgraph.graph.search.LARGEST", 0)
    in_files = analyse(opened, k=K, first=FIRST, search="blocks", source="projection")
    assert in_files.student.embedding.untyped_storage().filename is not None
    for name, one in found.graphs.items():
        assert torch.equal(one.communities, again.graphs[name].communities)
        for other in (again.graphs[name], in_files.graphs[name]):
            assert torch.equal(one.neighbours, other.neighbours)
            torch.testing.assert_close(one.weights, other.weights)
            assert torch.equal(one.degenerate, other.degenerate)
    assert found.comparison is not None and in_files.comparison is not None
    torch.testing.assert_close(found.comparison, in_files.comparison)


def test_mistakes_are_told(opened: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, first in ((0, 20), (20, 20), (3, 1)):
        told = rf"k must be between 1 and the number of images less one, .*got {k}$"
        assert_refused_like((partial(analyse, opened, k=k, first=first), told))
    student, teacher = opened.nodes(opened.images("test").select(torch.arange(20)))
    student.x[3] = torch.nan
    monkeypatch.setattr(opened, "nodes", lambda *_: (student, teacher))
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
        patch.setattr("relgraph.graph.search.LARGEST", 20 * 64 - 1)
        assert taken() == "blocks", "faiss holds copies of all nodes"
    monkeypatch.setattr("relgraph.graph.search.has_faiss", lambda: False)
    assert taken() == "blocks"


def test_figures_of_both_networks_together(found: Analysis) -> None:
    summary, comparison, teacher = found.summary(), found.comparison, found.teacher
    assert comparison is not None and teacher is not None and comparison.matched is not None
    row, column = torch.triu_indices(FIRST, FIRST, offset=1)
    student, teachers = (pearson(graph.embedding)[row, column].numpy() for graph in (found.student, teacher))
    expected = {
        "overlap": float(comparison.overlap.mean()),
        "match": float(comparison.matched.double().mean()),
        "edges": len(comparison.student),
        "edge_rank": spearmanr(comparison.student.numpy(), comparison.teacher.numpy()).statistic,
        "relation_error": float((comparison.student - comparison.teacher).abs().mean()),
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected)
    assert summary["pair_rank"] == pytest.approx(spearmanr(student, teachers).statistic, abs=1e-4)


def test_figures_of_each_network(found: Analysis) -> None:
    summary = found.summary()
    for name, graph in found.graphs.items():
        own = summary[name]
        assert own["homophily"] == homophily(graph.neighbours, found.labels)
        assert own["communities"] == len(set(graph.communities.tolist()))
        assert own["components"]["count"] == len(own["components"]["sizes"])
        assert sum(own["components"]["sizes"]) == FIRST and own["degenerate"] == 0
        largest = int(graph.neighbours.flatten().bincount().max())
        assert (own["in_degree"]["mean"], own["in_degree"]["largest"]) == (K, largest)
        nmi = normalized_mutual_info_score(graph.communities, found.labels)
        assert summary["agreement"][f"{name}_labels"]["nmi"] == pytest.approx(nmi)
    assert set(summary["agreement"]) == {"student_teacher", "student_labels", "teacher_labels"}


def test_rows_of_classes_are_those_of_a_loop_the_worst_first(found: Analysis) -> None:
    comparison, rows, labels = found.comparison, found.summary()["per_class"], found.labels.tolist()
    assert comparison is not None and {row["class"] for row in rows} == set(labels)
    assert [*rows] == sorted(rows, key=lambda row: -row["relation_error"])
    anchors = comparison.edges[1].tolist()
    for row in rows:
        members = [i for i, label in enumerate(labels) if label == row["class"]]
        assert (row["name"], row["images"]) == (found.classes[row["class"]], len(members))
        assert row["overlap"] == pytest.approx(float(comparison.overlap[members].mean()))
        own = [e for e, anchor in zip(comparison.edge_error.tolist(), anchors, strict=True) if anchor in members]
        assert row["relation_error"] == pytest.approx(sum(own) / len(own))
        joined = found.labels[found.student.neighbours[members]] == row["class"]
        assert row["homophily_student"] == pytest.approx(float(joined.double().mean()))


def test_confusion_lists_every_edge_between_classes(found: Analysis) -> None:
    counts = [class_counts(graph.neighbours, found.labels, 10) for graph in found.graphs.values()]
    columns, edges = found.summary()["confusion"], class_edges(*counts)
    for name, column in (("from", "anchor"), ("to", "candidate"), ("student", "student")):
        assert columns[name] == edges[column]
    assert columns["teacher_share"] == pytest.approx(edges["teacher_share"], abs=1e-6)
    assert sum(columns["student"]) == pytest.approx((1 - homophily(found.student.neighbours, found.labels)) * FIRST * K)


def test_the_worst_images_come_by_overlap_then_error(found: Analysis) -> None:
    comparison, teacher, worst = found.comparison, found.teacher, found.summary()["worst"]
    assert comparison is not None and teacher is not None and len(worst) == 50
    order = sorted(range(FIRST), key=lambda i: (float(comparison.overlap[i]), -float(comparison.relation_error[i])))
    assert [image["index"] for image in worst] == found.index[order][:50].tolist()
    place, label = order[0], int(found.labels[order[0]])
    expected = {
        "student": found.index[found.student.neighbours[place]].tolist(),
        "teacher": found.index[teacher.neighbours[place]].tolist(),
        "label": label,
        "name": found.classes[label],
    }
    assert {name: worst[0][name] for name in expected} == expected


def test_without_a_teacher_nothing_is_compared(runs: Runs) -> None:
    alone = analyse(runs("none"), k=K, first=FIRST)
    assert (alone.teacher, alone.comparison, list(alone.graphs)) == (None, None, ["student"])
    summary = alone.summary()
    assert not {"teacher", "overlap", "match", "edge_rank", "pair_rank", "worst"} & set(summary)
    assert set(summary["agreement"]) == {"student_labels"}
    homophilies = [row["homophily_student"] for row in summary["per_class"]]
    assert homophilies == sorted(homophilies)
    assert set(summary["confusion"]) == {"from", "to", "student", "student_share"}
    shares = summary["confusion"]["student_share"]
    assert shares == sorted(shares, reverse=True)


def test_without_labels_their_figures_are_left_out(found: Analysis) -> None:
    summary = replace(found, labels=torch.full((FIRST,), -1)).summary()
    assert not {"per_class", "confusion"} & set(summary) and summary["labelled"] == 0
    assert set(summary["agreement"]) == {"student_teacher"} and "homophily" not in summary["student"]
    assert not {"label", "name"} & set(summary["worst"][0])
    assert summary["overlap"] == found.summary()["overlap"]
    labels = found.labels.clone()
    labels[::2] = -1
    summary = replace(found, labels=labels).summary()
    assert summary["labelled"] == FIRST // 2
    assert summary["student"]["homophily"] == homophily(found.student.neighbours, labels)


def test_a_figure_that_is_no_number_is_null(found: Analysis, tmp_path: Path) -> None:
    one = found.labels.clone().fill_(-1)
    one[0] = 0  # its neighbours have no label
    nothing = found.student._replace(weights=torch.zeros_like(found.student.weights))
    summary = replace(found, labels=one, graphs={**found.graphs, "student": nothing}).summary()
    assert summary["student"]["homophily"] is summary["student"]["modularity"] is None
    assert summary["per_class"][0]["homophily_student"] is None
    write_summary(summary, tmp_path / "null.json")


def test_the_file_holds_the_summary(found: Analysis, tmp_path: Path) -> None:
    summary, path = found.summary(), tmp_path / "analysis.json"
    write_summary(summary, path)
    assert json.loads(path.read_text()) == summary
    assert len(path.read_text().splitlines()) == len(summary) + 2
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RelgraphError, match="cannot write"):
        write_summary(summary, tmp_path / "nowhere" / "analysis.json")
    summary["overlap"] = math.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(summary, path)
    assert json.loads(path.read_text())["overlap"] == found.summary()["overlap"]
