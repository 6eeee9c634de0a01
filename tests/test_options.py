"""Typed options of a class: what each kind takes and refuses, from Python and as text, and in which words."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.options import PAIR, check_names, check_options, option, options_of
from tests.checks import assert_refused


@dataclass
class Every:
    """Every kind of option.

    Args:
        tau: Temperature > 0, in one line.
        share: Share in [0, 1), which takes
            two lines.
        side: A word.
    """

    tau: float = option(default=0.5, above=0)
    share: float = option(default=0.25, least=0, below=1)
    ratio: float | None = option(default=None, least=0, most=1)
    seed: int = option(default=3, least=1, most=2**31)
    exact: bool = option(default=False)
    side: Literal["left", "right"] = option(default="left")
    most: Literal["all"] | float = option(default="all")
    limit: int | Literal["none"] | None = option(default=None)
    path: str = option(default="a", aliases=("-p",))
    steps: tuple[int, ...] | None = option(default=None)
    means: tuple[float, ...] = option(default=())
    words: tuple[str, ...] = option(default=())
    graph: str | Tensor = option(default="dense")
    size: int | PAIR | None = option(default=None, least=1)
    no_option: int = 7

    def __post_init__(self) -> None:
        check_options(self)


@dataclass
class Inheriting(Every):
    """A class of the same options.

    Args:
        tau: Another word.
        share: See `Every`.
    """


def test_numbers_lie_in_their_range() -> None:
    """A number is finite, whatever its range."""
    ranges: tuple[tuple[str, list[Any], list[Any], str], ...] = (
        ("tau", [1e-9, 1, 1e9], [0, 0.0, -1.0, math.nan, -math.inf], "above 0"),
        ("share", [0, 0.999], [-1, 1, math.nan, math.inf], "at least 0 and below 1"),
        ("ratio", [None, 0, 1], [-0.1, 1.1, math.nan], "at least 0 and at most 1"),
        ("size", [None, 1, (1, 2)], [0, (0, 2)], "at least 1"),
        ("seed", [1, 2**31], [0, -1, 2**31 + 1], "at least 1 and at most 2147483648"),
    )
    for name, accepted, wrong, words in ranges:
        assert options_of(Every)[name].range == words
        for value in accepted:
            assert getattr(Every(**{name: value}), name) == value
        for value in wrong:
            assert_refused((partial(Every, **{name: value}), f"{name} must be {words}, got {value}"))


def test_infinity_is_told_where_the_range_does_not_exclude_it() -> None:
    assert_refused((partial(Every, tau=math.inf), "tau must be finite and above 0, got inf"))


def test_values_of_another_kind_are_told() -> None:
    cases: list[tuple[str, Any, str]] = [
        ("tau", "5e-4", "tau must be a number, got '5e-4'"),  # as PyYAML reads 5e-4
        ("tau", None, "tau must be a number, got None"),
        ("tau", True, "tau must be a number, got True"),
        ("seed", 2.0, "seed must be a whole number, got 2.0"),
        ("seed", True, "seed must be a whole number, got True"),
        ("exact", 1, "exact must be true or false, got 1"),
        ("side", "rigth", "unknown side 'rigth': did you mean 'right'? (known: left, right)"),
        ("side", 3, "side must be left, right, got 3"),
        ("most", "al", "most must be a number or all, got 'al'"),
        ("most", math.nan, "most must be a number or all, got nan"),
        ("path", 3, "path must be a word, got 3"),
        ("steps", 3, "steps must be a list of whole numbers, got 3"),
        ("means", (0.5, "b"), "means must be a list of numbers, got (0.5, 'b')"),
        ("words", "tau=2", "words must be a list of words, got 'tau=2'"),
        ("words", None, "words must be a list of words, got None"),
        ("words", ("a", 3), "words must be a list of words, got ('a', 3)"),
        ("graph", 3, "graph must be a word, got 3"),
        ("size", "32x48", "size must be a whole number or (HEIGHT, WIDTH), got '32x48'"),
        ("size", [32, 48], "size must be a whole number or (HEIGHT, WIDTH), got [32, 48]"),
    ]
    assert_refused(*((partial(Every, **{name: value}), told) for name, value, told in cases))


def test_what_is_of_its_kind_is_kept_as_it_is() -> None:
    edges = torch.tensor([[1], [0]])
    kept = {"tau": 1, "side": "right", "most": 0.5, "steps": (1, 2), "means": (1, 0.5), "words": ("a",), "graph": edges}
    made = Every(**kept)  # type: ignore[arg-type]
    assert all(getattr(made, name) is value for name, value in kept.items())


def test_numbers_of_numpy_and_torch_become_plain_ones() -> None:
    """As of a loop over `np.linspace`; they could not be written into a recipe, or read again."""
    made = Every(tau=np.float32(0.5), ratio=np.float64(0.25), means=(np.float64(0.5), 1.0), share=torch.tensor(0.5))  # type: ignore[arg-type]
    found = (made.tau, made.ratio, *made.means, made.share)
    assert found == (0.5, 0.25, 0.5, 1.0, 0.5) and {type(value) for value in found} == {float}


def test_texts_are_read_as_the_kind_of_the_option() -> None:
    read: dict[str, dict[str, Any]] = {
        "tau": {"2": 2.0, "1e-3": 0.001},
        "seed": {"7": 7},
        "exact": {"true": True, "NO": False},
        "side": {"right": "right"},
        "most": {"all": "all", "0.5": 0.5},
        "limit": {"4": 4, "none": "none"},
        "path": {"x=1": "x=1"},
        "steps": {"2, 5": (2, 5)},
        "means": {".5": (0.5,)},
        "words": {"a=1,b": ("a=1", "b")},
        "graph": {"knn": "knn"},
        "size": {"32": 32, "180x240": (180, 240)},
    }
    for name, texts in read.items():
        assert repr({text: options_of(Every)[name].read(text) for text in texts}) == repr(texts), name


def test_what_a_yaml_file_holds_is_read_as_its_text() -> None:
    read: dict[str, tuple[Any, Any]] = {
        "ratio": (None, None), "tau": ("5e-4", 5e-4), "share": (2, 2.0), "steps": ([2, 5], (2, 5)), "path": (3, "3"),
        "size": ([180, 240], (180, 240)),
    }  # fmt: skip
    assert {name: (given, options_of(Every)[name].read(given)) for name, (given, _) in read.items()} == read
    wrong: tuple[Any, ...] = (None, True, 1.5, {})
    read_seed = options_of(Every)["seed"].read
    assert_refused(*((partial(read_seed, given), f"seed must be a whole number, got {given!r}") for given in wrong))


def test_texts_of_another_kind_are_refused() -> None:
    cases = [
        ("tau", "much", "tau of every must be a number, got 'much'"),
        ("tau", "nan", "tau of every must be a number, got 'nan'"),
        ("ratio", "inf", "ratio of every must be a number, got 'inf'"),
        ("ratio", "none", "ratio of every must be a number, got 'none'"),
        ("seed", "2.5", "seed of every must be a whole number, got '2.5'"),
        ("seed", "", "seed of every must be a whole number, got ''"),
        ("exact", "maybe", "exact of every must be true or false, got 'maybe'"),
        ("side", "lef", "unknown side of every 'lef': did you mean 'left'? (known: left, right)"),
        ("limit", "non", "limit of every must be a whole number or none, got 'non'"),
        ("size", "180x240x3", "size of every must be a whole number or HEIGHTxWIDTH, got '180x240x3'"),
        ("steps", "1,b", "steps of every must be a list of whole numbers, got '1,b'"),
    ]
    read = {name: found.read for name, found in options_of(Every).items()}
    assert_refused(*((partial(read[name], text, "every"), told) for name, text, told in cases))


def test_help_stands_in_the_docstring_of_the_class_or_its_base() -> None:
    own, inherited = options_of(Every), options_of(Inheriting)
    assert "no_option" not in own and own.keys() == inherited.keys()
    assert own["tau"].help == "Temperature > 0, in one line." and inherited["tau"].help == "Another word."
    assert own["share"].help == inherited["share"].help == "Share in [0, 1), which takes two lines."
    assert (own["seed"].help, own["path"].aliases, own["seed"].default) == ("", ("-p",), 3)


def test_names_and_bounds_of_no_option_are_told() -> None:
    check_names(Every, ["tau", "side"])
    told = "unknown option 'sid': did you mean 'side'? (known: exact, graph, …"
    assert_refused((lambda: check_names(Every, ["tau", "sid"]), told))
    with pytest.raises(TypeError, match=r"^the bounds of an option are above, least, below, most, got over$"):
        option(default=1, over=0)
