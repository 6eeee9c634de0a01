"""Whose vectors a graph is of: the frozen teacher's own against scikit-learn, and of a store, without a student."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import relgraph
from relgraph.analysis.analysis import analyse
from relgraph.analysis.run_loading import TrainedRun, run_pair
from relgraph.analysis.sources import title
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER
from relgraph.networks.vectors import VectorFile
from tests.analysis.conftest import FIRST, K, Runs
from tests.checks import assert_refused_like, case


def neighbours(vectors: np.ndarray) -> list[set[int]]:
    """Return each row's nearest others by scikit-learn."""
    found = NearestNeighbors(n_neighbors=K, metric="correlation", algorithm="brute").fit(vectors.astype(np.float64))
    return [set(row) for row in found.kneighbors(return_distance=False).tolist()]


def of_edges(edges: Any, count: int) -> list[set[int]]:
    """Return each node's neighbours by edges from neighbour to anchor."""
    found: list[set[int]] = [set() for _ in range(count)]
    for neighbour, anchor in edges:
        found[anchor].add(neighbour)
    return found


@pytest.fixture(scope="module")
def raw(opened: TrainedRun) -> np.ndarray:
    """Return the frozen teacher's own vectors of the test images, by its network alone."""
    assert opened.teacher is not None
    teacher = relgraph.load_teacher("embedded:digits")
    pixels = opened.data.test.pixels.float() / 255
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (teacher.mean, teacher.std))
    with torch.no_grad():
        vectors: np.ndarray = teacher((pixels - mean) / std).numpy()
    return vectors


def test_the_teachers_graph_is_that_of_scikit_learn(opened: TrainedRun, raw: np.ndarray) -> None:
    expected, count = neighbours(raw), len(raw)
    for side in ("teacher", "difference"):
        pair = run_pair(opened, side=side, k=K)
        torch.testing.assert_close(pair["teacher"].x, torch.from_numpy(raw))
        assert pair.source == "teacher" and MATCHES not in pair.edge_types, "64 and 32 columns"
    own = run_pair(opened, side="teacher", k=K)[TEACHER].edge_index
    assert of_edges(own.T.tolist(), count) == expected
    found = analyse(opened, k=K)
    assert found.source == "teacher" and found.teacher is not None and found.comparison is not None
    assert [set(row) for row in found.teacher.neighbours.tolist()] == expected
    assert found.comparison.matched is None and "match" not in found.summary()
    assert found.summary()["source"] == "teacher" and found.summary()["teacher"]["width"] == raw.shape[1]
    assert of_edges(
        run_pair(opened, side="teacher", source="projection", k=K)[TEACHER].edge_index.T.tolist(), count
    ) != (expected)


def test_a_pair_matches_what_the_loss_read(opened: TrainedRun, runs: Runs) -> None:
    pair = run_pair(opened, first=FIRST, k=K)
    output = opened.outputs(opened.images("test", FIRST))[1]
    assert output is not None and pair.source == "projection" and torch.equal(pair["teacher"].x, output.embedding)
    wrong: Any = "head"
    told = "the cross graph of a pair needs vectors of one width, got 32 of the student and 64 of the frozen teacher's"
    assert_refused_like(
        (lambda: run_pair(opened, source="teacher"), told),
        (lambda: run_pair(opened, side="teacher", source="student"), "gives its graph alone: expected no --side"),
        (lambda: relgraph.export(opened.run.path, "g.gexf", source=wrong), "^unknown source 'head'"),
        (lambda: relgraph.analyze(opened.run.path, source=wrong), "^unknown source 'head'"),
    )
    read = run_pair(runs("seed"), first=FIRST, k=K)  # its loss compared the teacher's own vectors
    assert read.source == "teacher" and read["teacher"].x.shape[1] == 64 and MATCHES in read.edge_types


