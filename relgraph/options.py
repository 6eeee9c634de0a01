"""Typed options: annotated fields of a class with a default, a range and a help text.

Methods and recipes have them. Python, YAML files and the command line read the same ones; pydantic checks the values.
"""

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from inspect import cleandoc
from numbers import Integral
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from relgraph.errors import RelgraphError, unknown

# Each bound in words, and as pydantic calls it.
BOUNDS = {"above": ("above", "gt"), "least": ("at least", "ge"), "below": ("below", "lt"), "most": ("at most", "le")}
OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
PAIR = tuple[int, int]  # height and width, as a text HEIGHTxWIDTH
KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    PAIR: "HEIGHTxWIDTH",
    tuple[int, ...]: "a list of whole numbers",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a list of words",
}


# A file may hold lists of lists: of these a message has the beginning.
ARGUMENTS = ("method_args", "teacher_args")  # options that a mapping may stand for
shown = reprlib.Repr().repr


def option(
    *, default: Any, kw_only: bool = False, term: str = "", aliases: tuple[str, ...] = (), **bounds: float
) -> Any:
    """Return the field of an option of a dataclass: its default, and the range of a number.

    Its type is the field's annotation: int, float, bool, str, a `Literal` of words, a tuple of any length of numbers or
    words, `PAIR`, or one of these or `None`; a number is finite, its range given by `above`, `least`, `below` and
    `most`.
    Its help is the entry under `Args` in the docstring of the class. The class calls `check_options` when it is made.

    Args:
        default: Its value where none is given; of a method the published one.
        kw_only: Whether the constructor takes it by name alone.
        term: The term of a method's loss whose weight it is, where there are several terms.
        aliases: Further names on the command line, such as `-r`.
        bounds: The range, by the names above.

    Raises:
        TypeError: for a bound of another name.

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
    return field(default=default, kw_only=kw_only, metadata={"bounds": bounds, "term": term, "aliases": aliases})


@dataclass(frozen=True)
class Option:
    """One option of a class.

    Attributes:
        name: Its name.
        kinds: The types of its values, a `Literal` among them.
        default: Its default.
        help: Its description in its class's docstring.
        bounds: Where a number must lie, by names of `BOUNDS`.
        term: The term of the loss whose weight it is; empty for other options.
        aliases: Further names on the command line.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    help: str
    bounds: Mapping[str, float]
    term: str
    aliases: tuple[str, ...]

    def check(self, value: Any) -> None:
        """Check a value as it is, without a conversion: a text is no number.

        Where the annotation names other types as well, such as a rule, their values are left to the class.

        Raises:
            RelgraphError: if it is of another kind, or a number out of range.
        """
        from pydantic import ValidationError

        if not self.of_plain_kinds and not isinstance(value, (bool, int, float, str, NoneType)):
            return
        try:
            _adapter(self._plain, tuple(self.bounds.items())).validate_python(value, strict=True)
        except ValidationError as error:
            if self.bounds and OUT_OF_RANGE & {found["type"] for found in error.errors()}:
                finite = "finite and " * (value == math.inf and not {"below", "most"} & self.bounds.keys())
                raise RelgraphError(f"{self.name} must be {finite}{self.range}, got {value}") from None
            raise self._of_another_kind(self.name, value, KINDS | {PAIR: "(HEIGHT, WIDTH)"}) from None

    def read(self, given: Any, owner: str = "") -> Any:
        """Return the value that a text, or what a YAML file holds, stands for; `check` tests its range.

        A text with commas is a list, where the option is one; of a pair an "x" stands between the numbers.

        Raises:
            RelgraphError: if it is of another kind; the message names the option of `owner`.
        """
        from pydantic import ValidationError

        if given is None and NoneType in self.kinds:
            return None
        listed = any(get_origin(kind) is tuple for kind in self.kinds)
        parts = given if isinstance(given, (tuple, list)) else str(given).split("x" if PAIR in self.kinds else ",")
        listed = listed and not (int in self.kinds and len(parts) == 1)
        # As text: a number would become a switch, and a switch a number.
        text = tuple(str(part).strip() for part in parts) if listed else str(given)
        try:
            return _adapter(self._plain, ()).validate_python(text)
        except ValidationError:
            raise self._of_another_kind(f"{self.name} of {owner}" if owner else self.name, given) from None

    @property
    def of_plain_kinds(self) -> bool:
        """Whether a text can stand for any of its values: no rules, tensors or objects are among them."""
        return self._plain == self.kinds

    @property
    def words(self) -> list[str]:
        """The words that it may be; empty if any will do, or none."""
        return [word for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind)]

    @property
    def range(self) -> str:
        """The bounds in words; empty if there are none."""
        numbers = {name: bound if isinstance(bound, int) else f"{bound:g}" for name, bound in self.bounds.items()}
        return " and ".join(f"{BOUNDS[name][0]} {number}" for name, number in numbers.items())

    @property
    def _plain(self) -> tuple[Any, ...]:
        """The kinds that a text can stand for."""
        return tuple(kind for kind in self.kinds if kind in (*KINDS, NoneType) or get_origin(kind) is Literal)

    def _of_another_kind(self, name: str, value: Any, words: Mapping[Any, str] = KINDS) -> RelgraphError:
        kinds = [words[kind] for kind in self.kinds if kind in words]
        if self.words and isinstance(value, str) and not kinds:
            return unknown(name, value, self.words)
        told = [*kinds, *self.words] if kinds else [", ".join(self.words)]
        return RelgraphError(f"{name} must be {' or '.join(told)}, got {shown(value)}")


