import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relgraph.analysis.report.measures import Measured
from relgraph.analysis.report.page import MINUS
from relgraph.analysis.report.run_sections import measures, nearness, options, results
from relgraph.analysis.report.summary import Group, groups, settings, summaries
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
    ((found,), _) = summaries([runs("all")])
    result = json.loads((runs("all") / "result.json").read_text())
    expected = {f"{name} {when}": result["test"][when][name] for when in ("best", "last") for name in ("top1", "top5")}
    assert found.figures == expected
    assert found.name == "all" and found.option("method") == "kd" and found.option("objective") is None
    assert found.metrics[0]["epoch"] == 1 and found.finished and found.epochs == found.shown == "1"


def test_groups_differ_in_the_seed_alone(runs: Runs, tmp_path: Path) -> None:
    """A seed counts once, runs on the same data stand together, and what is not finished is no run of its group."""
    figures = {0: 50.0, 1: 53.0, 5: 58.5}
    paths = [changed(runs("all"), tmp_path / f"knn-s{seed}", top1, seed=seed) for seed, top1 in figures.items()]
    paths.insert(1, changed(runs("all"), tmp_path / "other data", 70.0, dataset="cifar10"))
    paths += [
        changed(runs("all"), tmp_path / name, 70.0, **given) for name, given in (("lr", {"lr": 0.5}), ("open", {}))
    ]
    (paths[-1] / "result.json").unlink()
    paths.append(shutil.copytree(paths[0], tmp_path / "copy"))
    described, twice = summaries([*paths, tmp_path / "copy" / ".." / "copy"])
    assert twice == ["of 8 runs that were given 1 are the same as others, and count once"]
    grouped, repeated = groups(described)
    assert repeated == ["not counted is copy, which has the recipe and the seed of knn-s0"]
    assert [[run.name for run in group.runs] for group in grouped] == [
        ["knn-s0", "knn-s1", "knn-s5"], ["lr"], ["open"], ["other data"],
    ]  # fmt: skip
    one, other, unfinished, _ = grouped
    assert (one.name, one.label, other.label) == ("knn", "knn (3 seeds)", "lr")
    mean, deviation, count = one.figures["top1 best"]
    assert mean == pytest.approx(np.mean(list(figures.values()))) and count == 3
    assert deviation == pytest.approx(np.std(list(figures.values()), ddof=1))
    assert other.figures["top1 best"] == (70.0, None, 1)
    assert unfinished.runs[0].epochs == "1, not finished" and unfinished.figures == {}


def test_a_default_k_is_told_and_is_one_recipe_with_the_same_k_given(runs: Runs, tmp_path: Path) -> None:
    given: dict[str, dict[str, Any]] = {
        "default": {"k": None}, "eight": {"k": 8, "seed": 1}, "four": {"k": 4}, "moved": {"k": 8, "refine": "conv"},
    }  # fmt: skip
    paths = [changed(runs("all"), tmp_path / name, 1.0, method="ega", graph="knn", batch_size=64, **one)
             for name, one in given.items()]  # fmt: skip
    described = summaries(paths)[0]
    assert [len(group.runs) for group in groups(described)[0]] == [2, 1, 1]
    assert [run.option("k") for run in described] == ["8", "8", "4", "8"]
    page = str(options(described))
    bold = [name for name in ("k", "seed", "refine", "student") if f"<strong><code>{name}</code></strong>" in page]
    assert bold == ["k", "seed", "refine"], "what some runs lack differs as well"
    assert page.index("<code>refine</code>") < page.index("<code>dataset</code>"), "what differs comes first"


def test_which_run_is_nearest_to_its_teacher(runs: Runs, tmp_path: Path) -> None:
    overlaps = {("a", 0): 0.5, ("a", 1): 0.54, ("b", 0): 0.3, ("b", 1): 0.32, ("c", 0): 0.31}
    paths = [changed(runs("all"), tmp_path / f"{name}-seed{seed}", 1.0, seed=seed, lr=ord(name) / 100)
             for name, seed in overlaps]  # fmt: skip
    grouped, _ = groups(summaries(paths)[0])
    for group in grouped:
        for place, run in enumerate(group.runs):
            found = {"overlap": overlaps[(run.name[0], run.recipe.seed)], "pair_rank": -0.25}
            group.runs[place] = run._replace(measured=Measured(1, "test", 355, "teacher", found))

    def told(some: list[Group]) -> str:
        return f"{nearness(some)} {measures(some)}".replace("\N{NO-BREAK SPACE}", " ").replace("&#39;", "'")

    assert nearness(grouped[2:]) is None and measures(grouped[2:]) is None, "one run is compared with none"
    assert nearness(grouped[:1]) is None and measures(grouped[:1]), "seeds of one recipe are measured, not compared"
    page, spread = told(grouped), np.std([50, 54], ddof=1)
    assert f"On digits, a is nearest to its teacher: it shares 52.0 ± {spread:.1f} % (n = 2) of the teacher's" in page
    assert "neighbours, b 31.0 ± 1.4 % (n = 2); they are more apart than one standard deviation over seeds." in page
    assert "355 images of digits (test split)" in page and "the frozen teacher's own vectors" in page
    assert f"{MINUS}0.250 ± 0.000" in page
    assert "c-seed0 31.0 % (n = 1); with a single seed the difference may be chance" in told(grouped[1:])
    assert "on different data" not in page
    grouped[1].runs[:] = [
        run._replace(inputs={"data": {"test": {"images": 3, "sha256": "x"}}}) for run in grouped[1].runs
    ]
    assert "runs on different data, or on different test images, cannot be compared" in told(grouped)
    grouped[0].runs[:] = [run._replace(result={}) for run in grouped[0].runs]
    assert "a is nearest" not in (page := told(grouped)) and "measured by their best student so far" in page


def test_names_are_as_long_as_they_must_be(runs: Runs, tmp_path: Path) -> None:
    paths = [changed(runs("all"), tmp_path / name / "run", 1.0) for name in ("a", "b")]
    assert [run.name for run in summaries(paths)[0]] == ["a/run", "b/run"]
    for name in ("result.json", "metrics.csv"):
        (paths[0] / name).unlink()
    ((found,), _) = summaries(paths[:1])  # as of a run that goes on yet
    assert (found.figures, found.metrics, found.environment) == ({}, [], {})


def test_errors(runs: Runs, tmp_path: Path) -> None:
    run, broken = runs("all"), changed(runs("all"), tmp_path / "broken", 1.0)
    assert_refused_like(
        (lambda: summaries([]), "at least one run, got none"), (lambda: summaries([tmp_path]), "is not a run")
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
        ((kept,), left_out) = summaries([broken, run])
        assert kept.name == "all" and len(left_out) == 1 and left_out[0].startswith("left out is broken: ")
        assert str(tmp_path) not in left_out[0], "paths of the machine are not told"
        (broken / f"{file}.json").unlink()


def test_runs_on_other_test_images_are_told(runs: Runs, tmp_path: Path) -> None:
    paths = [changed(runs("all"), tmp_path / name, 1.0) for name in ("a", "b")]
    for path, known in zip(paths, ("x", "y"), strict=True):
        write_json(path / "inputs.json", {"data": {"test": {"images": 3, "sha256": known}}})
    assert "on different test images, cannot be compared" in results(groups(summaries(paths)[0])[0])
    assert "cannot be compared" not in results(groups(summaries(paths[:1])[0])[0])
