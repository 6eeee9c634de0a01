"""Spellings of code of one's own in options and sums, and what they stand for."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from relgraph import own_code
from relgraph.errors import RelgraphError, unknown
from relgraph.own_code import Own

# Options that may name code of one's own, by the kind of thing that they name.
OWN = {"dataset": "datasets", "student": "students", "network": "students", "teacher": "teachers", "method": "methods",
       "kernel": "kernels", "scale": "scales", "criterion": "criteria", "refine": "refinements"}  # fmt: skip


def split_sum(text: str) -> list[str]:
    """Return the parts of a sum of methods."""
    # A plus after a digit and an e belongs to a number, 1e+3; that of nce+kd does not.
    return [part.strip() for part in re.split(r"(?<![\d.][eE])\+", text)]


def own_spellings(text: str) -> list[str]:
    """Return the spellings of code of one's own in a text: the text itself, or those in a sum of methods.

    >>> own_spellings("0.5*losses.py:Mine+kd"), own_spellings("timm:resnet18")
    (['losses.py:Mine'], [])
    """
    return list(filter(own_code.is_own, _parts(text)))


def _parts(text: str) -> list[str]:
    return [text] if own_code.is_own(text) else [part.rpartition("*")[2].strip() for part in split_sum(text)]


def replace_own(text: str, change: Callable[[str], str]) -> str:
    """Return a text with each spelling of code of one's own changed.

    >>> replace_own("losses.py:A+0.5*losses.py:AB", str.upper)
    'LOSSES.PY:A+0.5*LOSSES.PY:AB'
    """
    own = sorted(own_spellings(text), key=len, reverse=True)  # one may begin another
    return re.sub("|".join(map(re.escape, own)), lambda found: change(found[0]), text) if own else text


def _spelled(recipe: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what may spell code of one's own that the results of a recipe depend on, with its option and its kind."""
    for name, kind in OWN.items():
        for text in _parts(str(getattr(recipe, name, None))):
            yield name, kind, text
    for argument in getattr(recipe, "method_args", ()):
        name, _, text = argument.partition("=")
        yield "method_args", OWN.get(name.strip().rpartition(".")[2], ""), text.strip()


def own_code_of(recipe: Any) -> list[str]:
    """Return the spellings of code of one's own in a recipe, but for loggers."""
    return [text for _, _, text in _spelled(recipe) if own_code.is_own(text)]


def settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the whole paths of files of code of one's own, and tuples in place of lists."""

    def whole(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and name not in OWN:
            return tuple(whole(name, part) for part in value)
        if not isinstance(value, str) or name not in {*OWN, "method_args", "logger"}:
            return value
        begin = value.find("=") + 1 if name == "method_args" else 0
        return value[:begin] + replace_own(value[begin:].strip(), own_code.absolute)

    return {name: whole(name, value) for name, value in options.items()}


def origins(recipe: Any) -> dict[str, dict[str, str]]:
    """Return where the code of one's own, and what installed packages registered, came from, by option of a recipe."""
    found: dict[str, dict[str, str]] = {}
    for name, kind, text in _spelled(recipe):
        if own_code.is_own(text) or text in own_code.registered(kind):
            found[name if name not in found else f"{name} {text}"] = own_code.origin(kind, text)
    return found


def check_permitted(text: str, owner: str) -> None:
    """Raise RelgraphError if a text that a file holds names code of one's own that was not permitted."""
    for part in own_spellings(text):
        own_code.check_permitted(part, owner)


def check_options_of(content: Mapping[str, Any], owner: str) -> None:
    """Raise RelgraphError if options that a file holds name code of one's own that was not permitted."""
    for name in {*OWN, "method_args", "logger"} & content.keys():
        for text in texts_of(content[name]):
            check_permitted(text.partition("=")[2] if name == "method_args" else text, owner)


def texts_of(value: Any) -> list[str]:
    """Return the text of an option's value, or of each of several."""
    return [*map(str, value)] if isinstance(value, (tuple, list)) else [str(value)]


def find_own(kind: str, spec: object) -> tuple[Any, str] | None:
    """Return what code of one's own a spelling or an object stands for and its spelling, `None` for other spellings.

    Raises:
        RelgraphError: if it cannot be found or imported, or was an object of an earlier process.
    """
    own = Own.of(spec)
    if isinstance(own, Own):
        return own.target, own.spelling
    spec = str(spec)
    if spec.startswith("object:"):
        one = kind.removesuffix("s")
        told = f"pass it again, {one}=..., or spell it package.module:attribute or path/to/file.py:attribute"
        raise RelgraphError(f"the {one} was {spec.removeprefix('object:')}, an object in Python: {told}")
    if own_code.is_own(spec):
        return own_code.load(spec), spec
    if spec.endswith(".py"):
        raise RelgraphError(f"{spec} is a file of code: name what is in it, as {spec}:ATTRIBUTE")
    return (own_code.load_registered(kind, spec), spec) if spec in own_code.registered(kind) else None


def logger(spec: object) -> tuple[Any, str]:
    """Return what a logger's spelling stands for and the spelling; or an object.

    Raises:
        RelgraphError: for an unknown name, or code of one's own that cannot be imported.
    """
    own = find_own("loggers", spec)
    if own is None:
        raise unknown("logger", str(spec), ["tensorboard", "none", *own_code.registered("loggers")])
    return own