def test_the_students_graph_alone(opened: TrainedRun, runs: Runs) -> None:
    pair = run_pair(opened, source="student", first=FIRST, k=K)
    expected = run_pair(opened, side="student", first=FIRST, k=K)
    assert (pair.node_types, pair.edge_types, pair.source) == (["student"], [STUDENT], "student")
    assert torch.equal(pair[STUDENT].edge_index, expected[STUDENT].edge_index)
    alone = analyse(opened, k=K, first=FIRST, source="student"), analyse(runs("none"), k=K, first=FIRST)
    for found in alone:
        assert (list(found.graphs), found.source, found.comparison) == (["student"], "student", None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "digits"
    relgraph.embed(dataset="digits", out=path, device="cpu")
    return path


@pytest.fixture(scope="module")
def vectors(store: Path) -> np.ndarray:
    from relgraph.data.embeddings import EmbeddingStore

    rows: np.ndarray = EmbeddingStore(store).view()[:].numpy()
    return rows


def test_a_store_is_exported_and_read_again(store: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    expected, told = neighbours(vectors), title("teacher")
    for name in ("gexf", "graphml", "json", "pt"):
        found = relgraph.export(store, tmp_path / f"g.{name}", k=K, layout="none")
        assert found.images == len(vectors) and found.notes == [f"of {told}"]
    pair = relgraph.read_pair(tmp_path / "g.pt")
    assert (pair.node_types, pair.edge_types, pair.source) == (["teacher"], [TEACHER], "teacher")
    assert of_edges(pair[TEACHER].edge_index.T.tolist(), len(vectors)) == expected
    data = json.loads((tmp_path / "g.json").read_text())
    graphs = {
        "gexf": nx.read_gexf(tmp_path / "g.gexf"),
        "graphml": nx.read_graphml(tmp_path / "g.graphml"),
        "json": nx.node_link_graph(data, edges="edges"),
    }
    for name, graph in graphs.items():
        with case(name):
            assert graph.graph["name"] == told and graph.graph.get("source", "teacher") == "teacher"
            assert of_edges(((int(a[1:]), int(b[1:])) for a, b in graph.edges), len(vectors)) == expected
            assert graph.nodes["t7"]["class_name"] == pair.classes[pair["teacher"].y[7]]


def test_a_store_is_analysed(store: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    summary = relgraph.analyze(store, k=K, out=tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == summary
    assert summary["store"] == str(store) and not {"run", "student", "overlap", "worst"} & summary.keys()
    assert (summary["source"], summary["dataset"], summary["split"]) == ("teacher", "digits", "train")
    labels = relgraph.read_pair(relgraph.export(store, tmp_path / "g.pt", k=K).path)["teacher"].y.numpy()
    equal = [labels[list(row)] == label for row, label in zip(neighbours(vectors), labels, strict=True)]
    assert summary["teacher"]["homophily"] == pytest.approx(float(np.mean(equal)))
    assert summary["teacher"]["width"] == 64 and set(summary["agreement"]) == {"teacher_labels"}
    assert [row["homophily_teacher"] for row in summary["per_class"]] == sorted(
        row["homophily_teacher"] for row in summary["per_class"]
    )
    assert set(summary["confusion"]) == {"from", "to", "teacher", "teacher_share"}
    few = relgraph.export(store, tmp_path / "few.pt", first=30, k=K, thumbnails=True)
    pair = relgraph.read_pair(few.path)
    assert pair["teacher"].y.bincount().tolist() == [3] * 10, "drawn over the classes"
    assert torch.equal(pair["teacher"].x, torch.from_numpy(vectors)[pair["teacher"].image_id])
    assert len(list((tmp_path / "few_thumbnails").iterdir())) == 30


def test_what_a_store_does_not_have(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.gexf"
    assert_refused_like(
        (
            lambda: relgraph.export(store, out, side="pair"),
            "has the teacher's graph alone: expected no --side, got pair",
        ),
        (lambda: relgraph.export(store, out, source="projection"), "alone: expected no --source, got projection"),
        (lambda: relgraph.export(store, out, split="test"), "is no run: expected no split, got test"),
        (lambda: relgraph.export(store, out, neighbours="student"), "the teacher's graph alone, which has its own"),
        (lambda: relgraph.export(store, out, attributes=["overlap"]), "of two networks' neighbours"),
        (lambda: relgraph.analyze(store, student="own:Net"), "is no run: expected no student"),
        (lambda: relgraph.analyze(store, k=1442), "k must be between 1 and the number of images less one, 1441"),
    )


def test_tables_of_vectors(vectors: np.ndarray, tmp_path: Path) -> None:
    """Labels are those of the data set that is given, or in the table; without both there are none."""
    file = tmp_path / "v.npy"
    np.save(file, vectors)
    summary = relgraph.analyze(file, k=K)
    assert summary["labelled"] == 0 and "homophily" not in summary["teacher"]
    known = relgraph.analyze(file, k=K, dataset="digits")
    assert known["labelled"] == len(vectors) and known["teacher"]["modularity"] == summary["teacher"]["modularity"]
    np.save(file, vectors[:40])
    assert_refused_like((lambda: relgraph.analyze(file, k=K, dataset="digits"), "expected vectors of images of digits"))
    named = relgraph.read_pair(relgraph.export(_table(tmp_path, vectors[:6]), tmp_path / "g.pt", k=2).path)
    assert named.classes == ["ant", "bee"] and named["teacher"].y.tolist() == [1, 0, -1, 1, 0, 0]
    assert named["teacher"].file == [f"{i}.png" for i in range(6)]


def _table(folder: Path, rows: np.ndarray) -> Path:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    labels, names = ["bee", "ant", "", "bee", "ant", "ant"], [f"{i}.png" for i in range(6)]
    parquet.write_table(pyarrow.table({"name": names, "label": labels, "vector": rows.tolist()}), folder / "v.parquet")
    assert VectorFile.read(folder / "v.parquet").labels == labels
    return folder / "v.parquet"
