"""The runs as plain data: recipe, result, environment and metrics of each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from relgraph.errors import RelgraphError
from relgraph.files import read_json
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.recipe import Recipe
from relgraph.training.runs import AnyRecipe, RunDirectory

# Options that are always listed; others are listed only where they are not the default.
ALWAYS = ("dataset", "teacher", "student", "network", "objective", "method", "graph", "epochs", "batch_size", "seed")
# Columns of the table of figures and their names: with "last" and "best" where a run has both.
FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "knn": "k-NN",
    "linear": "linear probe",
    "recall@1": "recall@1",
    "mAP": "mAP",
}


class Summary(NamedTuple):
    """One run.

    Attributes:
        name: Its directory's name, made longer where two share it.
        recipe: Every option.
        result: The content of `result.json`; empty in a run that has not finished.
        environment: The content of `environment.json`; empty if there is none.
        inputs: The content of `inputs.json`; empty if there is none.
        metrics: The rows of `metrics.csv`, one an epoch.
    """

    name: str
    recipe: AnyRecipe
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    inputs: Mapping[str, Any]
    metrics: list[dict[str, float]]

    def option(self, name: str) -> str | None:
        """Return the value of an option, also of one that is not listed by default; `None` if the run has none."""
        value = _options(self.recipe).get(name)
        return None if value is None else _formatted(value)

    @property
    def tested_on(self) -> str | None:
        """What the test images are known by, which runs with comparable figures share."""
        test = self.inputs.get("data", {}).get("test", {})
        return test.get("sha256") if test.get("images") else None

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the test split in percent, such as `{"top1 best": 91.3, "top1 last": 90.8}`."""
        test = self.result.get("test") or {}
        parts = [(f" {when}", test[when]) for when in ("best", "last") if isinstance(test.get(when), dict)]
        found = parts or [("", test)]
        return {f"{name}{when}": float(figures[name]) for name in FIGURES for when, figures in found if name in figures}


class Group(NamedTuple):
    """Runs whose recipes differ in their seed alone."""

    runs: list[Summary]

    @property
    def figures(self) -> dict[str, tuple[float, float | None]]:
        """Mean and deviation (of the sample) of each of their figures.

        The deviation is `None` for a single run; a figure that one of them lacks is left out.
        """
        every = [run.figures for run in self.runs]
        columns = {name: [one[name] for one in every] for name in every[0] if all(name in one for one in every)}
        return {name: (mean(column), stdev(column) if len(column) > 1 else None) for name, column in columns.items()}


def summaries(paths: Sequence[Path], given: Mapping[Path, Mapping[str, Any]] | None = None) -> list[Summary]:
    """Return the runs at `paths`.

    Raises:
        RelgraphError: if there is none, one is given twice, or one is not a run or has a broken file.
    """
    if not paths:
        raise RelgraphError("a report needs at least one run, got none")
    places = [path.resolve() for path in paths]
    twice = [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]
    if twice:
        raise RelgraphError(f"a report shows each run once, got {twice[0]} twice")
    length = 1  # of a name: as many last parts of each path as make it unlike the others
    while len({place.parts[-length:] for place in places}) < len(places):
        length += 1
    names = ["/".join(place.parts[-length:]) for place in places]
    return [_summary(path, name, (given or {}).get(path)) for path, name in zip(paths, names, strict=True)]


def _summary(path: Path, name: str, given: Mapping[str, Any] | None) -> Summary:
    run = RunDirectory.open(path)
    metrics = run.read_metrics() if run.metrics_file.is_file() else []
    result, environment, inputs = map(_known, (run.result_file, run.environment_file, run.inputs_file))
    found = Summary(name, run.stored(given), result, environment, inputs, metrics)
    try:
        _ = found.figures
    except (AttributeError, TypeError, ValueError) as error:
        raise RelgraphError(f"{run.result_file} must hold figures as relgraph writes them: {error}") from error
    for part in ("hardware", "versions"):
        entry = found.environment.get(part) or {}
        if not isinstance(entry, dict):
            raise RelgraphError(f"{run.environment_file} must hold an object as {part}, got {entry!r}")
    return found


def _known(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def settings(recipe: AnyRecipe) -> dict[str, str]:
    """Return the options of a recipe that the report lists: `ALWAYS`, and what differs from the default.

    >>> settings(Recipe(lr=0.1))["lr"], "momentum" in settings(Recipe(lr=0.1))
    ('0.1', False)
    """
    default: AnyRecipe = Recipe()
    if isinstance(recipe, PretrainRecipe):
        default = resolve_pretraining({name: getattr(recipe, name) for name in ("objective", "dataset", "teacher")})
    values, usual = _options(recipe), default.plain()
    listed = [name for name in ALWAYS if values.get(name) is not None]
    listed += [name for name, value in values.items() if value != usual[name]]
    return {name: _formatted(values[name]) for name in listed}


def _options(recipe: AnyRecipe) -> dict[str, Any]:
    """Return all options of a recipe, but no teacher where none is used."""
    unused = ("teacher",) if isinstance(recipe, Recipe) and not recipe.uses_teacher else ()
    return {name: value for name, value in recipe.plain().items() if name not in unused}


def _formatted(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def groups(runs: Sequence[Summary]) -> list[Group]:
    """Return the runs grouped by what differs in the seed alone, in the order of their first ones."""
    found: dict[AnyRecipe, list[Summary]] = {}
    for run in runs:
        found.setdefault(replace(run.recipe, seed=0), []).append(run)
    return [Group(members) for members in found.values()]
