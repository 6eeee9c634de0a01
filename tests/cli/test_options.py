from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from relgraph.errors import RelgraphError
from relgraph.files import write_yaml
from relgraph.options import Option, options_of
from relgraph.own_code import permitting
from relgraph.training.pretrain_recipe import PretrainRecipe
from relgraph.training.recipe import Recipe, resolve
from tests.checks import assert_refused, case
from tests.cli.conftest import Failing, Program, check_told
from tests.own.test_permission import mark_of, naming

options = import_module("relgraph_cli.options")
groups = import_module("relgraph_cli.groups")


# What is typed for an option of each type, and what the recipe gets.
TYPED: dict[Any, tuple[str, Any]] = {
    int: ("4", 4),
    float: ("1e-1", 0.1),
    str: ("other", "other"),
    tuple[int, ...]: ("2,5", (2, 5)),
    tuple[float, ...]: (".5,0.4, 0.25", (0.5, 0.4, 0.25)),
    tuple[str, ...]: ("angle_weight=2, kd.temperature=1e-1", ("angle_weight=2", "kd.temperature=1e-1")),
}


def typed(item: Option) -> tuple[str, Any]:
    return (item.words[-1], item.words[-1]) if item.words else TYPED[item.kinds[0]]


@pytest.fixture(scope="session")
def parse(command: click.Group) -> Callable[..., dict[str, Any]]:
    def parse(*args: str) -> dict[str, Any]:
        with command.commands["train"].make_context("train", list(args)) as context:
            assert context.params.pop("allow_code") is False
            return {name: value for name, value in context.params.items() if value is not None}

    return parse


def test_every_option_of_the_recipe(parse: Callable[..., dict[str, Any]]) -> None:
    for item in options_of(Recipe).values():
        if isinstance(item.default, bool):
            flag = item.name.replace("_", "-")
            assert parse(f"--{flag}") == {item.name: True}
            no = (f"--{flag}", "no") if item.words else (f"--no-{flag}",)
            assert parse(*no) == {item.name: False}
            if not item.words:
                continue
        text, value = typed(item)
        for option in (f"--{item.name.replace('_', '-')}", *item.aliases):
            found = parse(option, text)
            assert found == {item.name: value} and type(found[item.name]) is type(value)


def test_the_original_s_flags(parse: Callable[..., dict[str, Any]]) -> None:
    found = parse(
        *["-r", "0.5", "-a", "0.1", "-b", "2", "--distill", "kd", "--model_s", "resnet20", "--clip_mode", "RN50"]
    )
    numbers = {"gamma": 0.5, "alpha": 0.1, "beta": 2.0}
    assert found == {**numbers, "method": "kd", "student": "resnet20", "clip_mode": "RN50"}


def test_help_tells_the_defaults(program: Program) -> None:
    text = " ".join(program("train", "--help-all").stdout.split())
    for name in options_of(Recipe):
        assert f"--{name.replace('_', '-')}" in text
    assert "[default: 240] [digits: 20]" in text
    assert "Weight of the method; the published one if not given (relgraph methods). -" in text, "no [digits: None]"
    assert "--compile YES|NO|AUTO" in text and "[default: no]" in text


def test_the_help_has_each_option_under_one_subject(program: Program, command: click.Group) -> None:
    listed = [name for names in groups.GROUPS.values() for name in names.split()]
    known = {name.removeprefix("-") for name in listed}
    assert len(known) == len(listed)
    asked = {param.name for name in ("train", "pretrain") for param in command.commands[name].params}
    assert asked == known | {"help_all"}
    for name in ("train", "pretrain"):
        short, whole = (program(name, flag).stdout for flag in ("--help", "--help-all"))
        assert short.index("Examples:") < short.index("\nRun:\n") < short.index("\nOptimisation:\n")
        for rare, shown in (("--clip-norm", False), ("--momentum", False), ("--epochs", True)):
            assert (rare in short.split("Run:")[1]) == shown and rare in whole
    assert len(program("train", "--help").stdout.splitlines()) < 150


def test_the_first_sentence_of_a_help() -> None:
    for text, told in {
        "All pairs, or k; dense if not given.": "All pairs, or k",
        "Neighbours (for knn; 8 if not given).  [default: 8]": "Neighbours (for knn; 8 if not given)  [default: 8]",
        "resnet8, vgg8, ... (students lists them).": "resnet8, vgg8, ... (students lists them)",
        "Directory. [default: a new one]": "Directory [default: a new one]",
        "no end": "no end",
    }.items():
        assert groups.first_sentence(text) == told


