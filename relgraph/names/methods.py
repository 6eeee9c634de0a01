"""Names of methods such as `crd+0.9*kd`, and their options."""

import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain, count
from typing import Any, NamedTuple

from relgraph import own_code
from relgraph.errors import RelgraphError, unknown
from relgraph.graph.blocks import layers_of
from relgraph.graph.relation import Relation
from relgraph.methods import METHODS
from relgraph.methods.base import Method, RunFacts
from relgraph.methods.own import Related
from relgraph.methods.relational import Relational
from relgraph.methods.sum import Sum
from relgraph.names.own import find_own, split_sum
from relgraph.names.parts import part_of
from relgraph.names.refinements import refiner
from relgraph.options import Option, options_of
from relgraph.own_code import Own, telling


class Named(NamedTuple):
    """One method of a sum, as it was written.

    Attributes:
        name: Its name.
        cls: Its class.
        weight: The number that was written before it; `None` for the published weight.
        made: The method itself, where it was given as an instance: it has its options already, and is copied.
        given: Arguments of its constructor besides its options.
    """

    name: str
    cls: type[Method]
    weight: float | None = None
    made: Method | None = None
    given: Mapping[str, Any] = {}

    @property
    def options(self) -> Mapping[str, Option]:
        """The options that can be chosen, by name."""
        return options_of(self.cls) if self.made is None else {}

    def shared(self, in_sum: bool = False) -> dict[str, str]:
        """Return the `shared_options` that can be chosen."""
        return shared_options(self.cls, in_sum) if self.made is None else {}

    def build(self, run: RunFacts, options: Mapping[str, Any]) -> Method:
        """Return the method, built for a run if it was not before; what is learned in it is trained as a copy."""
        if self.made is not None:
            return deepcopy(self.made)
        given = {**self.given, **options}
        if any(layers_of(tuple(given.values()))):
            given = deepcopy(given)
        with telling(f"{self.name} cannot be built"):
            return self.cls.for_run(run, **given)


# A method in Python, and what stands for one or several: a text, a method, or a list of these, with weights or without.
OwnMethod = type[Method] | Method | Relation


Methods = str | Own | OwnMethod | Sequence[str | OwnMethod | tuple[float, str | OwnMethod]]


def parse_methods(spec: Methods, beta: float | None = None, known: Mapping[str, type[Method]] = METHODS) -> list[Named]:
    """Return the methods that are meant, each with the weight it was given; none for "none".

    Args:
        spec: A text, `[WEIGHT*]NAME[+...]`, such as `ega`, `crd+0.9*kd` or `none`; or in Python a class derived from
            `Method`, an instance of one, a bare `Relation`, a list of these and of names, each alone or as (weight,
            method), or a `Sum`.
        beta: Weight of a single method that is written without one.
        known: The methods by name.

    Raises:
        RelgraphError: for an unknown name, what is no method, a weight that is no number >= 0, a method named twice,
            or `beta` beside a sum or a written weight.

    >>> [(item.name, item.weight) for item in parse_methods("sp+0.9*kd")]
    [('sp', None), ('kd', 0.9)]
    >>> [(item.name, item.weight) for item in parse_methods([(0.5, Relation()), METHODS["sp"](), "2*kd"])]
    [('related', 0.5), ('sp', None), ('kd', 2.0)]
    """
    spec = spec.target if isinstance(spec, Own) else spec
    parts = _summands(spec)
    written = repr(spec) if isinstance(spec, str) else "the sum"
    weighed = any(weight is not None or (isinstance(given, str) and "*" in given) for weight, given in parts)
    if beta is not None and (len(parts) > 1 or weighed):
        raise RelgraphError(f"beta is the weight of one method: write the weights of {written} as in 25*rkd+0.9*kd")
    if isinstance(spec, Sum):
        return [Named(name, type(method), spec.weights[name], method) for name, method in spec.each()]
    found: dict[str, Named] = {}
    for weight, given in parts:
        if not isinstance(given, str):
            item = _own_method(given, beta if weight is None else weight, found)
        else:
            item = _parse_part(given if weight is None else f"{weight}*{given}", known, beta)
            if item.name in found:
                raise RelgraphError(f"a sum names each method once, got {item.name} more often in {written}")
        found[item.name] = item
    return list(found.values())


def _summands(spec: Any) -> list[tuple[Any, Any]]:
    """Return the methods of a sum as they are given, each with the weight that stands beside it, or `None`."""
    if isinstance(spec, str):
        return [] if spec.strip().lower() == "none" else [(None, part) for part in split_sum(spec)]
    if isinstance(spec, Sum):
        return [(spec.weights[name], method) for name, method in spec.each()]
    parts = spec if isinstance(spec, list) else [spec]
    if not parts:
        raise RelgraphError("a sum of methods needs at least one, got none: cross-entropy alone is 'none'")
    return [part if isinstance(part, tuple) and len(part) == 2 else (None, part) for part in parts]


def _own_method(given: Any, weight: float | None, taken: Container[str], name: str = "") -> Named:
    """Return what a class, an instance or a relation stands for in a sum; a name that is taken gets a number."""
    made = given if isinstance(given, Method) else None
    cls = Related if isinstance(given, Relation) else given if made is None else type(made)
    if not (isinstance(cls, type) and issubclass(cls, Method)) or cls is Sum:
        expected = "a name, a class derived from Method, an instance of one, or a Relation"
        raise RelgraphError(f"a method of a sum is {expected}, got {getattr(given, '__name__', type(given).__name__)}")
    own = name or cls.__name__.lower()
    name = next(name for name in chain([own], (f"{own}_{i}" for i in count(2))) if name not in taken)
    facts = {"relation": given} if isinstance(given, Relation) else {}
    return Named(name, cls, _checked(name, weight), made, facts)


