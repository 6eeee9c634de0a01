"""The graph that is measured after each epoch, against scikit-learn's neighbours of both networks' vectors."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from relgraph.analysis.run_loading import TrainedRun
from relgraph.training import validation_graph
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import build, train
from tests.training.conftest import RecipeMaker, Runs


def nearest(vectors: Tensor) -> np.ndarray:
    """Return the 8 nearest others by Pearson correlation, `(N, 8)`."""
    found = NearestNeighbors(n_neighbors=9, metric="correlation", algorithm="brute").fit(vectors.double().numpy())
    return np.asarray(found.kneighbors(return_distance=False, n_neighbors=8))


def test_it_is_that_of_the_frozen_teacher_s_own_vectors(finished: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    """Its nodes are those of an analysis, also where these are what a loss without labels compared."""
    train(make("seed", labels_per_class=0, epochs=1), tmp_path / "alone")
    runs = (finished("dense"), "val"), (finished("seed"), "val"), (finished("select-test"), "test")
    for path, split in (*runs, (tmp_path / "alone", "val")):
        opened = TrainedRun(path)
        images = opened.split(split)
        student, teacher = opened.nodes(images)
        assert teacher is not None
        best = opened.run.read_metrics()[load_checkpoint(opened.run.best)["progress"]["best_epoch"] - 1]
        tables = {"student": nearest(student.x), "teacher": nearest(teacher.x)}
        shared = [len({*a} & {*b}) / 8 for a, b in zip(*map(np.ndarray.tolist, tables.values()), strict=True)]
        assert best[f"{split}_overlap@8"] == pytest.approx(100 * np.mean(shared))
        labels = images.true_labels.numpy()
        for side, table in tables.items():
            expected = 100 * np.mean(labels[table] == labels[:, None])
            assert best[f"{split}_homophily_{side}"] == pytest.approx(expected)


def test_a_sample_of_many_images_and_nothing_of_few(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_graph, "SAMPLE", 17)
    found = build(make("select-test")).sample
    assert found is not None and found.images.index.tolist() == [*range(17)], "of 18 images the last is left out"
    assert build(make(diagnose_every=0)).sample is None and build(make("none")).sample is None
    monkeypatch.setattr("relgraph.training.distillation.FEWEST", 19)
    assert build(make()).sample is None
