"""Options of methods: typed fields with a published default, a range, and the help that their class's docstring has.

The command line, YAML, Python and `relgraph methods` read the same ones.
"""

import math
import re
from dataclasses import MISSING, field, fields
from functools import lru_cache
from inspect import cleandoc
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from relgraph.errors import RelgraphError, unknown


class Range(NamedTuple):
    """Where a number must lie; a bound that is not given does not count."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether a number lies there; NaN does nowhere that has a bound."""
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        above = None if self.above is None else "positive" if self.above == 0 else f"above {self.above}"
        least = None if self.least is None else f"at least {self.least}"
        below = None if self.below is None else "finite" if self.below == math.inf else f"below {self.below}"
        most = None if self.most is None else f"at most {self.most}"
        return " and ".join(words for words in (above, least, below, most) if words is not None)


def option(
    *,
    default: Any,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    kw_only: bool = False,
) -> Any:
    """Return the field of a method's option: its published default, and the range of a number.

    Its type is the field's annotation: int, float, bool, str, a `Literal` of words, or one of these or `None`. Its help
    stands under `Args` in the docstring of the class.

    >>> from relgraph.methods import Method
    >>> class Halved(Method):
    ...     tau: float = option(default=0.5, above=0)
    >>> Halved(tau=-1)
    Traceback (most recent call last):
    relgraph.errors.RelgraphError: tau must be positive, got -1
    """
    return field(default=default, kw_only=kw_only, metadata={"range": Range(above, least, below, most)})


class Option(NamedTuple):
    """One option of a method.

    Attributes:
        name: Its name.
        kinds: The types of its values, a `Literal` among them.
        default: The published default.
        range: Where a number must lie.
        help: What its class's docstring says of it.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    range: Range
    help: str

    def check(self, value: Any) -> None:
        """Raise RelgraphError unless a value is of the option's kind, and a number in its range.

        What is no number and no word, as a tensor or a rule, is left to the method.
        """
        if value is None or not isinstance(value, (bool, int, float, str)):
            return
        words = [word for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind)]
        if isinstance(value, str):
            if words and str not in self.kinds and value not in words:
                raise unknown(self.name, value, words)
        elif not self.range.holds(value):
            raise RelgraphError(f"{self.name} must be {self.range}, got {value}")

    def read(self, text: str, owner: str) -> Any:
        """Return the value that a text spells.

        Raises:
            RelgraphError: if it is of another kind; the message names the option of `owner`.
        """
        for kind in self.kinds:
            if get_origin(kind) is Literal:
                if text in get_args(kind):
                    return text
                raise unknown(f"{self.name} of {owner}", text, get_args(kind))
            if kind is bool and text.lower() in ("true", "false", "yes", "no"):
                return text.lower() in ("true", "yes")
            if kind in (int, float):
                try:
                    number = kind(text)
                except ValueError:
                    continue
                if math.isfinite(number):
                    return number
            if kind is str:
                return text
        names = {int: "a whole number", float: "a number", bool: "true or false"}
        expected = " or ".join(names[kind] for kind in self.kinds if kind in names)
        raise RelgraphError(f"{self.name} of {owner} must be {expected}, got {text!r}")


def options_of(cls: type) -> dict[str, Option]:
    """Return the options of a method's class by name.

    >>> from relgraph.methods import KD
    >>> options_of(KD)["temperature"].default, str(options_of(KD)["temperature"].range)
    (4.0, 'positive')
    """
    return _read_options(cls)


@lru_cache
def _read_options(cls: type) -> dict[str, Option]:
    hints = get_type_hints(cls)
    found = {}
    for item in fields(cls):
        if item.init and "range" in item.metadata:
            hint = hints[item.name]
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            default = None if item.default is MISSING else item.default
            found[item.name] = Option(item.name, kinds, default, item.metadata["range"], _help(cls, item.name))
    return found


def _help(cls: type, name: str) -> str:
    """Return the words that stand behind an option's name under `Args` in the docstring of its class, or a base's."""
    for base in cls.__mro__:
        section = cleandoc(base.__doc__ or "").partition("\nArgs:\n")[2]
        match = re.search(rf"^    {name}: (.+(?:\n        .+)*)", section, re.MULTILINE)
        if match and not match[1].startswith("See `"):
            return " ".join(match[1].split())
    return ""