def _parse_part(part: str, known: Mapping[str, type[Method]], weight: float | None) -> Named:
    factor, sign, written = part.rpartition("*")
    own = find_own("methods", written.strip()) if written.strip().lower() not in known else None
    name = (written if own is None else re.split("[:.]", own[1])[-1]).strip().lower()
    if name == "" or "," in name or name[0].isdigit():
        raise RelgraphError(f"methods are written NAME, WEIGHT*NAME or a sum of these with +, got {part!r}")
    if name == "none":
        raise RelgraphError("none is cross-entropy alone: it has no weight and stands in no sum")
    if own is None and name not in known:
        raise unknown("method", name, [*known, *own_code.registered("methods"), "none"])
    if sign:
        try:
            weight = float(factor)
        except ValueError:
            raise RelgraphError(f"the weight of {name} must be a number, got {factor.strip()!r}") from None
    return Named(name, known[name], _checked(name, weight)) if own is None else _own_method(own[0], weight, (), name)


def _checked(name: str, weight: float | None) -> float | None:
    if weight is not None and not (isinstance(weight, int | float) and 0 <= weight < math.inf):
        raise RelgraphError(f"the weight of {name} must be at least 0 and finite, got {weight!r}")
    return weight


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
        taken = {name: shared.get(of_run) for name, of_run in item.shared(len(named) > 1).items()}
        options = {name: value for name, value in taken.items() if value is not None} | chosen[item.name]
        if "refine" in options:
            options["refine"] = refiner(options["refine"])
        with _naming(item.name if len(named) > 1 else ""):
            method = item.build(run, {name: part_of(item.options.get(name), value) for name, value in options.items()})
        methods[item.name] = (method.weight if item.weight is None else item.weight, method)
    return Sum(methods) if methods else None


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of an error which method of a sum it is about, where it does not name it."""
    try:
        yield
    except RelgraphError as error:
        if not name or name in str(error).lower():
            raise
        raise RelgraphError(f"{name}: {error}") from error


# Options that a run has as well, for all its methods.
SHARED = (
    "graph", "k", "neighbours", "nodes", "form", "kernel", "scale", "criterion", "temperature", "pool",
    "node_weight", "edge_weight",
)  # fmt: skip


def shared_options(cls: type[Method], in_sum: bool = False) -> dict[str, str]:
    """Return the options that a method shares with its run, each with its name in the run.

    The graph of a sum is that of the images of a batch: a method with a graph of its own ignores it.

    >>> from relgraph.methods import IRG
    >>> shared_options(IRG)["graph_form"]
    'form'
    """
    options = options_of(cls)
    names = {name: name for name in SHARED if name in options}
    if issubclass(cls, Relational):
        names.pop("form", None)
        return {**names, cls.form_option: "form", "refine": "refine"}
    return {name: name for name in names if not (in_sum and name in ("graph", "k"))}


def reads_graph(named: Sequence[Named]) -> bool:
    """Return whether any method uses the run's graph: in a sum it is that of a batch, and a memory has its own."""
    return any("graph" in item.shared(len(named) > 1) for item in named)


def may_read_all(item: Named) -> bool:
    """Return whether a method names no part of the outputs that it reads, so that it may read every one.

    >>> from relgraph.methods import KD
    >>> may_read_all(Named("kd", KD))
    False
    """
    return not item.cls.reads and "nodes" not in item.options and getattr(item.cls, "nodes", None) is None


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
        owners = [item for item in asked if name in item.options]
        if not owners:
            raise _no_option(asked, name)
        if len(owners) > 1:
            names = " or ".join(f"{item.name}.{name}" for item in owners)
            raise RelgraphError(f"{name} is an option of several methods: write {names}")
        owner = owners[0].name
        if name in found[owner]:
            raise RelgraphError(f"{name} of {owner} is given twice: {found[owner][name]} and {text.strip()}")
        option = owners[0].options[name]
        found[owner][name] = part_of(option, option.read(text.strip(), owner))
    return found


def _no_option(asked: Sequence[Named], name: str) -> RelgraphError:
    known = {option for item in asked for option in item.options}
    if known:
        return unknown("option of the method", name, known)
    names = " and ".join(item.name for item in asked) or "cross-entropy alone"
    if any(item.made is not None for item in asked):
        return RelgraphError(f"{names} was given as an instance, which takes no options, got {name!r}")
    return RelgraphError(f"there are no options of {names}, got {name!r}")


def build_method(
    spec: Methods, run: RunFacts, shared: Mapping[str, Any] | None = None, arguments: Sequence[str] = (),
    beta: float | None = None,
) -> Sum | None:  # fmt: skip
    """Return the methods that are meant, with their weights; `None` for "none", cross-entropy alone.

    Args:
        spec: As for `parse_methods`.
        run: The networks and the data, which are passed to each method (`Method.for_run`).
        shared: The run's own options by name, for each method that has one of that name.
        arguments: Options of the methods, `NAME=VALUE`.
        beta: Weight of a single method, in place of the authors'.

    Raises:
        RelgraphError: for an unknown name, an option that the method does not have, or a value that is not valid.
    """
    return build(parse_methods(spec, beta), run, shared or {}, arguments)
