"""The learning curve: a picture of a sensible size, with the run's figures in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relgraph.analysis.colours import TEN, rgb
from relgraph.analysis.plots import learning_curve
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from tests.analysis.conftest import Runs
from tests.checks import assert_refused_like

pytestmark = pytest.mark.slow


def test_the_picture_opens_and_shows_two_curves_in_each_half(runs: Runs, tmp_path: Path) -> None:
    for variant in ("few", "none"):
        path = Path(shutil.copytree(runs(variant), tmp_path / variant))
        file = learning_curve(path)
        assert file == path / "learning_curve.png" and not list(path.glob("*.part"))
        assert all(count > 10 for half in drawn(file) for count in half)


def test_a_new_picture_replaces_the_old_and_other_figures_show(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Recipe(select="test"))
    row = {"epoch": 1.0, "loss": 2.0, "cross_entropy": 1.0, "train_top1": 30.0, "test_top1": 20.0}
    run.write_metrics([row])
    first = learning_curve(run.path).read_bytes()
    run.write_metrics([row, {**row, "epoch": 2.0, "loss": 1.0, "test_top1": 60.0}])
    assert learning_curve(run.path).read_bytes() != first
    assert learning_curve(run.path).read_bytes() == run.curve_file.read_bytes()


def test_no_run_and_no_epoch_yet_and_then_the_back_end_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Recipe())
    assert_refused_like(
        (lambda: learning_curve(tmp_path), "is not a run"),
        (lambda: learning_curve(run.path), r"has no metrics\.csv yet: it has not finished an epoch$"),
    )
    run.write_metrics([{"epoch": 1.0, "loss": 2.0, "cross_entropy": 1.0, "train_top1": 30.0, "val_top1": 20.0}])
    code = (
        "import matplotlib, pathlib, sys; from relgraph.analysis.plots import learning_curve; "
        "learning_curve(pathlib.Path(sys.argv[1])); print(matplotlib.get_backend())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(run.path)]
    assert subprocess.check_output(command, text=True, env={**os.environ, "MPLBACKEND": "svg"}).strip() == "svg"


BLUE, ORANGE = map(rgb, TEN[:2])
LEARNING = [
    {"epoch": 1.0, "loss": 3.0, "nt_xent": 3.0},
    {"epoch": 2.0, "loss": 2.0, "nt_xent": 2.0, "val_knn": 60.0},
    {"epoch": 3.0, "loss": 1.5, "nt_xent": 1.5},
    {"epoch": 4.0, "loss": 1.0, "nt_xent": 1.0, "val_knn": 80.0},
]


def drawn(file: Path) -> list[list[int]]:
    """Return how many pixels are blue and orange, in the half of the losses and in that of the accuracies."""
    with Image.open(file) as picture:
        assert picture.format == "PNG" and picture.size == (1080, 420)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    halves = (pixels[:, :540], pixels[:, 540:])
    return [[int((abs(half - colour).max(-1) < 20).sum()) for colour in (BLUE, ORANGE)] for half in halves]


def test_a_pre_training_has_its_loss_and_the_neighbours_of_some_epochs(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", resolve_pretraining({}))
    run.write_metrics(LEARNING)
    (loss, no_cross_entropy), (neighbours, no_other) = drawn(learning_curve(run.path))
    assert loss > 10 and neighbours > 10 and no_cross_entropy == no_other == 0
    dense = run.curve_file.read_bytes()
    run.write_metrics([{**row, "val_knn": row.get("val_knn", 70.0 if row["epoch"] == 3 else 60.0)} for row in LEARNING])
    assert learning_curve(run.path).read_bytes() != dense


def test_the_neighbours_are_those_of_the_split_that_is_looked_at(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", resolve_pretraining({"select": "test"}))
    run.write_metrics([{"epoch": 1.0, "loss": 3.0, "test_knn": 50.0}, {"epoch": 2.0, "loss": 2.0, "test_knn": 60.0}])
    assert drawn(learning_curve(run.path))[1][0] > 10


def test_without_labels_there_is_a_loss_alone(tmp_path: Path) -> None:
    for name, recipe in (("pre-training", resolve_pretraining({})), ("training", Recipe(method="seed", gamma=0.0))):
        run = RunDirectory.create(tmp_path / name, recipe)
        run.write_metrics([{"epoch": 1.0, "loss": 3.0, "cross_entropy": 0.0}, {"epoch": 2.0, "loss": 2.0}])
        (loss, cross_entropy), accuracies = drawn(learning_curve(run.path))
        assert loss > 10 and cross_entropy == 0 and accuracies == [0, 0], name


def test_a_student_without_labels_is_judged_by_its_neighbours(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Recipe(method="seed", gamma=0.0))
    row = {"epoch": 1.0, "loss": 3.0, "cross_entropy": 0.0, "seed": 3.0, "val_knn": 50.0}
    run.write_metrics([row, {**row, "epoch": 2.0, "loss": 2.0, "val_knn": 60.0}])
    assert all(blue > 10 and orange == 0 for blue, orange in drawn(learning_curve(run.path)))
