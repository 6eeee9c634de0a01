"""Command-line options made from the fields of the recipe, so that each is written once."""

import types
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

from relgraph.errors import RelgraphError, unknown
from relgraph.training.pretrain_recipe import DIGITS, PretrainRecipe
from relgraph.training.recipe import PRESETS, Recipe

HINTS = get_type_hints(Recipe)
PRETRAIN_HINTS = get_type_hints(PretrainRecipe)


class CommaList(click.ParamType):  # type: ignore[type-arg]  # click 8.4 has one, 8.5 two, 8.1 none
    """Values with commas between them, as a tuple."""

    def __init__(self, item: Callable[[str], Any]) -> None:
        self.item = item
        self.name = f"{item.__name__},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the values, or fail with one sentence."""
        parts = value if isinstance(value, (tuple, list)) else str(value).split(",")
        try:
            return tuple(self.item(str(part).strip()) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not {self.item.__name__} values with commas between them", param, ctx)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every field of the recipe."""
    return options_named(*HINTS)(command)


def pretraining_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every field of the recipe of a pre-training."""
    for item in reversed(fields(PretrainRecipe)):
        command = _option(item, PRETRAIN_HINTS, DIGITS, "simclr on digits")(command)
    return command


def options_named(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a command an option for each of these fields of the recipe, in its order.

    Raises:
        RelgraphError: if the recipe has no field of a name.
    """
    for name in names:
        if name not in HINTS:
            raise unknown("option", name, HINTS)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed(fields(Recipe)):
            if item.name in names:
                command = _option(item, HINTS, PRESETS["digits"])(command)
        return command

    return decorate


def _option(
    item: Field[Any], hints: Mapping[str, Any], digits: Mapping[str, Any], where: str = "digits"
) -> Callable[[Any], Any]:
    name = item.name.replace("_", "-")
    default = "" if item.default in (None, ()) else f"  [default: {item.default}]"
    if hints[item.name] is bool:
        default = f"  [default: {name if item.default else f'no-{name}'}]"
        name = f"{name}/--no-{name}"
    offline = f" [{where}: {digits[item.name]}]" if digits.get(item.name, item.default) != item.default else ""
    return click.option(
        f"--{name}",
        *item.metadata["aliases"],
        item.name,
        type=_type(item, hints),
        default=None,
        help=item.metadata["help"] + default + offline,
    )


def _type(item: Field[Any], hints: Mapping[str, Any]) -> Any:
    if item.metadata["choices"]:
        return click.Choice(item.metadata["choices"])
    hint = hints[item.name]
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return CommaList(get_args(hint)[0])
    return {int: click.INT, float: click.FLOAT, str: click.STRING, bool: click.BOOL}[hint]


def from_file(ctx: click.Context, file: Path) -> dict[str, Any]:
    """Return the options of a YAML file, each converted as the command line converts it; `null` stays `None`.

    Raises:
        RelgraphError: if the file cannot be read, for an unknown option, or a value that the option does not take.
    """
    from relgraph.training.runs import read_yaml

    named = {str(param.name): param for param in ctx.command.params}
    hints = PRETRAIN_HINTS if PRETRAIN_HINTS.keys() <= named.keys() else HINTS
    params = {name: param for name, param in named.items() if name in hints}
    converted: dict[str, Any] = {}
    for name, value in read_yaml(file).items():
        if name not in params:
            raise unknown("option", name, params)
        if value is None and type(None) in get_args(hints[name]):
            converted[name] = None
            continue
        # As text, or click would make 1 of true and of 1.5; a list is for CommaList, which takes it as it is.
        given = value if isinstance(value, tuple) and isinstance(params[name].type, CommaList) else str(value)
        try:
            converted[name] = params[name].type.convert(given, params[name], ctx)
        except click.BadParameter as error:
            raise RelgraphError(f"{file}: {name}: {error.message}") from error
    return converted
