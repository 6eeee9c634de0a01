"""Options of methods: typed fields with a published default, a range, and the help that their class's docstring has.

The command line, YAML, Python and `relgraph methods` read the same ones.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field, fields
from functools import lru_cache
from inspect import cleandoc
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from relgraph.errors import RelgraphError, unknown

Bounds = Mapping[str, float]
FACT = r"^(Paper|Differs|Kernel|Topology|Criterion): (.+(?:\n    .+)*)"
BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}


def option(*, default: Any, kw_only: bool = False, term: str = "", **bounds: float) -> Any:
    """Return the field of a method's option: its published default, and the range of a number.

    Its type is the field's annotation: int, float, bool, str, a `Literal` of words, or one of these or `None`; its
    range is given by `above`, `least`, `below` and `most`. Its help is the entry under `Args` in the docstring of the
    class. The option that is the weight of one of several terms of the loss names that `term`.

    >>> from relgraph.methods import Method
    >>> class Halved(Method):
    ...     tau: float = option(default=0.5, above=0, most=1)
    >>> Halved(tau=-1)
    Traceback (most recent call last):
    relgraph.errors.RelgraphError: tau must be above 0 and at most 1, got -1
    """
    unknown_bounds = bounds.keys() - BOUNDS.keys()
    if unknown_bounds:
        raise TypeError(f"the bounds of an option are {', '.join(BOUNDS)}, got {', '.join(sorted(unknown_bounds))}")
    return field(default=default, kw_only=kw_only, metadata={"bounds": bounds, "term": term})


class Option(NamedTuple):
    """One option of a method.

    Attributes:
        name: Its name.
        kinds: The types of its values, a `Literal` among them.
        default: The published default.
        bounds: Where a number must lie, by names of `BOUNDS`.
        help: Its description in its class's docstring.
        term: The term of the loss whose weight it is; empty for other options.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    bounds: Bounds
    help: str
    term: str = ""

    def check(self, value: Any) -> None:
        """Raise RelgraphError unless a value is of the option's kind, and a number in its range.

        What is no number and no word, as a tensor or a rule, is left to the method.
        """
        if value is not None and not isinstance(value, (bool, int, float, str)):
            return
        fitting = (int, float) if type(value) is int else (type(value),)
        if value not in self.words and not any(kind in self.kinds for kind in fitting):
            raise self._refused(self.name, value)
        bounds = self.bounds.items() if isinstance(value, (int, float)) else ()
        if not all(BOUNDS[name][0](value, bound) for name, bound in bounds):  # NaN is in no range
            raise RelgraphError(f"{self.name} must be {self.range}, got {value}")

    @property
    def words(self) -> list[str]:
        """The words that it may be; empty if any will do, or none."""
        return [word for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind)]

    @property
    def range(self) -> str:
        """The bounds in words; empty if there are none."""
        return " and ".join(f"{BOUNDS[name][1]} {bound:g}" for name, bound in self.bounds.items())

    def read(self, text: str, owner: str) -> Any:
        """Return the value of a text.

        Raises:
            RelgraphError: if it is of another kind; the message names the option of `owner`.
        """
        if text in self.words:
            return text
        for kind in self.kinds:
            with suppress(ValueError, KeyError):
                return PARSERS[kind](text)
        raise self._refused(f"{self.name} of {owner}", text)

    def _refused(self, name: str, value: Any) -> RelgraphError:
        if self.words and isinstance(value, str):
            return unknown(name, value, self.words)
        kinds = [WORDS[kind] for kind in self.kinds if kind in WORDS] or [", ".join(self.words)]
        return RelgraphError(f"{name} must be {' or '.join(kinds)}, got {value!r}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


PARSERS: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: _finite,
    bool: lambda text: {"true": True, "yes": True, "false": False, "no": False}[text.lower()],
    str: str,
}
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def options_of(cls: type) -> dict[str, Option]:
    """Return the options of a method's class by name.

    >>> from relgraph.methods import KD
    >>> options_of(KD)["temperature"].default, options_of(KD)["temperature"].range
    (4.0, 'above 0')
    """
    return _read_options(cls)


@lru_cache
def _read_options(cls: type) -> dict[str, Option]:
    hints = get_type_hints(cls)
    found = {}
    for item in fields(cls):
        if item.init and "bounds" in item.metadata:
            hint = hints[item.name]
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            facts = item.metadata["bounds"], _help(cls, item.name), item.metadata["term"]
            found[item.name] = Option(item.name, kinds, item.default, *facts)
    return found


def term_options(cls: type) -> tuple[tuple[str, str], ...]:
    """Return each term of the loss that has a weight among the options, and the option's name."""
    return _read_terms(cls)


@lru_cache
def _read_terms(cls: type) -> tuple[tuple[str, str], ...]:
    return tuple((option.term, name) for name, option in _read_options(cls).items() if option.term)


def _help(cls: type, name: str) -> str:
    """Return the description of an option under `Args` in the docstring of its class, or of a base class."""
    for base in cls.__mro__:
        section = cleandoc(base.__doc__ or "").partition("\nArgs:\n")[2]
        match = re.search(rf"^    {name}: (.+(?:\n        .+)*)", section, re.MULTILINE)
        if match and not match[1].startswith("See `"):
            return " ".join(match[1].split())
    return ""


def facts_of(cls: type) -> dict[str, str]:
    """Return the facts of a method's docstring, a line each: its `Paper`, where it `Differs`, its parts in words.

    >>> from relgraph.methods import KD
    >>> facts_of(KD)["Criterion"]
    'KL T^2'
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for key, text in re.findall(FACT, cleandoc(base.__doc__ or ""), re.MULTILINE):
            found[key] = " ".join(text.split())
    return found
