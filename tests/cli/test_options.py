from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from relgraph.errors import RelgraphError
from relgraph.training.recipe import Recipe

options = import_module("relgraph_cli.options")

Program = Callable[..., Result]
Failing = Callable[..., str]

# What is typed and what the recipe gets, where the field's default does not tell its kind.
TYPED: dict[str, tuple[str, Any]] = {
    "image_size": ("32", 32),
    "workers": ("2", 2),
    "head_epochs": ("5", 5),
    "teacher_weights": ("w.safetensors", "w.safetensors"),
    "teacher_size": ("160", 160),
    "teacher_mean": (".5,0.4, 0.25", (0.5, 0.4, 0.25)),
    "teacher_std": ("1", (1.0,)),
    "teacher_args": ("num_classes=1001,pad_type=same", ("num_classes=1001", "pad_type=same")),
    "method_args": ("angle_weight=2, kd.temperature=1e-1", ("angle_weight=2", "kd.temperature=1e-1")),
    "init_from": ("runs/a", "runs/a"),
    "ss_head": ("runs/head", "runs/head"),
    "gamma": ("0", 0.0),
    "k": ("4", 4),
    "beta": ("0.5", 0.5),
    "node_weight": ("0.5", 0.5),
    "edge_weight": ("3", 3.0),
    "temperature": ("2", 2.0),
    "init_epochs": ("0", 0),
    "milestones": ("2,5", (2, 5)),
}


def typed(name: str, choices: tuple[str, ...], default: Any) -> tuple[str, Any]:
    if name in TYPED:
        return TYPED[name]
    if choices:
        return choices[-1], choices[-1]
    return ("other", "other") if isinstance(default, str) else ("3", type(default)(3))


@pytest.fixture(scope="session")
def parse(command: click.Group) -> Callable[..., dict[str, Any]]:
    def parse(*args: str) -> dict[str, Any]:
        with command.commands["train"].make_context("train", list(args)) as context:
            return {name: value for name, value in context.params.items() if value is not None}

    return parse


@pytest.mark.parametrize("item", fields(Recipe), ids=lambda item: item.name)
def test_every_option_of_the_recipe(parse: Callable[..., dict[str, Any]], item: Any) -> None:
    if isinstance(item.default, bool):
        assert parse(f"--{item.name}") == {item.name: True}
        assert parse(f"--no-{item.name}") == {item.name: False}
        return
    text, value = typed(item.name, item.metadata["choices"], item.default)
    for option in (f"--{item.name.replace('_', '-')}", *item.metadata["aliases"]):
        found = parse(option, text)
        assert found == {item.name: value}
        assert type(found[item.name]) is type(value)


def test_the_original_s_flags(parse: Callable[..., dict[str, Any]]) -> None:
    found = parse(
        "-r", "0.5", "-a", "0.1", "-b", "2", "--distill", "kd", "--model_s", "resnet20", "--clip_mode", "RN50"
    )
    assert found == {
        "gamma": 0.5, "alpha": 0.1, "beta": 2.0, "method": "kd", "student": "resnet20", "clip_mode": "RN50",
    }  # fmt: skip


def test_help_tells_the_defaults(program: Program) -> None:
    text = " ".join(program("train", "--help").stdout.split())
    for item in fields(Recipe):
        assert f"--{item.name.replace('_', '-')}" in text
    assert "[default: 240] [digits: 20]" in text
    assert "Weight of the method; the published one if not given (relgraph methods). -" in text, "no [digits: None]"
    assert "--compile / --no-compile" in text
    assert "[default: no-compile]" in text


def command_with(*names: str) -> click.Command:
    def nothing(**given: Any) -> None: ...

    return click.command()(options.options_named(*names)(nothing))


def test_some_options_of_the_recipe() -> None:
    command = command_with("seed", "compile", "dataset")
    assert [param.name for param in command.params] == ["dataset", "seed", "compile"], "in the recipe's order"
    with pytest.raises(RelgraphError, match="unknown option 'sed': did you mean 'seed'"):
        options.options_named("sed")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("on", True)])
def test_switches_in_a_file(tmp_path: Path, text: str, value: bool) -> None:
    command = command_with("compile")
    (tmp_path / "f.yaml").write_text(f"compile: {text}\n")
    with command.make_context("command", []) as context:
        assert options.from_file(context, tmp_path / "f.yaml") == {"compile": value}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("train", "gamma: null\ninit_from: null\n", {"gamma": None, "init_from": None}),
        ("pretrain", "epochs: null\ntemperature: null\nlr: 1e-2\n", {"epochs": None, "temperature": None, "lr": 0.01}),
    ],
)
def test_nothing_in_a_file_is_the_default_of_the_command(
    name: str, text: str, expected: dict[str, Any], command: click.Group, tmp_path: Path
) -> None:
    """Options of one name may be of two kinds: a training needs a number of epochs, a pre-training has a published."""
    (tmp_path / "f.yaml").write_text(text)
    with command.commands[name].make_context(name, []) as context:
        assert options.from_file(context, tmp_path / "f.yaml") == expected


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--graph", "kn", "'kn' is not one of 'dense', 'knn'"),
        ("--epochs", "many", "'many' is not a valid integer"),
        ("--lr", "fast", "'fast' is not a valid float"),
        ("--milestones", "1,b", "'1,b' is not int values with commas between them"),
        ("--teacher-mean", "0.5;0.5", "'0.5;0.5' is not float values with commas between them"),
    ],
)
def test_values_of_another_kind(misuse: Failing, option: str, value: str, told: str) -> None:
    line = misuse("train", option, value)
    assert told in line
    assert option in line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- a\n- b\n", "f.yaml must hold options as 'name: value' lines, got list"),
        ("just text\n", "f.yaml must hold options as 'name: value' lines, got str"),
        ("epochs: [1\n", "cannot read f.yaml: "),
        ("epochz: 1\n", "unknown option 'epochz': did you mean 'epochs'?"),
        ("epochs: many\n", "f.yaml: epochs: 'many' is not a valid integer"),
        ("epochs: 1.5\n", "f.yaml: epochs: '1.5' is not a valid integer"),
        ("epochs: true\n", "f.yaml: epochs: 'True' is not a valid integer"),
        ("epochs: [1, 2]\n", "f.yaml: epochs: '(1, 2)' is not a valid integer"),
        ("epochs: null\n", "f.yaml: epochs: 'None' is not a valid integer"),
        ("compile: maybe\n", "f.yaml: compile: 'maybe' is not a valid boolean"),
        ("compile: null\n", "f.yaml: compile: 'None' is not a valid boolean"),
        ("lr: {a: 1}\n", "is not a valid float"),
        ("graph: kn\n", "f.yaml: graph: 'kn' is not one of 'dense', 'knn'"),
        ("milestones: [1, b]\n", "f.yaml: milestones: (1, 'b') is not int values"),
    ],
)
def test_files_that_are_not_options(failure: Failing, tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "f.yaml").write_text(content)
    assert told in failure("train", "--config", "f.yaml")
    assert not (tmp_path / "runs").exists()


def test_files_that_are_not_text(failure: Failing, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xff\xfe\x00")
    assert failure("train", "--config", "f.yaml").startswith("cannot read f.yaml: ")
    assert failure("train", "--config", "none.yaml").startswith("cannot read none.yaml: ")