def test_some_options_of_the_recipe() -> None:
    command = click.command()(options.recipe_options("seed", "compile", "dataset")(lambda **given: None))
    assert [param.name for param in command.params] == ["dataset", "seed", "compile"], "in the recipe's order"
    with pytest.raises(RelgraphError, match="unknown option 'sed': did you mean 'seed'"):
        options.recipe_options("sed")


def test_a_file_s_options_are_read_as_those_of_the_command(tmp_path: Path) -> None:
    """Options of one name may be of two kinds: a training needs a number of epochs, a pre-training has a published."""
    file = tmp_path / "f.yaml"
    for recipe, text, expected in (
        (Recipe, "compile: true\n", {"compile": True}),
        (Recipe, "compile: off\n", {"compile": False}),
        (Recipe, "gamma: null\ninit_from: null\n", {"gamma": None, "init_from": None}),
        (Recipe, "milestones: [2, 5]\nhead-epochs: 2\n", {"milestones": (2, 5), "head_epochs": 2}),
        (Recipe, "method: 1e-1*crd+sp\nmethod_args: [crd.negatives=8]\ngraph: null\n",
         {"method": "1e-1*crd+sp", "method_args": ("crd.negatives=8",), "graph": None}),
        (PretrainRecipe, "epochs: null\nlr: 5e-4\n", {"epochs": None, "lr": 5e-4}),
    ):  # fmt: skip
        file.write_text(text)
        assert options.given_options(recipe, {"seed": None, "config": file}) == expected
    given = {"epochs": 3, "seed": 0, "config": file}
    assert options.given_options(PretrainRecipe, given) == {"epochs": 3, "seed": 0, "lr": 5e-4}


def test_a_file_s_options_run_no_code_that_is_not_permitted(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    code, mark = mark_of(tmp_path)
    for content in naming(code):
        write_yaml(file, content)
        with case(content), pytest.raises(RelgraphError):
            resolve(options.given_options(Recipe, {"config": file}))
        assert not mark.exists()
    file.write_text(f"method: 0.5*{code}+kd\nmethod_args: kd.temperature=2,kernel={code}\n")
    assert_refused((lambda: options.given_options(Recipe, {"config": file, "method": "sp"}), f"{file} names code…"))
    with permitting([code]):
        assert options.given_options(Recipe, {"config": file})["method"] == f"0.5*{code}+kd"


def test_a_sum_of_one_s_own_methods_is_named_again_beside_resume() -> None:
    options.refuse_beside_resume(Path("run"), {"method": "0.5*losses.py:Mine+kd", "seed": None})
    with pytest.raises(click.UsageError):
        options.refuse_beside_resume(Path("run"), {"method": "0.5*crd+kd"})


def test_values_of_another_kind(misuse: Failing) -> None:
    check_told(misuse, ("train",), {
        "--graph kn": "Invalid value for '--graph': 'kn' is not one of 'dense', 'knn'",
        "--epochs many": "'many' is not a valid integer",
        "--lr fast": "'fast' is not a valid float",
        "--milestones 1,b": "milestones must be a list of whole numbers, got '1,b'",
        "--teacher-mean 0.5;0.5": "teacher_mean must be a list of numbers, got '0.5;0.5'",
    })  # fmt: skip


def test_files_that_are_not_options(failure: Failing) -> None:
    for content, told in {
        "- a\n- b\n": "f.yaml must hold options as 'name: value' lines, got list",
        "epochs: [1\n": "cannot read f.yaml: ",
        "epochz: 1\n": "unknown option 'epochz': did you mean 'epochs'?",
        "epochs: many\n": "f.yaml: epochs must be a whole number, got 'many'",
        "graph: kn\n": "f.yaml: unknown graph 'kn': did you mean 'knn'? (known: dense, knn)",
        "milestones: [1, b]\n": "f.yaml: milestones must be a list of whole numbers, got (1, 'b')",
    }.items():
        Path("f.yaml").write_text(content)
        check_told(failure, ("train",), {"--config f.yaml": told})
    Path("f.yaml").write_bytes(b"\xff\xfe\x00")
    check_told(failure, ("train",), {f"--config {name}": f"cannot read {name}: " for name in ("f.yaml", "none.yaml")})
