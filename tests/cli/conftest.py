"""The installed program, driven in this process, how it is stopped and refused, and small trained runs."""

import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import relgraph.api  # noqa: F401 (before a test patches what it imports)
from relgraph.training import epochs
from tests.checks import case
from tests.pictures import write_folder

Program = Callable[..., Result]
Failing = Callable[..., str]


def ended(command: click.Group, status: int, *args: object) -> Result:
    """Run the program in this process and check its exit status."""
    result = CliRunner().invoke(command, [str(arg) for arg in args], prog_name="relgraph")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == status, result.output
    return result


def stopped_in_step_4(command: click.Group, *args: object) -> str:
    """Return what the program says when Ctrl-C comes in the fourth step."""
    step, numbers = epochs.step, count(1)

    def stop(*given: Any) -> None:
        if next(numbers) == 4:
            raise KeyboardInterrupt
        step(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "step", stop)
        return ended(command, 130, *args).stderr


def check_told(failing: Failing, command: tuple[object, ...], cases: Mapping[str, str]) -> None:
    """Check that the command with each of these options says these words, and that it writes nothing."""
    before = list(Path().rglob("*"))
    for options, words in cases.items():
        with case(options):
            told = failing(*command, *shlex.split(options))
            assert words in told, told
    assert list(Path().rglob("*")) == before


def recipe(path: Path | str) -> dict[str, Any]:
    """Return the recipe that a run recorded."""
    content: dict[str, Any] = yaml.safe_load((Path(path) / "recipe.yaml").read_text())
    return content


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
    program("train", "--graph", "knn", "--k", 4, "--epochs", 1, "--batch-size", 256, "--out", path)
    return path


@pytest.fixture(scope="session")
def alone(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch without a teacher. Tests must leave it as it is."""
    path = tmp_path_factory.mktemp("runs") / "alone"
    program("train", "--method", "none", "--epochs", 1, "--batch-size", 256, "--out", path)
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
    return write_folder(tmp_path / "photos", {"train": 4, "test": 1})


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A folder of 16 images, without labels."""
    return write_folder(tmp_path / "flat", {"all": 16}, ["noise"])
