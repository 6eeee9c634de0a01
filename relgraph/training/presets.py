"""Published protocols by name: the options of each, its source, and every difference that remains.

A preset's options stand over the defaults of a recipe and under what a user gives; milestones are those of its epochs,
and come in proportion for another number. Teacher, student and data set are the user's. They are written in
`presets.toml`; `docs/protocols.md` has the table of all of them.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relgraph.errors import RelgraphError, unknown


@dataclass(frozen=True)
class Preset:
    """A named set of options of a training.

    Attributes:
        about: What it is.
        source: Paper, year and official code; empty for one of relgraph's own.
        options: Values of options of the recipe, by name.
        differs: What is not as in the authors' protocol, a sentence each.
    """

    about: str
    source: str
    options: Mapping[str, Any]
    differs: tuple[str, ...] = ()


def _tuples(value: Any) -> Any:
    """Return what a TOML file holds with tuples in place of its lists, as a recipe has them."""
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_FILE = _tuples(tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")))
FAMILY: dict[str, dict[str, Any]] = _FILE["family"]  # RepDistiller's methods
PRESETS = {**_FILE["preset"], **FAMILY}
EGA_TERMS = ("node_weight", "edge_weight")
DIGITS: dict[str, Any] = PRESETS["digits"]["options"]


def _in_file(name: str, student: str | None) -> Preset:
    """Return a protocol of the file for a student, which a rate and a difference may depend on."""
    told = _FILE["preset"].get(name) or _FILE["common"][name]
    base = _in_file(told["like"], student) if "like" in told else Preset("", "", {})
    options = {**base.options, **told.get("options", {})}
    if student in told.get("slow", ()):
        options["lr"] = 0.01
    theirs = next((how for family, how in _FILE["initial"].items() if str(student).lower().startswith(family)), None)
    differs = _sentences(word for word in told.get("differs", ()) if word != "classifier" or theirs is not None)
    own = (sentence.replace("{student}", str(student)).replace("{theirs}", str(theirs)) for sentence in differs)
    return Preset(told.get("about", ""), told.get("source", base.source), options, (*base.differs, *own))


def _sentences(words: Iterable[str]) -> Iterator[str]:
    return (_FILE["sentences"].get(word, word) for word in words)


def _repdistiller(method: str | None, student: str | None) -> Preset:
    """Return the benchmark with its method or a sum of several, by default `kd`."""
    from relgraph.names import parse_methods

    method = "kd" if method is None else method
    named = parse_methods(method)
    strange = next((item.name for item in named if item.name not in FAMILY), None)
    if strange is not None:
        raise RelgraphError(f"RepDistiller has the methods {', '.join(FAMILY)} and sums of them, got {strange}")
    found = _in_file("repdistiller", student)
    options = {**found.options, "method": method, **({"teacher_head": "own"} if named else {})}
    if len(named) == 1 and named[0].weight is None:
        options |= FAMILY[named[0].name]
    elif any(item.name == "cc" for item in named):
        options["method_args"] = ("cc.correlation=consecutive",)
    differs = _sentences(word for item in named for word in _FILE["family_differs"].get(item.name, ()))
    return replace(found, options=options, differs=(*found.differs, *dict.fromkeys(differs)))


def find_preset(name: str, method: str | None = None, student: str | None = None) -> Preset:
    """Return the preset of a name, for the method and the student that a user gave, if any.

    The name of a method of RepDistiller stands for `repdistiller` with that method.

    Raises:
        RelgraphError: for an unknown name, or a method that the protocol does not have.

    >>> find_preset("repdistiller", "rkd", "mobilenetv2").options["lr"]
    0.01
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    if name in FAMILY or name == "repdistiller":
        return _repdistiller(name if method is None and name in FAMILY else method, student)
    if PRESETS[name].get("alone") and method is not None and str(method).strip().lower() != name:
        raise RelgraphError(f"the preset {name} trains {name} alone, got method {method}")
    found = _in_file(name, student)
    return found if method is None else replace(found, options=_read_by(method, found.options))


def _read_by(method: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without the weights of EGA's terms, where a method was given that has none."""
    from relgraph.names import parse_methods

    known = {name for item in parse_methods(method) for name in item.options}
    return {name: value for name, value in options.items() if name not in EGA_TERMS or name in known}


def with_arguments(own: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Return the options of methods of a preset, `NAME=VALUE`, and those that a user gave, which win.

    >>> with_arguments(("tau=0.2", "head=mlp"), ("seed.tau=0.1",))
    ('head=mlp', 'seed.tau=0.1')
    """
    names = {_name(argument) for argument in given}
    return (*(argument for argument in own if _name(argument) not in names), *given)


def _name(argument: str) -> str:
    return argument.partition("=")[0].strip().rpartition(".")[2]
