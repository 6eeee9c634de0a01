"""Parsing of names into objects: methods such as `rkd` or `crd+0.9*kd`, their options, and data sets.

No other module parses names.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from relgraph.data.sources import SOURCES, Folder, Source
from relgraph.errors import RelgraphError, unknown
from relgraph.methods import METHODS
from relgraph.methods.base import Method, RunFacts
from relgraph.methods.relational import Relational
from relgraph.methods.sum import Sum
from relgraph.options import options_of


class Named(NamedTuple):
    """One method of a sum, as it was written.

    Attributes:
        name: Its name.
        cls: Its class.
        weight: The number that was written before it; `None` for the published weight.
    """

    name: str
    cls: type[Method]
    weight: float | None = None


def parse_methods(text: str, beta: float | None = None, known: Mapping[str, type[Method]] = METHODS) -> list[Named]:
    """Return the methods that a text names, `[WEIGHT*]NAME[+...]`, each with the weight it was given; none for "none".

    Args:
        text: Such as `ega`, `crd+0.9*kd` or `none`.
        beta: Weight of a single method that is written without one.
        known: The methods by name.

    Raises:
        RelgraphError: for an unknown name, a weight that is no number >= 0, a method named twice, or `beta` beside a
            sum or a written weight.

    >>> [(item.name, item.weight) for item in parse_methods("sp+0.9*kd")]
    [('sp', None), ('kd', 0.9)]
    """
    if text.strip().lower() == "none":
        return []
    # A plus after a digit and an e belongs to a number, 1e+3; that of nce+kd does not.
    parts = [part.strip() for part in re.split(r"(?<![\d.][eE])\+", text)]
    if beta is not None and (len(parts) > 1 or "*" in text):
        raise RelgraphError(f"beta is the weight of one method: write the weights of {text!r} as in 25*rkd+0.9*kd")
    found = [_parse_part(part, known, beta) for part in parts]
    names = [item.name for item in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RelgraphError(f"a sum names each method once, got {twice} more often in {text!r}")
    return found


def _parse_part(part: str, known: Mapping[str, type[Method]], weight: float | None) -> Named:
    factor, sign, name = part.rpartition("*")
    name = name.strip().lower()
    if name == "" or "," in name or name[0].isdigit():
        raise RelgraphError(f"methods are written NAME, WEIGHT*NAME or a sum of these with +, got {part!r}")
    if name == "none":
        raise RelgraphError("none is cross-entropy alone: it has no weight and stands in no sum")
    if name not in known:
        raise unknown("method", name, [*known, "none"])
    if sign:
        try:
            weight = float(factor)
        except ValueError:
            raise RelgraphError(f"the weight of {name} must be a number, got {factor.strip()!r}") from None
    if weight is not None and not 0 <= weight < math.inf:
        raise RelgraphError(f"the weight of {name} must be at least 0 and finite, got {weight}")
    return Named(name, known[name], weight)


def build(
    named: Sequence[Named], run: RunFacts, shared: Mapping[str, Any], arguments: Sequence[str] = ()
) -> Sum | None:
    """Return the methods of `parse_methods` as a sum, each with its weight; `None` if there is none.

    Args:
        named: From `parse_methods`.
        run: The networks and the data, which are passed to each method.
        shared: The run's own options by name (`graph`, `k`, `nodes`, `temperature`, ...): each method with an option of
            that name uses it, unless `arguments` give another value; `None` stands for the method's own default.
        arguments: `OPTION=VALUE`, or `METHOD.OPTION=VALUE` where several methods have the option.

    Raises:
        RelgraphError: for options that no method has or values that are not valid.
    """
    chosen = read_arguments(named, arguments)
    methods = {}
    for item in named:
        taken = {name: shared.get(of_run) for name, of_run in shared_options(item.cls, len(named) > 1).items()}
        options = {name: value for name, value in taken.items() if value is not None} | chosen[item.name]
        method = item.cls.for_run(run, **options)
        methods[item.name] = (method.weight if item.weight is None else item.weight, method)
    return Sum(methods) if methods else None


# Options that a run has as well, for all its methods.
SHARED = ("graph", "k", "neighbours", "nodes", "form", "temperature", "node_weight", "edge_weight")


def shared_options(cls: type[Method], in_sum: bool = False) -> dict[str, str]:
    """Return the options that a method shares with its run, each with its name in the run.

    The graph of a sum is that of the images of a batch: a method with a graph of its own ignores it.

    >>> from relgraph.methods import IRG
    >>> shared_options(IRG)["graph_form"]
    'form'
    """
    names = {name: name for name in SHARED if name in options_of(cls)}
    if issubclass(cls, Relational):
        names.pop("form", None)
        return {**names, cls.form_option: "form", "refine": "refine"}
    return {name: name for name in names if not (in_sum and name in ("graph", "k"))}


def has_graph(cls: type[Method]) -> bool:
    """Return whether a method compares graphs, so that a topology can be chosen."""
    return "graph" in options_of(cls)


def reads_graph(named: Sequence[Named]) -> bool:
    """Return whether any method uses the run's graph: in a sum it is that of a batch, and a memory has its own."""
    return any("graph" in shared_options(item.cls, len(named) > 1) for item in named)


