"""The data of a report against naive loops and the run's own outputs."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from torch.nn.functional import normalize

from relgraph.analysis.analysis import Analysis, analyse
from relgraph.analysis.report import content
from relgraph.analysis.report.content import maps, matrices, spread, worst
from relgraph.analysis.report.graph_data import graph_data
from relgraph.graph.kernels import pearson
from relgraph.graph.topology import nearest
from tests.analysis.conftest import FIRST, K, Runs


@pytest.fixture(scope="module")
def data(found: Analysis) -> dict[str, Any]:
    return graph_data(found, maps(found), [[i, 0] for i in range(FIRST)])


def test_spread() -> None:
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4] and spread(0, 9).tolist() == []
    assert spread(10_000, 2_000).tolist() == list(range(0, 10_000, 5))


def test_nodes_are_the_images_with_what_the_run_says(found: Analysis, data: dict[str, Any]) -> None:
    nodes, graphs = data["nodes"], found.graphs.values()
    assert data["classes"] == [str(i) for i in range(10)] and data["k"] == K
    student, teacher = (None if graph.prediction is None else graph.prediction.tolist() for graph in graphs)
    expected = {
        "id": list(range(FIRST)),
        "index": found.index.tolist(),
        "class": found.labels.tolist(),
        "label": [str(label) for label in found.labels.tolist()],
        "prediction_student": student,
        "prediction_teacher": teacher,
    }
    assert {name: [node[name] for node in nodes] for name in expected} == expected
    assert found.comparison is not None
    near = found.student.neighbours.flatten().tolist()
    numbers = {
        "overlap": found.comparison.overlap.tolist(),
        "relation_error": found.comparison.relation_error.tolist(),
        "chosen_student": [near.count(i) for i in range(FIRST)],
    }
    for name, values in numbers.items():
        assert name in {number["key"] for number in data["numbers"]}
        assert [node[name] for node in nodes] == pytest.approx(values, abs=6e-5)
    for side in ("student", "teacher"):
        places = np.array([[node[f"x_{side}"], node[f"y_{side}"]] for node in nodes])
        assert np.abs(places).max() == pytest.approx(1, abs=1e-4)


def test_edges_are_the_nearest_neighbours_each_pair_once(found: Analysis, data: dict[str, Any]) -> None:
    for name, graph in found.graphs.items():
        near, edges, r = graph.neighbours.tolist(), data["edges"][name], pearson(graph.embedding)
        expected = {frozenset((i, j)) for i, row in enumerate(near) for j in row}
        assert {frozenset(edge[:2]) for edge in edges} == expected and len(edges) == len(expected)
        other = pearson(found.graphs["teacher" if name == "student" else "student"].embedding)
        for source, target, weight, of_other, mutual in edges:
            assert target in near[source] and mutual == (source in near[target])
            told = [float(matrix[source, target]) for matrix in (r, other)]
            assert [weight, of_other] == pytest.approx(told, abs=6e-4)


def test_fewer_nodes_have_neighbours_among_themselves(found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAP_NODES", 20)
    chosen = maps(found)
    assert chosen.chosen.tolist() == sorted({*range(0, FIRST, 3), *(one.image for one in worst(found))})
    names = [f"{place}.png" for place in chosen.chosen.tolist()]
    data = graph_data(found, chosen, [[0, 0]] * len(names), names)
    near = nearest(pearson(found.student.embedding[chosen.chosen]), K, pearson)[7].tolist()
    assert {frozenset((7, j)) for j in near} <= {frozenset(edge[:2]) for edge in data["edges"]["student"]}
    place = int(chosen.chosen[7])
    assert (data["nodes"][7]["index"], data["nodes"][7]["file"]) == (int(found.index[place]), f"{place}.png")


def test_maps_keep_neighbours(found: Analysis) -> None:
    placed = maps(found)
    assert placed.method == "t-SNE"
    for graph, places in zip(found.graphs.values(), placed.places, strict=True):
        x = graph.embedding - graph.embedding.mean(1, keepdim=True)
        assert trustworthiness(normalize(x).numpy(), places.numpy(), n_neighbors=5) > 0.85


def test_umap_is_taken_where_it_is_installed(found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:
        def __init__(self, n_neighbors: int, init: Any, random_state: int, n_jobs: int) -> None:
            assert n_neighbors == 15 and random_state == 0 and n_jobs == 1

        def fit_transform(self, nodes: np.ndarray) -> np.ndarray:
            return nodes[:, :2] * 7

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP, __spec__=object()))
    placed = maps(found)
    assert placed.method == "UMAP" and placed.places[0].abs().max() == 1


def test_matrices_are_correlations_sorted_by_class(found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = matrices(found)
    assert drawn.teacher is not None and found.teacher is not None
    labels = found.labels[drawn.chosen].tolist()
    assert labels == sorted(found.labels.tolist())
    assert drawn.blocks == [(str(label), labels.count(label)) for label in sorted(set(labels))]
    for matrix, graph in ((drawn.student, found.student), (drawn.teacher, found.teacher)):
        expected = np.corrcoef(graph.embedding[drawn.chosen].double().numpy())
        np.testing.assert_allclose(matrix.numpy(), expected, atol=1e-5)
    monkeypatch.setattr(content, "MATRIX_CLASSES", 3)
    monkeypatch.setattr(content, "MATRIX_NODES", 9)
    some = matrices(found)
    assert len(some.blocks) == 3 and all(count <= 3 for _, count in some.blocks)
    assert some.student.shape == (sum(count for _, count in some.blocks),) * 2


def test_the_worst_and_the_table_are_those_of_the_analysis(found: Analysis) -> None:
    student, teacher, comparison, summary = found.student, found.teacher, found.comparison, found.summary()
    assert teacher is not None and comparison is not None
    shown = worst(found, 7, shown=3)
    assert [one.image for one in shown] == comparison.worst(7)
    for one in shown:
        assert one.overlap == comparison.overlap[one.image]
        assert one.student == student.neighbours[one.image, :3].tolist()
        assert one.teacher == teacher.neighbours[one.image, :3].tolist()
    rows = content.figures(found, summary)
    assert rows["Label homophily"] == [summary[name]["homophily"] for name in ("student", "teacher")]
    for accuracy, graph in zip(rows["Accuracy of the head"], (student, teacher), strict=True):
        assert graph.prediction is not None
        assert accuracy == pytest.approx(float((graph.prediction == found.labels).double().mean()))
    assert all(len(row) == 2 for row in rows.values())
    assert content.agreement(summary)[f"Neighbour overlap@{K}"] == (summary["overlap"], True)


def test_without_a_teacher(runs: Runs) -> None:
    found = analyse(runs("none"), "test", K, FIRST)
    data = graph_data(found, maps(found), [[0, 0]] * FIRST)
    assert data["edges"]["teacher"] == [] and len(data["edges"]["student"]) > 0
    assert {edge[3] for edge in data["edges"]["student"]} == {None}
    for node in data["nodes"]:
        assert "overlap" not in node and node["prediction_teacher"] is None and node["x_teacher"] == node["x_student"]
    assert worst(found) == [] and matrices(found).teacher is None
    assert content.agreement(found.summary()) == {}
    assert all(len(row) == 1 for row in content.figures(found, found.summary()).values())
