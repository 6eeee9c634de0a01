"""What the tests of the command line share: how a program is run, stopped and refused, and what a run recorded."""

import shlex
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from relgraph.training import epochs
from tests.checks import case

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
