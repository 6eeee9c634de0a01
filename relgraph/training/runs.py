"""The run directory: everything needed to understand, repeat and continue a run."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeVar

import torch

from relgraph.errors import RelgraphError
from relgraph.files import (
    locked,
    only_begun,
    read_json,
    read_table,
    read_yaml,
    write_json,
    write_table,
    write_yaml,
    writing,
)
from relgraph.names import OWN, check_options_of, dataset, own_data, own_spellings, replace_own, texts_of
from relgraph.own_code import is_own, registered
from relgraph.processes import ProcessGroup
from relgraph.training.hardware import processor
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.recipe import BaseRecipe, Recipe, resolve

AnyRecipe = Recipe | PretrainRecipe
Kind = TypeVar("Kind", bound=BaseRecipe)
TRIED = ("compile", "threads")  # options that a trial decides where they are "auto"
PACKAGES = ("relgraph", "torch", "torchvision", "torch_geometric", "torch_scatter", "lightning-fabric", "timm", "numpy")


class RunDirectory:
    """One run directory and the names of its files.

    `recipe.yaml` every option, resolved; `inputs.json` fingerprints of data and teacher; `environment.json` versions,
    commit, seed, hardware; `metrics.csv` a row an epoch; `diagnostics.csv` one for each step whose graphs were
    measured; `tensorboard/` the same for TensorBoard; `last.ckpt` and `best.ckpt` to continue from;
    `student.safetensors` the best student alone, `network.safetensors` what a pre-training made, `ss_head.safetensors`
    the self-supervision head of a teacher; `result.json` the final figures; `learning_curve.png`;
    `graph_measures.json` what reports found of its graphs. A head that is trained first has `head.ckpt` and
    `teacher_head.csv`, a run on the data set's graph `data_set_graph.pt`.
    """

    def __init__(self, path: Path, last: str = "last.ckpt", metrics: str = "metrics.csv") -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.inputs_file = path / "inputs.json"
        self.environment_file = path / "environment.json"
        self.metrics_file = path / metrics
        self.diagnostics_file = path / "diagnostics.csv"
        self.last = path / last
        self.best = path / "best.ckpt"
        self.student_file = path / "student.safetensors"
        self.network_file = path / "network.safetensors"
        self.ss_head_file = path / "ss_head.safetensors"
        self.graph_file = path / "data_set_graph.pt"
        self.result_file = path / "result.json"
        self.curve_file = path / "learning_curve.png"
        self.measures_file = path / "graph_measures.json"

    def of_head(self) -> "RunDirectory":
        """Return the same directory with the checkpoint and the metrics of a teacher's head that is trained first."""
        return RunDirectory(self.path, "head.ckpt", "teacher_head.csv")

    @classmethod
    def create(cls, path: Path, recipe: AnyRecipe, inputs: Mapping[str, Any] | None = None) -> "RunDirectory":
        """Return a new run directory with its inputs, its environment and its recipe written, which makes it a run.

        Raises:
            RelgraphError: if the directory exists and is not empty.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        write_json(run.inputs_file, inputs or {})
        write_json(run.environment_file, environment(recipe.seed))
        write_yaml(run.recipe_file, recipe.plain())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Return an existing run directory.

        Raises:
            RelgraphError: if it is not one.
        """
        run = cls(path)
        if not run.recipe_file.is_file():
            raise RelgraphError(
                f"{path} is not a run: expected a directory with recipe.yaml, as relgraph train and pretrain write it"
            )
        return run

    def stored(self, given: Mapping[str, Any] | None = None) -> AnyRecipe:
        """Return the run's recipe, of a training or of a pre-training.

        Args:
            given: Code of one's own that the run names, given again by option: a spelling, or the object.

        Raises:
            RelgraphError: if its file is not as it was written, or lacks an option; if it names code of one's own that
                was neither given again nor permitted, or something is given again that is none.
        """
        content = read_yaml(self.recipe_file, sealed=True)
        again = {name: spec for name, spec in (given or {}).items() if name in (*OWN, "logger") and spec is not None}
        for name in again:
            texts = texts_of(content.get(name))
            moved = name == "dataset" and own_data(again[name]) == own_data(content[name]) != ""
            if not moved and not any(own_spellings(text) or "object:" in text for text in texts):
                told = f"{name} of {self.path} is {', '.join(texts)}, no code of its own"
                raise RelgraphError(f"{told}: it is not given again")
        # Loggers are loaded where a run is resumed alone, and checked there.
        named = {name: value for name, value in content.items() if name not in again and name != "logger"}
        check_options_of(named, str(self.recipe_file))
        content |= again
        self._check_packages(again)
        found = resolve_pretraining(content) if "objective" in content else resolve(content, preset="none")
        lacking = [item.name for item in fields(found) if item.name not in content]
        if lacking:
            raise RelgraphError(f"{self.recipe_file} must hold every option, it lacks {', '.join(lacking)}")
        return found

    def _check_packages(self, given: Mapping[str, Any]) -> None:
        """Raise RelgraphError if a package that registered a name in the recipe is no longer installed."""
        for part, code in (self.inputs().get("code", {}) if self.inputs_file.is_file() else {}).items():
            name, spelling = part.split()[0], code["spelling"]
            if given.get(name) is None and not is_own(spelling) and spelling not in registered(OWN[name]):
                package = f"the package {code.get('package')} {code.get('version')}, which does not register it here"
                raise RelgraphError(f"{self.path} was made with the {name} {spelling} of {package}")

    def inputs(self) -> dict[str, Any]:
        """Return the fingerprints of the data and the teacher that the run was made of.

        Raises:
            RelgraphError: if their file is missing, or not as it was written.
        """
        return read_json(self.inputs_file)

    def recipe(self, given: Mapping[str, Any] | None = None) -> Recipe:
        """Return the recipe of a training; `given` is that of `stored`.

        Raises:
            RelgraphError: if its file is not valid, or the run is a pre-training.
        """
        recipe = self.stored(given)
        if isinstance(recipe, PretrainRecipe):
            raise RelgraphError(
                f"{self.path} is a pre-training ({recipe.objective}): expected a run of relgraph train; its network is "
                f"a teacher, --teacher checkpoint:{self.path}, its figures are in result.json, and "
                f"relgraph pretrain --resume {self.path} goes on with it"
            )
        return recipe

    def pretraining(self, given: Mapping[str, Any] | None = None) -> PretrainRecipe:
        """Return the recipe of a pre-training; `given` is that of `stored`.

        Raises:
            RelgraphError: if its file is not valid, or the run is a training.
        """
        recipe = self.stored(given)
        if not isinstance(recipe, PretrainRecipe):
            told = f"continue it with relgraph train --resume {self.path}"
            raise RelgraphError(f"{self.path} is a run of relgraph train: {told}")
        return recipe

    def result(self) -> dict[str, Any]:
        """Return the final figures.

        Raises:
            RelgraphError: if the run is not finished, or their file is not as it was written.
        """
        if not self.result_file.is_file():
            raise RelgraphError(f"{self.path} is not finished, it has no result.json: go on with it by --resume")
        return read_json(self.result_file)

    def decided(self, recipe: Kind) -> Kind:
        """Return a recipe with what a trial answered when the run was begun, where it asks for one ("auto")."""
        stored = read_yaml(self.recipe_file, sealed=True)
        kept = {name: stored[name] for name in TRIED if getattr(recipe, name) == "auto" and name in stored}
        return replace(recipe, **kept)

    def check_recipe(self, recipe: AnyRecipe) -> None:
        """Raise RelgraphError if the run was started with another recipe, naming the first option that differs.

        Where the recipe leaves to the program whether the teacher runs or is read, how images are normalised, or what a
        trial decides, what was found then stands. Loggers may be others, since no figure depends on them.
        """
        recipe = self.decided(recipe)
        own = {name: getattr(recipe, name, None) for name in OWN}
        stored = self.stored({name: spec for name, spec in own.items() if self._again(name, spec)})
        if type(stored) is not type(recipe):
            was, now = ("training" if isinstance(r, Recipe) else "pre-training" for r in (stored, recipe))
            raise RelgraphError(f"{self.path} is a {was}: expected a {now}")
        if isinstance(stored, Recipe) and isinstance(recipe, Recipe) and recipe.teacher_mode in ("auto", "stored"):
            if stored.teacher_mode == "stored":  # the run names its store, the recipe a folder of them
                recipe = replace(recipe, embeddings=stored.embeddings)
            if recipe.teacher_mode == "auto":
                recipe = replace(recipe, teacher_mode=stored.teacher_mode)
        if isinstance(stored, Recipe) and isinstance(recipe, Recipe) and recipe.normalise == "auto":
            recipe = replace(recipe, normalise=stored.normalise)
        for item in fields(recipe):
            was, now = getattr(stored, item.name), getattr(recipe, item.name)
            if was != now and item.name != "logger":
                raise self._another(item.name, was, now)

    def _again(self, name: str, spec: Any) -> bool:
        """Return whether the run names code of one's own here, which this must be as well, perhaps from elsewhere."""
        texts = str(read_yaml(self.recipe_file, sealed=True).get(name)), str(spec)
        if not own_spellings(texts[0]) and "object:" not in texts[0]:
            return False
        was, now = (replace_own(text, lambda own: own.rpartition(":")[2]).replace("object:", "") for text in texts)
        if was != now:
            raise self._another(name, *texts)
        return True

    def _another(self, name: str, was: object, now: object) -> RelgraphError:
        return RelgraphError(f"{self.path} was started with another recipe: {name} was {was}, is now {now}")

    def write_metrics(self, rows: Sequence[Mapping[str, float]], file: Path | None = None) -> None:
        """Write all rows, one an epoch: what a stopped run wrote after its last checkpoint is trained again."""
        write_table(file or self.metrics_file, rows)  # not every epoch measures everything

    def read_metrics(self, file: Path | None = None) -> list[dict[str, float]]:
        """Return the rows of `metrics.csv`, or of another file of its kind, without the empty cells.

        Raises:
            RelgraphError: if it cannot be read, holds what is no number, or is not as it was written.
        """
        return read_table(file or self.metrics_file)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the run, and remove what a killed one left; a dead process holds none.

        Raises:
            RelgraphError: if another process writes to it, or nobody can.
        """
        return locked(self.path)


def check_free(path: Path) -> None:
    """Raise RelgraphError if something is at `path` already, except an empty directory, or a run that never began."""
    begun = {"inputs.json", "environment.json"}  # what is written before recipe.yaml
    if path.is_dir() and not path.is_symlink() and only_begun(path, begun):
        return
    if path.exists() or path.is_symlink():
        raise RelgraphError(f"{path} exists already: continue it with --resume {path}, or choose another --out")


def free_name(root: Path, recipe: AnyRecipe) -> Path:
    """Make a new, empty directory under `root`, named after the recipe, and return it: nobody else gets its name.

    Raises:
        RelgraphError: if it cannot be made.
    """
    # A name that begins with a dash would be an option, with a dot hidden.
    name = f"{dataset(recipe.dataset).short_name}-{_subject(recipe)}-seed{recipe.seed}".lstrip("-.")
    name = re.sub("[/:]", "-", name)  # a colon is a machine's name to scp and rsync
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        for path in (root / name, *(root / f"{name}-{i}" for i in range(2, 10_000))):
            with suppress(FileExistsError):
                path.mkdir()
                return path
    raise RelgraphError(f"{root} has 9,999 runs of the name {name}: choose an --out")


def _subject(recipe: AnyRecipe) -> str:
    if isinstance(recipe, PretrainRecipe):
        return recipe.objective if recipe.objective == "sskd-head" else f"{_short(recipe.network)}-{recipe.objective}"
    graph = f"-{recipe.graph_in_use}" if recipe.graph_in_use else ""
    refine = f"-{_short(recipe.refine)}" if recipe.refine else ""
    method = _short(recipe.method).replace("*", "x").replace(" ", "")  # 0.9*kd would be a pattern in a shell
    return f"{_short(recipe.student)}-{method}{graph}{refine}"


def _short(spec: object) -> str:
    """Return a spelling without paths and modules, for the name of a directory."""
    return replace_own(str(spec), lambda own: re.split(r"[:.]", own)[-1]).replace("object:", "")


def environment(seed: int) -> dict[str, Any]:
    """Return what a run depends on besides its recipe: versions, commit, command, seed, hardware."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "python": platform.python_version(),
        "versions": {name: next((found.version for found in distributions(name=name)), None) for name in PACKAGES},
        "commit": _commit(),
        "hardware": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "processes": ProcessGroup.launched().count,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _commit() -> str | None:
    """Return the commit of the checkout that this package is run from, if it is one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
