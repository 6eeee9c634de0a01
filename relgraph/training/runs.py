"""The run directory: everything needed to understand, repeat and continue a run."""

import csv
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
import yaml

from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.names import dataset
from relgraph.processes import ProcessGroup
from relgraph.training.hardware import processor
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.recipe import Recipe, resolve

AnyRecipe = Recipe | PretrainRecipe
PACKAGES = ("relgraph", "torch", "torchvision", "torch_geometric", "torch_scatter", "lightning-fabric", "timm", "numpy")


class Run:
    """One run directory and the names of its files.

    `recipe.yaml` every option, resolved; `environment.json` versions, commit, seed, hardware; `metrics.csv` a row an
    epoch; `diagnostics.csv` one for each step whose graphs were measured; `tensorboard/` the same for TensorBoard;
    `last.ckpt` and `best.ckpt` to continue from; `student.safetensors` the best student alone, `network.safetensors`
    what a pre-training made, `ss_head.safetensors` the self-supervision head of a teacher; `result.json` the final
    figures; `learning_curve.png`. A head that is trained first has `head.ckpt` and `teacher_head.csv`.
    """

    def __init__(self, path: Path, last: str = "last.ckpt", metrics: str = "metrics.csv") -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.environment_file = path / "environment.json"
        self.metrics_file = path / metrics
        self.diagnostics_file = path / "diagnostics.csv"
        self.last = path / last
        self.best = path / "best.ckpt"
        self.student_file = path / "student.safetensors"
        self.network_file = path / "network.safetensors"
        self.ss_head_file = path / "ss_head.safetensors"
        self.result_file = path / "result.json"
        self.curve_file = path / "learning_curve.png"

    def of_head(self) -> "Run":
        """Return the same directory with the checkpoint and the metrics of a teacher's head that is trained first."""
        return Run(self.path, "head.ckpt", "teacher_head.csv")

    @classmethod
    def create(cls, path: Path, recipe: AnyRecipe) -> "Run":
        """Return a new run directory with its recipe and environment written.

        Raises:
            RelgraphError: if the directory exists and is not empty.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        write_atomically(run.recipe_file, yaml.safe_dump(_plain(recipe), sort_keys=False).encode())
        write_json(run.environment_file, environment(recipe.seed))
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
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

    def stored(self) -> AnyRecipe:
        """Return the run's recipe, of a training or of a pre-training.

        Raises:
            RelgraphError: if its file is not valid.
        """
        content = read_yaml(self.recipe_file)
        return resolve_pretraining(content) if "objective" in content else resolve(content, preset="none")

    def recipe(self) -> Recipe:
        """Return the recipe of a training.

        Raises:
            RelgraphError: if its file is not valid, or the run is a pre-training.
        """
        recipe = self.stored()
        if isinstance(recipe, PretrainRecipe):
            raise RelgraphError(
                f"{self.path} is a pre-training ({recipe.objective}): expected a run of relgraph train; its network is "
                f"a teacher, --teacher checkpoint:{self.path}, its figures are in result.json, and "
                f"relgraph pretrain --resume {self.path} goes on with it"
            )
        return recipe

    def check_recipe(self, recipe: AnyRecipe) -> None:
        """Raise RelgraphError if the run was started with another recipe, naming the first option that differs.

        Where the recipe leaves to the program whether the teacher runs or is read, what was found then stands.
        """
        stored = self.stored()
        if type(stored) is not type(recipe):
            was, now = ("training" if isinstance(r, Recipe) else "pre-training" for r in (stored, recipe))
            raise RelgraphError(f"{self.path} is a {was}: expected a {now}")
        if isinstance(stored, Recipe) and isinstance(recipe, Recipe) and recipe.teacher_mode in ("auto", "stored"):
            if stored.teacher_mode == "stored":  # the run names its store, the recipe a folder of them
                recipe = replace(recipe, embeddings=stored.embeddings)
            if recipe.teacher_mode == "auto":
                recipe = replace(recipe, teacher_mode=stored.teacher_mode)
        for item in fields(recipe):
            was, now = getattr(stored, item.name), getattr(recipe, item.name)
            if was != now:
                raise RelgraphError(f"{self.path} was started with another recipe: {item.name} was {was}, is now {now}")

    def write_metrics(self, rows: Sequence[Mapping[str, float]], file: Path | None = None) -> None:
        """Write all rows, one an epoch: what a stopped run wrote after its last checkpoint is trained again."""
        text = io.StringIO()
        # What is not measured in every epoch has an empty cell in the others.
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(file or self.metrics_file, text.getvalue().encode())

    def read_metrics(self, file: Path | None = None) -> list[dict[str, float]]:
        """Return the rows of `metrics.csv`, or of another file of its kind, without the empty cells.

        Raises:
            RelgraphError: if it cannot be read, or holds what is no number.
        """
        file = file or self.metrics_file
        try:
            with file.open(newline="") as stream:
                return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise RelgraphError(f"cannot read {file}: {error}") from error


def check_free(path: Path) -> None:
    """Raise RelgraphError if something is at `path` already, except an empty directory."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RelgraphError(f"{path} exists already: continue it with --resume {path}, or choose another --out")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; dashes in its keys count as underscores.

    Raises:
        RelgraphError: if it cannot be read or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RelgraphError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RelgraphError(f"{path} must hold options as 'name: value' lines, got {type(content).__name__}")
    return {str(name).replace("-", "_"): tuple(v) if isinstance(v, list) else v for name, v in content.items()}


def free_name(root: Path, recipe: AnyRecipe) -> Path:
    """Return a directory under `root` that does not exist yet, named after the recipe."""
    name = f"{dataset(recipe.dataset).short_name}-{_subject(recipe)}-seed{recipe.seed}"
    candidates = [root / name, *(root / f"{name}-{i}" for i in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def _subject(recipe: AnyRecipe) -> str:
    if isinstance(recipe, PretrainRecipe):
        return recipe.objective if recipe.objective == "sskd-head" else f"{recipe.network}-{recipe.objective}"
    graph = f"-{recipe.graph_in_use}" if recipe.graph_in_use else ""
    refine = f"-{recipe.refine}" if recipe.refine else ""
    method = recipe.method.replace("*", "x").replace(" ", "")  # 0.9*kd would be a pattern in a shell
    return f"{recipe.student}-{method}{graph}{refine}"


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


def _plain(recipe: AnyRecipe) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


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