def with_arguments_written(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which arguments that are given as a mapping stand as `NAME=VALUE`, as a command has them.

    Raises:
        RelgraphError: for an argument that is no text, number or switch.

    >>> with_arguments_written({"method_args": {"tau": 0.2, "head": "mlp", "official": True}, "k": 8})
    {'method_args': ('tau=0.2', 'head=mlp', 'official=true'), 'k': 8}
    """

    def written(option: str, name: str, value: Any) -> str:
        value = value.item() if _is_foreign(value) else value
        if not isinstance(value, (str, int, float)):
            raise RelgraphError(f"{name} of {option} must be a text, a number or a switch, got {shown(value)}")
        return f"{name}={str(value).lower() if isinstance(value, bool) else value}"

    mappings = {name: options[name] for name in ARGUMENTS if isinstance(options.get(name), Mapping)}
    return {
        **options,
        **{name: tuple(written(name, *item) for item in given.items()) for name, given in mappings.items()},
    }


def check_whole(**numbers: object) -> None:
    """Check arguments of a function that are whole numbers from 1 on, or not given.

    Raises:
        RelgraphError: for the first that is anything else.
    """
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
            raise RelgraphError(f"{name} must be a whole number of at least 1, got {value!r}")


@cache
def _adapter(kinds: tuple[Any, ...], bounds: tuple[tuple[str, float], ...]) -> Any:
    """Return pydantic's validator of one of several kinds; the bounds are those of the numbers among them."""
    from pydantic import ConfigDict, Field, TypeAdapter

    limits: dict[str, Any] = {BOUNDS[name][1]: bound for name, bound in bounds}
    whole: Any = Annotated[int, Field(**limits)]
    of: dict[Any, Any] = {int: whole, float: Annotated[float, Field(**limits)], PAIR: tuple[whole, whole]}
    bounded = [of.get(kind, kind) for kind in kinds]
    any_of_them: Any = Union[*bounded]
    return TypeAdapter(any_of_them, config=ConfigDict(allow_inf_nan=False))


def options_of(cls: type) -> dict[str, Option]:
    """Return the options of a class by name, those of its base class first.

    >>> from relgraph.methods import KD
    >>> options_of(KD)["temperature"].default, options_of(KD)["temperature"].range
    (4.0, 'above 0')
    """
    return _read_options(cls)  # which has no types, since mypy takes a class of methods for one without a hash


@cache
def _read_options(cls: Any) -> dict[str, Option]:
    hints = get_type_hints(cls)
    found = {}
    for item in fields(cls):
        if item.init and "bounds" in item.metadata:
            hint = hints[item.name]
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            found[item.name] = Option(item.name, kinds, item.default, _help(cls, item.name), **item.metadata)
    return found


def check_options(owner: Any) -> None:
    """Check every option of an object; numbers of numpy and torch become Python's, which can be written down.

    Raises:
        RelgraphError: for the first value that is of another kind or out of range.
    """
    for name, item in options_of(type(owner)).items():
        value = getattr(owner, name)
        item.check(value)
        given = value if isinstance(value, tuple) else (value,)
        if item.of_plain_kinds and any(map(_is_foreign, given)):
            plain = tuple(each.item() if _is_foreign(each) else each for each in given)
            object.__setattr__(owner, name, plain if isinstance(value, tuple) else plain[0])  # of a frozen dataclass


def _is_foreign(value: Any) -> bool:
    """Return whether a value is a number of numpy, or a tensor of one."""
    return callable(getattr(value, "item", None))


def check_names(cls: type, names: Iterable[str]) -> None:
    """Check that a class has an option of each of these names.

    Raises:
        RelgraphError: for the first that it does not have, with the nearest of those that it has.
    """
    for name in names:
        if name not in options_of(cls):
            raise unknown("option", name, options_of(cls))


def _help(cls: type, name: str) -> str:
    """Return the description of an option under `Args` in the docstring of its class, or of a base class."""
    for base in cls.__mro__:
        section = cleandoc(base.__doc__ or "").partition("\nArgs:\n")[2]
        match = re.search(rf"^    {name}: (.+(?:\n        .+)*)", section, re.MULTILINE)
        if match and not match[1].startswith("See `"):
            return " ".join(match[1].split())
    return ""
