"""The learning curve: a picture of a sensible size, with the run's figures in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relgraph.analysis.plots import learning_curve
from relgraph.errors import RelgraphError
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run

Runs = Callable[[str], Path]


@pytest.mark.parametrize("variant", ["few", "none"])
def test_the_picture_opens_and_shows_two_curves_in_each_half(variant: str, runs: Runs, tmp_path: Path) -> None:
    path = Path(shutil.copytree(runs(variant), tmp_path / "run"))
    file = learning_curve(path)
    assert file == path / "learning_curve.png"
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.size == (1080, 420)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for half in (pixels[:, :540], pixels[:, 540:]):
        for colour in ((31, 119, 180), (255, 127, 14)):  # the first two of matplotlib's cycle
            assert (abs(half - colour).max(-1) < 20).sum() > 10
    assert not list(path.glob("*.part"))


def test_a_new_picture_replaces_the_old_and_other_figures_show(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", Recipe(select="test"))
    row = {"epoch": 1.0, "loss": 2.0, "cross_entropy": 1.0, "train_top1": 30.0, "test_top1": 20.0}
    run.write_metrics([row])
    first = learning_curve(run.path).read_bytes()
    run.write_metrics([row, {**row, "epoch": 2.0, "loss": 1.0, "test_top1": 60.0}])
    assert learning_curve(run.path).read_bytes() != first
    assert learning_curve(run.path).read_bytes() == run.curve_file.read_bytes()


def test_the_callers_back_end_is_left_alone(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", Recipe())
    run.write_metrics([{"epoch": 1.0, "loss": 2.0, "cross_entropy": 1.0, "train_top1": 30.0, "val_top1": 20.0}])
    code = (
        "import matplotlib, pathlib, sys; from relgraph.analysis.plots import learning_curve; "
        "learning_curve(pathlib.Path(sys.argv[1])); print(matplotlib.get_backend())"
    )
    environment = {**os.environ, "MPLBACKEND": "svg"}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(run.path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert found.stdout.strip() == "svg"


def test_no_run_and_no_epoch_yet(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"is not a run"):
        learning_curve(tmp_path)
    run = Run.create(tmp_path / "run", Recipe())
    with pytest.raises(RelgraphError, match=r"has no metrics\.csv yet: it has not finished an epoch$"):
        learning_curve(run.path)
