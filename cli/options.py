"""Command-line options made from the typed options of a recipe, so that each is written once."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin

import click

from relgraph.errors import RelgraphError
from relgraph.options import PAIR, Option, check_names, options_of
from relgraph.training.presets import DIGITS as DIGITS_PRESET
from relgraph.training.pretrain_recipe import DEFAULTS, DIGITS, PretrainRecipe
from relgraph.training.recipe import OBJECTS, BaseRecipe, Recipe

Decorator = Callable[[Any], Any]
OWN_CODE = {"student": "student", "teacher": "teacher", "dataset": "data set", "method": "method", "kernel": "kernel",
            "scale": "scale", "criterion": "criterion", "refine": "refinement"}  # fmt: skip
ALLOW_CODE = click.option(
    "--allow-code", is_flag=True, help="Run code of one's own that files name, such as the recipe of a run or --config."
)
TYPES = {int: click.INT, float: click.FLOAT, str: click.STRING, bool: click.BOOL}
WORDS = {bool: "yes|no"}
OUT = click.option("--out", type=click.Path(path_type=Path), help="Run directory. [default: a new one under runs/]")
DEVICES = click.option(
    "--devices", type=click.IntRange(min=1), help="Processes, each with a GPU or with a share of the cores, over which "
    "every batch and its graph are spread. A run may be resumed on another number.  [default: 1]",
)  # fmt: skip
# What evaluate, analyze, export and report share, and how each command calls its options.
RUN = click.argument("run", type=click.Path(path_type=Path))
SPLITS = click.Choice(["train", "val", "test"])
SPLIT = click.option("--split", type=SPLITS, default="test", show_default=True)
RUN_OR_STORE = click.argument("run", type=click.Path(path_type=Path), metavar="RUN|STORE")
FIRST = click.option("--first", type=click.IntRange(min=2), metavar="N",
                     help="Only N images of the split, drawn evenly over its classes. [default: all]")  # fmt: skip
RESUME = click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue a stopped run as if it had not stopped."
)
CONFIG = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml",
    help="Options from a file, as recipe.yaml of a run; those on the command line win.",
)  # fmt: skip


class Typed(click.ParamType):  # type: ignore[type-arg]  # click 8.4 has one, 8.5 two, 8.1 none
    """What no type of click's is: several values with commas between them, or a number or a word."""

    def __init__(self, option: Option, name: str) -> None:
        self.option, self.name = option, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text, or fail with one sentence."""
        try:
            return self.option.read(value)
        except RelgraphError as error:
            self.fail(str(error), param, ctx)


def run_options(command: Any) -> Any:
    """Give a command the options of all that write a run: --out, --resume, --config and --allow-code."""
    return OUT(RESUME(CONFIG(ALLOW_CODE(command))))


def own_code_options(command: Any) -> Any:
    """Give a command that reads a run the options by which code of one's own in it is named again, or allowed."""
    again = "The run's own {}, named again: package.module:attribute or path/to/file.py:attribute."
    named = [click.option(f"--{name}", metavar="SPELLING", help=again.format(what)) for name, what in OWN_CODE.items()]
    return _each([*named, ALLOW_CODE])(command)


def image_options(command: Any) -> Any:
    """Give a command that reads IMAGES these, and the options of how they are read."""
    images = click.argument("images", nargs=-1, required=True)
    size = click.option("--batch-size", default=256, show_default=True, type=click.IntRange(min=1),
                        help="Images at a time.")  # fmt: skip
    workers = click.option("--workers", type=click.IntRange(min=0),
                           help="Processes that decode images. [default: one a core, to 8]")  # fmt: skip
    device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                          help="Where to compute.")  # fmt: skip
    return _each([images, size, workers, device])(command)


def source_option(default: str | None, told: str = "") -> Decorator:
    """Return the option --source of a command that makes graphs, with its default, or in words what it is `told`."""
    words = ("Whose vectors the teacher's graph is of: the frozen teacher's own, untouched, or those behind the run's "
             "projection, which learned from the labels. With student the student's graph alone.")  # fmt: skip
    return click.option("--source", type=click.Choice(["teacher", "projection", "student"]), default=default,
                        show_default=default is not None, help=words + told)  # fmt: skip