def read_arguments(named: Sequence[Named], arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method by name, from `OPTION=VALUE` or `METHOD.OPTION=VALUE`.

    Raises:
        RelgraphError: for an option that no method has, or that several have, one that is given twice, or a value of
            the wrong kind.
    """
    found: dict[str, dict[str, Any]] = {item.name: {} for item in named}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        prefix, _, name = key.strip().rpartition(".")
        prefix = prefix.lower()
        if not sign or not name:
            raise RelgraphError(f"an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got {argument!r}")
        if prefix and prefix not in found:
            raise unknown("method", prefix, found)
        asked = [item for item in named if prefix in ("", item.name)]
        owners = [item for item in asked if name in options_of(item.cls)]
        if not owners:
            raise _no_option(asked, name)
        if len(owners) > 1:
            names = " or ".join(f"{item.name}.{name}" for item in owners)
            raise RelgraphError(f"{name} is an option of several methods: write {names}")
        owner = owners[0].name
        if name in found[owner]:
            raise RelgraphError(f"{name} of {owner} is given twice: {found[owner][name]} and {text.strip()}")
        found[owner][name] = options_of(owners[0].cls)[name].read(text.strip(), owner)
    return found


def _no_option(asked: Sequence[Named], name: str) -> RelgraphError:
    known = {option for item in asked for option in options_of(item.cls)}
    if known:
        return unknown("option of the method", name, known)
    names = " and ".join(item.name for item in asked) or "cross-entropy alone"
    return RelgraphError(f"there are no options of {names}, got {name!r}")


def build_method(
    text: str,
    run: RunFacts,
    shared: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = (),
    beta: float | None = None,
) -> Sum | None:
    """Return the methods that a text names, with their weights; `None` for "none", cross-entropy alone.

    Args:
        text: As for `parse_methods`.
        run: The networks and the data, which are passed to each method (`Method.for_run`).
        shared: The run's own options by name, for each method that has one of that name.
        arguments: Options of the methods, `NAME=VALUE`.
        beta: Weight of a single method, in place of the authors'.

    Raises:
        RelgraphError: for an unknown name, an option that the method does not have, or a value that is not valid.
    """
    return build(parse_methods(text, beta), run, shared or {}, arguments)


def is_checkpoint(teacher: str) -> bool:
    """Return whether a teacher is a network that relgraph trained, `checkpoint:RUN`.

    >>> is_checkpoint("checkpoint:runs/digits"), is_checkpoint("embedded:digits")
    (True, False)
    """
    return teacher.startswith("checkpoint:")


def dataset(text: str) -> Source:
    """Return the data set that a text names: a built-in one such as `cifar100`, or `folder:PATH`.

    Raises:
        RelgraphError: for an unknown name.

    >>> dataset("folder:/photos/birds").short_name
    'birds'
    """
    if text.startswith("folder:"):
        return Folder(text.removeprefix("folder:"))
    if text not in SOURCES:
        raise unknown("data set", text, [*SOURCES, "folder:PATH"])
    return SOURCES[text]
