"""The published methods, one file each."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from relgraph.errors import unknown
from relgraph.methods.base import Batch, Method, Output
from relgraph.methods.ega import EGA, ega_loss
from relgraph.methods.kd import KD

METHODS: dict[str, type[Method]] = {"ega": EGA, "kd": KD}

__all__ = ["EGA", "KD", "METHODS", "Batch", "Method", "Output", "build_method", "ega_loss"]


def build_method(name: str, options: Mapping[str, Any]) -> Method | None:
    """Return a method with those of the options that its constructor names; `None` for "none", cross-entropy alone.

    Raises:
        RelgraphError: for an unknown name, or an option's value that the method refuses.
    """
    if name == "none":
        return None
    if name not in METHODS:
        raise unknown("method", name, [*METHODS, "none"])
    cls = METHODS[name]
    return cls(**{key: options[key] for key in signature(cls).parameters if key in options})