def recipe_options(*names: str) -> Decorator:
    """Return a decorator that gives a command options of a training's recipe: these, in its order, or all.

    Raises:
        RelgraphError: if the recipe has no option of a name.
    """
    check_names(Recipe, names)
    known = options_of(Recipe).values()
    return _each([_option(item, DIGITS_PRESET, "digits") for item in known if not names or item.name in names])


def pretraining_options(command: Any) -> Any:
    """Give a command an option for every field of the recipe of a pre-training."""
    published = {
        name: ", ".join(f"{objective} {settings[name]}" for objective, settings in DEFAULTS.items())
        for name in DEFAULTS["simclr"]
    }
    shared = options_of(BaseRecipe)
    known = sorted(options_of(PretrainRecipe).values(), key=lambda item: item.name in shared)  # its own ones first
    return _each([_option(item, DIGITS, "simclr on digits", published.get(item.name)) for item in known])(command)


def _each(decorators: list[Decorator]) -> Decorator:
    return lambda command: reduce(lambda decorated, decorator: decorator(decorated), reversed(decorators), command)


def _option(item: Option, digits: Mapping[str, Any], where: str, published: str | None = None) -> Decorator:
    """Return a command's option; its help tells the default, and what data set or objective bring in its place."""
    name = item.name.replace("_", "-")
    default = published or ("" if item.default in (None, ()) else item.default)
    if item.kinds == (bool,):
        default = name if item.default else f"no-{name}"
        name = f"{name}/--no-{name}"
    more: dict[str, Any] = {}
    if bool in item.kinds and item.words:  # the name alone means yes
        default, more = "no" if item.default is False else default, {"is_flag": False, "flag_value": "yes"}
    told = f"  [default: {default}]" if default != "" else ""
    if digits.get(item.name, item.default) != item.default:
        told += f" [{where}: {digits[item.name]}]"
    return click.option(f"--{name}", *item.aliases, item.name, type=_type(item), default=None, help=item.help + told,
                        **more)  # fmt: skip


def _type(item: Option) -> Any:
    kind, plain = item.kinds[0], [WORDS.get(kind, kind.__name__) for kind in item.kinds if kind in TYPES]
    if PAIR in item.kinds:
        return Typed(item, "|".join([*plain, "HxW"]))
    if get_origin(kind) is tuple:
        return Typed(item, f"{get_args(kind)[0].__name__},...")
    if item.words:
        return Typed(item, "|".join([*plain, *item.words])) if plain else click.Choice(item.words)
    return TYPES[kind]


def given_options(recipe: type[BaseRecipe], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a user gave: on the command line, else in `config`, a YAML file; `null` there is `None`.

    Raises:
        RelgraphError: if the file cannot be read, for an unknown option, a value that the option does not take, or code
            of one's own in the file that was not permitted.
    """
    given = {name: value for name, value in options.items() if value is not None}
    config = given.pop("config", None)
    if config is None:
        return given
    from relgraph.files import read_yaml
    from relgraph.names import check_options_of

    content = read_yaml(config)
    check_names(recipe, content)
    try:
        found = {name: options_of(recipe)[name].read(value) for name, value in content.items()}
    except RelgraphError as error:
        raise RelgraphError(f"{config}: {error}") from error
    check_options_of({name: value for name, value in found.items() if name not in given}, str(config))
    return {**found, **given}


def named_places(place: str) -> list[str]:
    """Return a place that was named, or the lines of standard input for `-`."""
    if place != "-":
        return [place]
    lines = sys.stdin.buffer.read().split(b"\n")
    return [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]


def refuse_beside_resume(resume: Path | None, options: Mapping[str, Any], *others: Any) -> None:
    """End the program with its usage if anything else is given with --resume: 0 and false are given, too.

    Code of one's own that the run names is given again.
    """
    from relgraph.names import own_spellings

    given = [value for name, value in options.items() if name not in OBJECTS or not own_spellings(str(value))]
    if resume is not None and any(other is not None for other in (*given, *others)):
        raise click.UsageError("--resume keeps the recipe of the run: give no other option with it")
