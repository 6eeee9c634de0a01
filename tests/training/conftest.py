"""A folder of tiny images, and runs on it that several tests read and none changes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relgraph.files import read_json, read_table
from relgraph.methods import Sum
from relgraph.names import load_teacher
from relgraph.networks.files import save_ss_head
from relgraph.networks.heads import Projector
from relgraph.training import trainer
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import train
from relgraph.training.objective import Distiller
from relgraph.training.recipe import Recipe

CLASSES = ("ant", "bee", "cat")
COUNTS = {"train": 12, "val": 6, "test": 6}

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "knn-conv": {"graph": "knn", "k": 3, "refine": "conv", "alpha": 0.5, "views": "independent", "epochs": 2},
    "none": {"method": "none", "epochs": 2},
    "kd": {"method": "kd", "schedule": "cosine", "epochs": 2},
    "memory-maps": {"method": "crd+0.5*sp+0.9*kd", "method_args": ("negatives=8",), "epochs": 2},
    "early": {"method": "sp", "init_epochs": 1},
    "select-test": {"select": "test", "epochs": 2},
    # 5 batches an epoch, as of the others: labels play no part in them; the queue's end is no batch's.
    "seed": {"method": "seed", "method_args": ("queue=40", "teacher_tau=0.05"), "batch_size": 7, "epochs": 2},
    "sskd": {"method": "sskd", "epochs": 2},
    "unlabelled": {"dataset": "unlabelled", "method": "infonce", "epochs": 2},
}

RecipeMaker = Callable[..., Recipe]
Runs = Callable[[str], Path]


def outcome(path: Path) -> dict[str, Any]:
    """Return everything that a run of the same recipe must give again, bit for bit."""
    found: dict[str, Any] = {file.name: file.read_bytes() for file in path.glob("*.safetensors")}
    for file in path.glob("*.csv"):
        found[file.name] = [{**row, "images_per_s": 0.0} for row in read_table(file)]
    for file in path.glob("*.ckpt"):
        found[file.name] = {name: x.numpy().tobytes() for name, x in load_checkpoint(file)["objective"].items()}
    return found | {"result": {**result_of(path), "images_per_s": 0}}


def result_of(path: Path) -> dict[str, Any]:
    """Return the content of a run's `result.json`."""
    return read_json(path / "result.json")


def states(module: nn.Module, *prefixes: str) -> dict[str, Tensor]:
    """Return copies of a module's tensors, or of those whose names begin so."""
    chosen = {name: x.clone() for name, x in module.state_dict().items() if name.startswith(prefixes or ("",))}
    assert chosen
    return chosen


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Return whether tensors have the same names, order and numbers."""
    return list(found) == list(expected) and all(torch.equal(found[name], x) for name, x in expected.items())


def part(module: Distiller, name: str) -> Any:
    """Return the method of that name, of those that a distiller compares."""
    assert isinstance(module.method, Sum)
    return module.method.parts[name]


def interrupt(*args: Any, **kwargs: Any) -> None:
    """Stop the program as a user does."""
    raise KeyboardInterrupt


def call_before(
    patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, act: Callable[..., None] = interrupt
) -> None:
    """Let `act` see the arguments of the owner's function of that name, in its call of that number, before it runs."""
    original, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act(*args, **kwargs)
        return original(*args, **kwargs)

    patch.setattr(owner, name, wrapped)


@contextmanager
def allowed(writes: int) -> Iterator[None]:
    """Stop the program before it writes one more file than these: all are written beside their place and moved."""
    original, done = Path.replace, 0

    def move(self: Path, target: Path) -> Path:
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        return original(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", move)
        yield


def in_pieces(run: Callable[[bool], Any], path: Path) -> int:
    """Start a run and resume it until it ends, each time allowed one more write than before; return its stops."""
    for writes in range(100):
        with allowed(writes):
            try:
                run((path / "recipe.yaml").exists())  # which makes it a run
            except KeyboardInterrupt:
                continue
        return writes
    raise AssertionError("a run of this size ends")


def after_each_step(run: Callable[[bool], Any], path: Path) -> int:
    """Start a run that keeps each step, and resume it until it ends, stopped after each step; return its stops."""
    for stops in range(100):
        with pytest.MonkeyPatch.context() as patch:
            call_before(patch, trainer, "check_stop", 1)
            torch.manual_seed(12345)
            try:
                run((path / "recipe.yaml").exists())
            except KeyboardInterrupt:
                continue
        return stops
    raise AssertionError("a run of this size ends")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 8 x 8 images: noise around a colour of the class."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 40
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def unlabelled(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the training images alone, without classes, some in a folder of theirs."""
    root = tmp_path_factory.mktemp("unlabelled")
    (root / "more").mkdir()
    for number, file in enumerate(sorted((images / "train").glob("*/*.png"))):
        shutil.copy(file, root / ("more" if number % 2 else ".") / f"{number:02}.png")
    return root


@pytest.fixture(scope="session")
def ss_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-supervision head of SSKD for the embedded teacher; its weights are random."""
    teacher = load_teacher("embedded:digits")
    path = tmp_path_factory.mktemp("head") / "ss_head.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = Projector(teacher.width, teacher.width)
    save_ss_head(path, head, teacher=teacher.name, fingerprint=teacher.fingerprint())
    return path.parent


@pytest.fixture(scope="session")
def make(images: Path, unlabelled: Path, ss_head: Path) -> RecipeMaker:
    """Return a function from options to a recipe that trains in a moment: 6 labelled images of 36, 5 batches of 12.

    A variant is a name of options. The data set "unlabelled" is the folder without labels, and SSKD gets a head.
    """

    def recipe(variant: str = "dense", **options: Any) -> Recipe:
        options = {**VARIANTS[variant], **options}
        if "sskd" in options.get("method", ""):
            options = {"ss_head": str(ss_head), **options}
        if options.get("dataset") == "unlabelled":
            options |= {"dataset": f"folder:{unlabelled}", "labels_per_class": 0}
        quick: dict[str, Any] = {
            "dataset": f"folder:{images}",
            "labels_per_class": 2,
            "student": "resnet8",
            "dim": 16,
            "epochs": 3,
            "batch_size": 12,
            "lr": 0.01,
            "device": "cpu",
            "precision": "32-true",  # the same figures on processors with and without bf16
        }
        return Recipe(**{**quick, **options})

    return recipe


@pytest.fixture(scope="session")
def finished(make: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function from a variant's name to its finished run, trained once; read it, do not change it."""
    root = tmp_path_factory.mktemp("runs")

    def run(variant: str) -> Path:
        path = root / variant
        if not path.exists():
            train(make(variant), path)
        return path

    return run
