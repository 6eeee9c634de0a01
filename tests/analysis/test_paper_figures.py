"""experiments/figures.py: the numbers of the curves are those of metrics.csv, and pictures open in both formats."""

import json
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from tests.analysis.conftest import Runs

pytestmark = pytest.mark.slow


def figures(*args: object) -> Result:
    return CliRunner().invoke(import_module("figures").main, [str(arg) for arg in args])


def make_run(root: Path, seed: int, last: float, **options: Any) -> Path:
    run = RunDirectory.create(root / f"{len(list(root.iterdir()))}-{seed}", Recipe(seed=seed, epochs=2, **options))
    run.write_metrics([{"epoch": 1.0, "train_top1": 30.0, "val_top1": 20.0},
                       {"epoch": 2.0, "train_top1": 60.0, "val_top1": last}])  # fmt: skip
    return run.path


def opened(out: Path) -> Any:
    """Return the numbers of a figure whose pictures open."""
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG"
    assert ElementTree.parse(out.with_suffix(".svg")).getroot().tag.endswith("svg")
    return json.loads(out.with_suffix(".json").read_text())


def test_curves_are_errors_by_what_trained_the_student(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    root, out = tmp_path / "runs", tmp_path / "curves.png"
    runs = [make_run(root, seed, 40.0 + 10 * seed, method="none") for seed in (0, 1)]
    runs += [make_run(root, 0, 50.0, **one) for one in ({}, {"edge_weight": 0.0}, {"node_weight": 0.0})]
    told = figures("curves", *runs, "-o", out)
    assert told.exit_code == 0, told.output
    found = opened(out)["errors_in_percent"]
    assert list(found) == ["cross-entropy", "node only", "edge only", "full"]
    row = found["cross-entropy"]
    assert (row["n"], row["seeds"]) == (2, [0, 1])
    error = row["validation_error"]
    assert (error["mean"], error["least"], error["most"]) == ([80.0, 55.0], [80.0, 50.0], [80.0, 60.0])
    assert error["by_seed"] == {"0": [80.0, 60.0], "1": [80.0, 50.0]}
    assert found["full"]["training_error"]["mean"] == [70.0, 40.0]
    svg = out.with_suffix(".svg").read_text()
    assert "validation error in %" in svg and "cross-entropy (2 seeds)" in svg


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    for other, told in (
        ({"batch_size": 32}, "runs of one figure must have one batch_size, got 64 and 32"),
        ({}, "runs of one group must have different seeds, got two of full with seed 0"),
    ):
        root = tmp_path / str(len(other))
        root.mkdir()
        runs = [make_run(root, 0, 50.0, **options) for options in ({}, other)]
        found = figures("curves", *runs, "-o", root / "curves.png")
        assert str(found.exception) == told
        assert not (root / "curves.png").exists()


def test_embeddings_of_teacher_and_student(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "tsne.png"
    told = figures("tsne", runs("none"), runs("all"), "-o", out, "--classes", 3)
    assert told.exit_code == 0, told.output
    found = opened(out)
    panels = [panel["panel"] for panel in found["panels"]]
    assert panels == ["student, cross-entropy", "teacher, head of kd", "student, kd"]
    counts = {panel["images"] for panel in found["panels"]}
    assert len(counts) == 1 and 60 < counts.pop() < 180  # three tenths of 355
    assert all(0 < panel["homophily"] <= 1 for panel in found["panels"])
    assert found["classes"] == ["0", "1", "2"]
