"""Command-line options made from the fields of the recipe, so that each is written once."""

import types
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

from relgraph.errors import unknown
from relgraph.training.recipe import PRESETS, Recipe

HINTS = get_type_hints(Recipe)


class CommaList(click.ParamType[tuple[Any, ...], Any]):
    """Values with commas between them, as a tuple."""

    def __init__(self, item: Callable[[str], Any]) -> None:
        self.item = item
        self.name = f"{item.__name__},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the values, or fail with one sentence."""
        if isinstance(value, (tuple, list)):
            return tuple(self.item(part) for part in value)
        try:
            return tuple(self.item(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not {self.item.__name__} values with commas between them", param, ctx)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every field of the recipe."""
    for item in reversed(fields(Recipe)):
        command = _option(item)(command)
    return command


def _option(item: Field[Any]) -> Callable[[Any], Any]:
    values = sorted({preset[item.name] for preset in PRESETS.values() if item.name in preset} - {item.default}, key=str)
    default = "" if item.default in (None, ()) else f"  [default: {item.default}]"
    return click.option(
        f"--{item.name.replace('_', '-')}",
        *item.metadata["aliases"],
        item.name,
        type=_type(item),
        default=None,
        help=item.metadata["help"]
        + default
        + (f" [digits: {PRESETS['digits'][item.name]}]" if values and item.name in PRESETS["digits"] else ""),
    )


def _type(item: Field[Any]) -> Any:
    if item.metadata["choices"]:
        return click.Choice(item.metadata["choices"])
    hint = HINTS[item.name]
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return CommaList(get_args(hint)[0])
    return {int: click.INT, float: click.FLOAT, str: click.STRING}[hint]


def from_file(ctx: click.Context, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a YAML file, each converted as the command line converts it; `null` stays `None`.

    Raises:
        RelgraphError: for an unknown option.
    """
    params = {param.name: param for param in ctx.command.params if param.name in HINTS}
    converted = {}
    for name, value in content.items():
        if name not in params:
            raise unknown("option", name, [str(known) for known in params])
        converted[name] = None if value is None else params[name].type.convert(value, params[name], ctx)
    return converted
