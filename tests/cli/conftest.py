"""The installed program, driven in this process, and one small trained run."""

from importlib.metadata import entry_points
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import Result

from tests.cli.shared import Failing, Program, ended

SPLITS = (*(("train", number) for number in range(4)), ("test", 0))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder: `relgraph train` writes to runs/ where it stands."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def command() -> click.Group:
    """Return the command that the package installs as `relgraph`."""
    (entry,) = entry_points(group="console_scripts", name="relgraph")
    group = entry.load()
    assert isinstance(group, click.Group)
    return group


@pytest.fixture(scope="session")
def program(command: click.Group) -> Program:
    """Return a function that runs the program and expects success."""

    def run(*args: object) -> Result:
        result = ended(command, 0, *args)
        assert result.stderr == "", "a user gets nothing on stderr but errors"
        return result

    return run


@pytest.fixture(scope="session")
def failure(command: click.Group) -> Failing:
    """Return a function that runs the program and returns its error: one line on stderr, exit status 1."""

    def run(*args: object) -> str:
        told = ended(command, 1, *args).stderr
        assert told.startswith("Error: ") and told.count("\n") == 1, told
        return told.removeprefix("Error: ").strip()

    return run


@pytest.fixture(scope="session")
def misuse(command: click.Group) -> Failing:
    """Return a function that runs the program and returns its last line: usage on stderr, exit status 2."""

    def run(*args: object) -> str:
        usage, *_, last = ended(command, 2, *args).stderr.splitlines()
        assert usage.startswith("Usage: relgraph") and last.startswith("Error: ")
        return last.removeprefix("Error: ")

    return run


@pytest.fixture(scope="session")
def run(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch: digits, k-NN graph. Tests must leave it as it is."""
    path = tmp_path_factory.mktemp("runs") / "knn"
    program("train", "--graph", "knn", "--k", 4, "--epochs", 1, "--out", path)
    return path


@pytest.fixture(scope="session")
def alone(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch without a teacher. Tests must leave it as it is."""
    path = tmp_path_factory.mktemp("runs") / "alone"
    program("train", "--method", "none", "--epochs", 1, "--out", path)
    return path


@pytest.fixture(scope="session")
def contrasted(program: Program, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a run of one step without labels, and what it told. Tests must leave it as it is."""
    path = tmp_path_factory.mktemp("runs") / "seed"
    options = ("--method", "seed", "--method-args", "queue=64", "--batch-size", 650, "--epochs", 1, "--out", path)
    return path, program("train", *options).stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two classes with four training images and one test image each."""
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    root = tmp_path / "photos"
    names = [
        f"{split}/{name}/{i}"
        for name in ("cat", "dog")
        for split, n in {"train": 4, "test": 1}.items()
        for i in range(n)
    ]
    for pixels, name in zip(grey, names, strict=True):
        file = root / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return root
