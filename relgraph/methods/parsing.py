"""Methods as they are spelled on the command line: `rkd`, `crd+0.9*kd`, with options `angle_weight=2`."""

import math
import re
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.refine import Refinement
from relgraph.graph.topology import make_rule
from relgraph.methods.base import Method, Part
from relgraph.methods.relational import Relational, check_refinement
from relgraph.methods.sum import Sum

# What a constructor gets from the run, not from the user's options of the method.
FROM_RUN = {
    "graph", "k", "neighbours", "nodes", "refine", "refinement", "dim", "student_width", "teacher_width",
    "student_maps", "teacher_maps", "images", "labels", "temperature", "node_weight", "edge_weight",
    "ss_head", "form", "graph_form",
}  # fmt: skip


class Spelled(NamedTuple):
    """One method of a sum, as it was spelled.

    Attributes:
        name: Its name.
        cls: Its class.
        weight: What it is multiplied by: the spelled number, or the published weight.
        chosen: Whether the number was spelled; otherwise a form of the method may bring another one.
    """

    name: str
    cls: type[Method]
    weight: float
    chosen: bool = False


def read_spelling(spelling: str, known: Mapping[str, type[Method]], beta: float | None = None) -> list[Spelled]:
    """Return the methods of a spelling, `[WEIGHT*]NAME[+...]`; none for "none".

    `beta` is the weight of a single method that is spelled without one.

    Raises:
        RelgraphError: for an unknown name, a weight that is no number >= 0, a method named twice, or `beta` beside a
            sum or a spelled weight.
    """
    if spelling.strip().lower() == "none":
        return []
    # A plus after a digit and an e belongs to a number, 1e+3; that of nce+kd does not.
    parts = [part.strip() for part in re.split(r"(?<![\d.][eE])\+", spelling)]
    if beta is not None and (len(parts) > 1 or "*" in spelling):
        raise RelgraphError(f"beta is the weight of one method: write the weights of {spelling!r} as in 25*rkd+0.9*kd")
    found = [_read_part(part, known, beta) for part in parts]
    names = [item.name for item in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RelgraphError(f"a sum names each method once, got {twice} more often in {spelling!r}")
    return found


def _read_part(part: str, known: Mapping[str, type[Method]], beta: float | None) -> Spelled:
    factor, sign, name = part.rpartition("*")
    name = name.strip().lower()
    if name == "" or "," in name or name[0].isdigit():
        raise RelgraphError(f"methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got {part!r}")
    if name == "none":
        raise RelgraphError("none is cross-entropy alone: it has no weight and stands in no sum")
    if name not in known:
        raise unknown("method", name, [*known, "none"])
    weight = known[name].weight if beta is None else beta
    if sign:
        try:
            weight = float(factor)
        except ValueError:
            raise RelgraphError(f"the weight of {name} must be a number, got {factor.strip()!r}") from None
    if not 0 <= weight < math.inf:
        raise RelgraphError(f"the weight of {name} must be at least 0 and finite, got {weight}")
    return Spelled(name, known[name], weight, chosen=bool(sign) or beta is not None)


def build(spelled: Sequence[Spelled], run: Mapping[str, Any], arguments: Sequence[str] = ()) -> Method | None:
    """Return the method of a spelling; `None` if there is none.

    Args:
        spelled: From `read_spelling`.
        run: What a constructor may ask for by name: `graph`, `k`, `neighbours`, `refine`, `nodes`, widths and shapes.
        arguments: `OPTION=VALUE`, or `METHOD.OPTION=VALUE` where several methods have the option.

    Raises:
        RelgraphError: for options that no method has or values that it refuses.
    """
    options = read_arguments(spelled, arguments)
    methods = {}
    for item in spelled:
        # The graph of a sum is that of the images of a batch; a memory's has an option.
        own = not issubclass(item.cls, Relational) and len(spelled) > 1
        facts = {**run, "graph": None, "k": None} if own else run
        method = _construct(item.cls, facts, options[item.name])
        methods[item.name] = (item.weight if item.chosen else method.weight, method)
    if not methods:
        return None
    if len(methods) == 1:
        ((weight, method),) = methods.values()
        if weight == 1:
            return method
    return Sum(methods)


def options_of(cls: type[Method]) -> dict[str, Parameter]:
    """Return the options that a method has of its own, by name."""
    shared = _from_run(cls) if issubclass(cls, Relational) else _from_run(cls) - {"graph", "k"}
    own = {name: given for name, given in signature(cls).parameters.items() if name not in shared}
    # A class without a constructor has that of torch's modules, (*args, **kwargs).
    return {name: given for name, given in own.items() if given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD)}


