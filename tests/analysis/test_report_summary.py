import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relgraph.analysis.report.run_sections import results
from relgraph.analysis.report.summary import groups, settings, summaries
from relgraph.files import read_json, read_yaml, write_json, write_yaml
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.recipe import Recipe
from tests.analysis.conftest import Runs
from tests.checks import assert_refused_like, plain


def changed(run: Path, to: Path, top1: float, **options: Any) -> Path:
    """Copy what a report reads of a run to another directory, with other options and another accuracy."""
    to.mkdir(parents=True)
    write_yaml(to / "recipe.yaml", plain({**read_yaml(run / "recipe.yaml", sealed=True), **options}))
    result = read_json(run / "result.json")
    result["test"]["best"]["top1"] = top1
    write_json(to / "result.json", result)
    shutil.copy(run / "metrics.csv", to)
    return to


def test_settings_are_what_differs_and_the_main_ones() -> None:
    recipe, default = Recipe(lr=0.1, graph="knn", k=3, milestones=None, label_noise=0.25), Recipe()
    found = settings(recipe)
    assert found.items() >= {
        "lr": "0.1", "k": "3", "graph": "knn", "seed": "0", "method": "ega", "label_noise": "0.25",
    }.items()  # fmt: skip
    assert {name for name, value in vars(recipe).items() if value != getattr(default, name)} <= {*found}
    assert "momentum" not in found and "teacher" not in settings(Recipe(method="none"))
    found = settings(resolve_pretraining({"objective": "moco", "dataset": "cifar100", "lr": 0.5}))
    assert (found["objective"], found["lr"], "temperature" in found) == ("moco", "0.5", False)


def test_a_run_is_told_as_its_files_tell_it(runs: Runs) -> None:
    (found,) = summaries([runs("all")])
    result = json.loads((runs("all") / "result.json").read_text())
    expected = {f"{name} {when}": result["test"][when][name] for when in ("best", "last") for name in ("top1", "top5")}
    assert found.figures == expected
    assert found.name == "all" and found.option("method") == "kd" and found.option("objective") is None
    assert found.metrics[0]["epoch"] == 1


def test_groups_differ_in_the_seed_alone(runs: Runs, tmp_path: Path) -> None:
    figures = {0: 50.0, 1: 53.0, 5: 58.5}
    paths = [changed(runs("all"), tmp_path / f"s{seed}", top1, seed=seed) for seed, top1 in figures.items()]
    paths.insert(1, changed(runs("all"), tmp_path / "other", 70.0, lr=0.5))
    one, other = groups(summaries(paths))
    assert [run.name for run in one.runs] == ["s0", "s1", "s5"] and [run.name for run in other.runs] == ["other"]
    mean, deviation = one.figures["top1 best"]
    assert mean == pytest.approx(np.mean(list(figures.values())))
    assert deviation == pytest.approx(np.std(list(figures.values()), ddof=1))
    assert other.figures["top1 best"] == (70.0, None)


def test_names_are_as_long_as_they_must_be(runs: Runs, tmp_path: Path) -> None:
    paths = [changed(runs("all"), tmp_path / name / "run", 1.0) for name in ("a", "b")]
    assert [run.name for run in summaries(paths)] == ["a/run", "b/run"]
    for name in ("result.json", "metrics.csv"):
        (paths[0] / name).unlink()
    (found,) = summaries(paths[:1])  # as of a run that goes on yet
    assert (found.figures, found.metrics, found.environment) == ({}, [], {})


def test_errors(runs: Runs, tmp_path: Path) -> None:
    run, broken = runs("all"), changed(runs("all"), tmp_path / "broken", 1.0)
    assert_refused_like(
        (lambda: summaries([]), "at least one run, got none"),
        (lambda: summaries([run, run / ".." / "all"]), "each run once, got .* twice"),
        (lambda: summaries([tmp_path]), "is not a run"),
    )
    for file, content, told in (
        ("result", "[1]", "must hold an object, got list"),
        ("result", "{", "cannot read"),
        ("result", '{"test": {}}', "is damaged or was changed after it was written"),
        ("result", {"test": "x"}, "must hold figures as relgraph writes them"),
        ("result", {"test": {"knn": None}}, "must hold figures as relgraph writes them"),
        ("environment", {"hardware": "x"}, r"environment\.json must hold an object as hardware, got 'x'$"),
    ):
        if isinstance(content, str):
            (broken / f"{file}.json").write_text(content)
        else:
            write_json(broken / f"{file}.json", content)
        assert_refused_like((lambda: summaries([broken]), told))
        (broken / f"{file}.json").unlink()


def test_runs_on_other_test_images_are_told(runs: Runs, tmp_path: Path) -> None:
    paths = [changed(runs("all"), tmp_path / name, 1.0) for name in ("a", "b")]
    for path, known in zip(paths, ("x", "y"), strict=True):
        write_json(path / "inputs.json", {"data": {"test": {"images": 3, "sha256": known}}})
    assert "are not the same: their figures cannot be compared" in results(summaries(paths))
    assert "are not the same" not in results(summaries(paths[:1]))
