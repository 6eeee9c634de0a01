"""The runs as plain data: recipe, result, environment and metrics of each."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, TypeVar

from relgraph.analysis.report.measures import Measured
from relgraph.errors import RelgraphError
from relgraph.files import read_json
from relgraph.names import dataset
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.recipe import Recipe
from relgraph.training.runs import AnyRecipe, RunDirectory

Key = TypeVar("Key")
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
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}


class Spread(NamedTuple):
    """A figure of several runs: their mean, their deviation (of the sample; `None` of one run), and their number."""

    mean: float
    deviation: float | None
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, deviation=1.4142135623730951, runs=2)
    """
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, len(values))


class Summary(NamedTuple):
    """One run.

    Attributes:
        name: Its directory's name, made longer where two share it.
        path: Its directory.
        recipe: Every option.
        result: The content of `result.json`; empty in a run that has not finished.
        environment: The content of `environment.json`; empty if there is none.
        inputs: The content of `inputs.json`; empty if there is none.
        metrics: The rows of `metrics.csv`, one an epoch.
        measured: The measures of its graphs, once they are known.
    """

    name: str
    path: Path
    recipe: AnyRecipe
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    inputs: Mapping[str, Any]
    metrics: list[dict[str, float]]
    measured: Measured | None = None

    @property
    def finished(self) -> bool:
        """Whether it has its final figures."""
        return bool(self.result)

    @property
    def epochs(self) -> str:
        """How many epochs are done, such as `8`, `3 of 8, not finished`, or of one that had no patience `5 of 8`."""
        done = len(self.metrics) or self.result.get("epochs", 0)
        told = f"{done}" if done == self.recipe.epochs else f"{done} of {self.recipe.epochs}"
        return told if self.finished else f"{told}, not finished"

    @property
    def shown(self) -> str:
        """Which epoch's network the figures are of that are not of the last epoch."""
        if self.finished:
            return str(self.result.get("best_epoch", self.result.get("epochs", "")))
        return "" if self.measured is None else f"{self.measured.epoch}, so far"

    @property
    def data(self) -> tuple[str, str | None]:
        """What runs on the same data share: how the data set is spelled, and what its test images are known by."""
        return str(self.recipe.dataset), self.tested_on

    @property
    def data_name(self) -> str:
        """A short name of the data set."""
        return dataset(self.recipe.dataset).short_name

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


class Group:
    """Runs of one recipe on the same data, of different seeds; those that are not finished stand alone.

    Attributes:
        runs: Those that count, one of each seed.
    """

    def __init__(self, runs: list[Summary]) -> None:
        self.runs = runs

    @property
    def name(self) -> str:
        """The run's name, or what the names of several begin with."""
        names = [run.name for run in self.runs]
        if len(names) == 1:
            return names[0]
        alike = takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
        shared = re.sub(r"[-_ .]*(seed|s)?[-_ .=]*$", "", "".join(letters[0] for letters in alike))
        return shared or f"{names[0]} and {len(names) - 1} more"

    @property
    def label(self) -> str:
        """The name, with the number of seeds if they are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"

    @cached_property
    def figures(self) -> dict[str, Spread]:
        """Each of their figures on the test split, in percent; one that one of them lacks is left out."""
        return _spreads([run.figures for run in self.runs])

    @cached_property
    def graph(self) -> dict[str, Spread]:
        """The measures of the graphs of those whose graphs are known."""
        return _spreads([run.measured.figures for run in self.runs if run.measured is not None])

    def curve(self, column: str) -> dict[int, Spread]:
        """Return a column of their metrics by epoch, where all of them have it."""
        return _spreads([{int(row["epoch"]): row[column] for row in run.metrics if column in row} for run in self.runs])


def _spreads(every: Sequence[Mapping[Key, float]]) -> dict[Key, Spread]:
    """Return the spread of each number that all of them have."""
    names: Iterable[Key] = every[0] if every else ()
    return {name: spread([one[name] for one in every]) for name in names if all(name in one for one in every)}


def summaries(
    paths: Sequence[Path], given: Mapping[Path, Mapping[str, Any]] | None = None
) -> tuple[list[Summary], list[str]]:
    """Return the runs at `paths`, each once, and sentences on those that are left out.

    Raises:
        RelgraphError: if there is none, one is not a run, or none can be read.
    """
    if not paths:
        raise RelgraphError("a report needs at least one run, got none")
    places = {path.resolve(): path for path in reversed(paths)}
    kept = [path for path in dict.fromkeys(paths) if places[path.resolve()] is path]
    length = 1  # of a name: as many last parts of each path as make it unlike the others
    while len({place.parts[-length:] for place in places}) < len(places):
        length += 1
    found, left_out, failed = list[Summary](), list[str](), list[RelgraphError]()
    for path in kept:
        name, run = "/".join(path.resolve().parts[-length:]), RunDirectory.open(path)
        try:
            found.append(_summary(run, name, (given or {}).get(path)))
        except RelgraphError as error:
            failed.append(error)
            left_out.append(f"left out is {name}: {str(error).replace(str(path), name)}")
    if not found:
        raise failed[0]
    twice = len(paths) - len(kept)
    if twice:
        left_out.append(f"of {len(paths)} runs that were given {twice} are the same as others, and count once")
    return found, left_out


def _summary(run: RunDirectory, name: str, given: Mapping[str, Any] | None) -> Summary:
    metrics = run.read_metrics() if run.metrics_file.is_file() else []
    result, environment, inputs = map(_known, (run.result_file, run.environment_file, run.inputs_file))
    found = Summary(name, run.path, run.stored(given), result, environment, inputs, metrics)
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
    return {name: value for name, value in _told(recipe).plain().items() if name not in unused}


def _told(recipe: AnyRecipe) -> AnyRecipe:
    """Return a recipe that tells the k of its graph where that is the default."""
    if isinstance(recipe, Recipe) and recipe.searches:
        return replace(recipe, k=recipe.neighbours_of_each)
    return recipe


def _formatted(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def groups(runs: Sequence[Summary]) -> tuple[list[Group], list[str]]:
    """Return the runs by recipe, those on the same data together, and sentences on those that do not count.

    Of runs of one recipe and one seed the first counts: the others are that run, copied or trained again.
    """
    found: dict[Any, dict[int, Summary]] = {}
    repeated = []
    for run in runs:
        key = run.data, replace(_told(run.recipe), seed=0), None if run.finished else run.path
        first = found.setdefault(key, {}).setdefault(run.recipe.seed, run)
        if first is not run:
            repeated.append(f"not counted is {run.name}, which has the recipe and the seed of {first.name}")
    order = list(dict.fromkeys(run.data for run in runs))
    made = [Group([*members.values()]) for members in found.values()]
    return sorted(made, key=lambda group: order.index(group.runs[0].data)), repeated
