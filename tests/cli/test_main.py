import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from tests.cli.conftest import Failing, Program

COMMANDS = (
    "train", "pretrain", "evaluate", "analyze", "report", "export", "predict", "embed", "align", "query", "data",
    "teachers", "students", "methods", "presets",
)  # fmt: skip


def examples(text: str) -> list[list[str]]:
    """Return the arguments of the lines of a help that can be typed, without the remarks beside them."""
    lines = re.findall(r"^ +relgraph (.*)$", text, re.MULTILINE)
    return [shlex.split(line.split("  ")[0].split(" > ")[0]) for line in lines]


def test_the_version_is_the_package_s(program: Program) -> None:
    assert program("--version").stdout == f"relgraph, version {version('relgraph')}\n"


def test_help_names_every_command(program: Program, command: click.Group) -> None:
    text = program("--help").stdout
    assert set(COMMANDS) == set(command.commands)
    for name in command.commands:
        assert f"\n  {name} " in text
    assert program("-h").stdout == text


def test_the_examples_of_the_helps_can_be_typed(program: Program, command: click.Group) -> None:
    for name in COMMANDS:
        typed = examples(program(name, "--help").stdout.split("Examples:")[1])
        assert len(typed) >= 2 and name in {first for first, *_ in typed}
        for first, *rest in typed:  # an example may go on with another command
            with command.commands[first].make_context(first, rest) as context:
                assert not rest or any(value is not None for value in context.params.values()), (name, rest)
    typed = [line for line in examples(program("--help").stdout) if line[0] != "COMMAND"]
    assert len(typed) >= 4
    for first, *rest in typed:
        command.commands[first].make_context(first, rest).close()


def test_every_option_is_explained(command: click.Group) -> None:
    for name in COMMANDS:
        for param in command.commands[name].params:
            if isinstance(param, click.Option) and not isinstance(param.type, click.Choice):
                assert param.help, f"{name} {param.name}"


def test_no_command_of_that_name(misuse: Failing) -> None:
    assert "No such command 'trian'" in misuse("trian")
    assert "No such option" in misuse("train", "--epoch-number", 3)
    assert "Missing argument 'RUN'" in misuse("evaluate")


@pytest.mark.slow
def test_an_error_in_a_process_of_its_own() -> None:
    arguments = [sys.executable, "-m", "relgraph", "train", "--student", "resnet9", "--epochs", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: unknown student 'resnet9': did you mean 'resnet8'? (known: ")
    assert done.stderr.count("\n") == 1


def test_a_directory_that_cannot_be_made_is_named(failure: Failing) -> None:
    Path("file").touch()
    assert failure("train", "--epochs", 1, "--out", "file/run") == "cannot write file/run: Not a directory"


@pytest.mark.slow
def test_a_reader_that_has_enough() -> None:
    arguments = [sys.executable, "-u", "-m", "relgraph", "students"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == ""
