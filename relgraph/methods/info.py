"""What the table of methods says of each, read from the code."""

from inspect import Parameter, getdoc
from typing import Any, NamedTuple

import torch
from torch import nn

from relgraph.errors import unknown
from relgraph.graph.relation import Relation
from relgraph.methods import METHODS, build_method
from relgraph.methods.parsing import options_of, options_of_recipe
from relgraph.methods.relational import Relational

# The least that every constructor takes, so that an instance can say what it reads.
MAPS = ((2, 8, 8), (2, 8, 8), (2, 4, 4), (4, 2, 2))
SMALL_RUN: dict[str, Any] = {
    "dim": 4,
    "student_width": 4,
    "teacher_width": 4,
    "student_maps": MAPS,
    "teacher_maps": MAPS,
    "images": 4,
    "labels": torch.arange(4),
    "ss_head": nn.Identity(),
}


class Card(NamedTuple):
    """One method as the table shows it.

    Attributes:
        name: How `--method` spells it.
        paper: Name, authors, year and arXiv number.
        reads: What it reads of networks and batch, by default.
        kernel, topology, criterion: What it is composed of: of relations their kernels and criteria.
        weight: The published weight.
        gamma: The published weight of the cross-entropy beside it.
        views: How the images are augmented, and the extra views that it asks for.
        differs: Where paper, official code and this one differ, in one line.
        options: Its own options and their defaults; those that begin with `--` are options of `relgraph train`.
        doc: Its docstring: equation, shapes, all differences, an example.
    """

    name: str
    paper: str
    reads: tuple[str, ...]
    kernel: str
    topology: str
    criterion: str
    weight: float
    gamma: float
    views: str
    differs: str
    options: dict[str, str]
    doc: str


def card(name: str) -> Card:
    """Return what there is to say of a method.

    Raises:
        RelgraphError: for an unknown name.

    >>> card("kd").reads
    ('logits',)
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    cls = METHODS[name]
    with torch.random.fork_rng(devices=[]):
        method = build_method(name, SMALL_RUN, beta=1.0)
    assert method is not None
    options = {f"--{key.replace('_', '-')}": _default(given) for key, given in options_of_recipe(cls).items()}
    options |= {key: _default(given) for key, given in options_of(cls).items()}
    relations = [part for part in vars(method).values() if isinstance(part, Relation)]
    kernel = "; ".join(relation.kernel.name.replace("_", " ") for relation in relations) or cls.kernel
    criteria = dict.fromkeys(_words(relation.criterion) for relation in relations)
    criterion = "; ".join(criteria) or cls.criterion
    doc = getdoc(cls) or ""
    if "See `Relational`" in doc:
        doc += f"\n\nGraph, nodes and refinement of relational methods:\n\n{getdoc(Relational)}"
    extra = "" if method.views is None else f", and {method.views.each} {method.views.kind} of each image"
    return Card(
        name, cls.paper, method.reads, kernel, cls.topology, criterion, cls.weight, cls.gamma,
        f"{cls.augment}{extra}", cls.differs, options, doc,
    )  # fmt: skip


def _words(function: object) -> str:
    return str(getattr(function, "__name__", function)).replace("_", " ")


def _default(given: Parameter) -> str:
    return "needed" if given.default is Parameter.empty else str(given.default)