def options_of_recipe(cls: type[Method]) -> dict[str, Parameter]:
    """Return the options of a method that `relgraph train` has under their own names, as those of EGA and KD."""
    names = ("temperature", "node_weight", "edge_weight")
    return {name: given for name, given in signature(cls).parameters.items() if name in names}


def has_graph(cls: type[Method]) -> bool:
    """Return whether a method compares graphs of a batch, so that a topology can be chosen."""
    return "graph" in signature(cls).parameters


def reads_graph(spelled: Sequence[Spelled]) -> bool:
    """Return whether the run's graph reaches a method: in a sum it is that of a batch, and a memory keeps its own."""
    return any(issubclass(item.cls, Relational) or (len(spelled) == 1 and has_graph(item.cls)) for item in spelled)


def _construct(cls: type[Method], run: Mapping[str, Any], options: Mapping[str, Any]) -> Method:
    wanted = signature(cls).parameters
    run = {**run, "graph_form": run.get("form")}
    chosen = {name: run[name] for name in wanted if name in _from_run(cls) and run.get(name) is not None}
    if "graph" in chosen and "k" not in wanted:
        chosen["graph"] = make_rule(run["graph"], run.get("k"), run.get("neighbours", "teacher"))
    if "refinement" in wanted and run.get("refine") is not None:
        nodes = chosen["nodes"] if "nodes" in chosen else wanted["nodes"].default
        chosen["refinement"] = _refinement(run, nodes)
    return cls(**{**chosen, **options})


def _from_run(cls: type[Method]) -> set[str]:
    """Return what a constructor gets from the run; `form` is a method's own that calls the run's `graph_form`."""
    return FROM_RUN - {"form"} if "graph_form" in signature(cls).parameters else FROM_RUN


def _refinement(run: Mapping[str, Any], nodes: Part) -> Refinement:
    """Return a refinement for the widths that the nodes have in a run."""
    if nodes == "embedding":
        return Refinement(run["refine"], run["dim"])
    if nodes == "map":
        # Before it is built: one that learns would hold as many numbers as a flat map has, squared.
        check_refinement(nodes, Refinement(run["refine"], 1))
        return Refinement(run["refine"], *(_flat(run, side) for side in ("student", "teacher")))
    return Refinement(run["refine"], run["student_width"], run["teacher_width"])


def _flat(run: Mapping[str, Any], side: str) -> int:
    stages = run[f"{side}_maps"]
    if not stages:
        raise RelgraphError(f"nodes 'map' need stage maps of student and teacher, got none of the {side}")
    return math.prod(stages[-1])


def read_arguments(spelled: Sequence[Spelled], arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method by name, from `OPTION=VALUE` or `METHOD.OPTION=VALUE`.

    Raises:
        RelgraphError: for an option that no method has, or that several have, one that is given twice, or a value of
            the wrong kind.
    """
    found: dict[str, dict[str, Any]] = {item.name: {} for item in spelled}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        prefix, _, option = key.strip().rpartition(".")
        prefix = prefix.lower()
        if not sign or not option:
            raise RelgraphError(f"an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got {argument!r}")
        if prefix and prefix not in found:
            raise unknown("method", prefix, found)
        owners = [item for item in spelled if prefix in ("", item.name) and option in options_of(item.cls)]
        if not owners:
            raise _no_option([item for item in spelled if prefix in ("", item.name)], option)
        if len(owners) > 1:
            names = " or ".join(f"{item.name}.{option}" for item in owners)
            raise RelgraphError(f"{option} is an option of several methods: write {names}")
        name = owners[0].name
        if option in found[name]:
            raise RelgraphError(f"{option} of {name} is given twice: {found[name][option]} and {text.strip()}")
        found[name][option] = _value(owners[0], option, text.strip())
    return found


def _no_option(asked: Sequence[Spelled], option: str) -> RelgraphError:
    known = {name for item in asked for name in options_of(item.cls)}
    if known and not any(option in options_of_recipe(item.cls) for item in asked):
        return unknown("option of the method", option, known)
    names = " and ".join(item.name for item in asked) or "cross-entropy alone"
    if any(option in options_of_recipe(item.cls) for item in asked):
        return RelgraphError(f"{option} of {names} has an option of its own: --{option.replace('_', '-')}")
    return RelgraphError(f"there are no options of {names}, got {option!r}")


def _value(item: Spelled, option: str, text: str) -> Any:
    """Return the value as the constructor's annotation wants it."""
    hint = options_of(item.cls)[option].annotation
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        if get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
            raise unknown(f"{option} of {item.name}", text, get_args(kind))
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
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    expected = " or ".join(words[kind] for kind in kinds if kind in words)
    raise RelgraphError(f"{option} of {item.name} must be {expected}, got {text!r}")
