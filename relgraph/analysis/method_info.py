"""What the table of methods shows of each, read from the code."""

from inspect import getdoc
from typing import NamedTuple

import torch
from torch import nn

from relgraph.errors import RelgraphError
from relgraph.graph.relation import Relation
from relgraph.methods.against import Against, Keyed
from relgraph.methods.base import RunFacts, facts_of
from relgraph.methods.relational import Relational
from relgraph.names import Methods, parse_methods

MAPS = ((2, 8, 8), (2, 8, 8), (2, 4, 4), (4, 2, 2))
# The least of a run that each method can be built for, so that an instance can show what it reads and holds.
SMALL_RUN = RunFacts(4, 4, 4, MAPS, MAPS, 4, torch.arange(4), nn.Identity(), scores=(4, 8, 8), image=(3, 8, 8))

# What the docstrings of methods refer to, with what it says.
BASES: dict[type, str] = {
    Keyed: "Keys and memory",
    Against: "Widths of methods that relate the student to the teacher",
    Relational: "Graph, nodes and refinement of relational methods",
}


class MethodInfo(NamedTuple):
    """One method as the table shows it.

    Attributes:
        name: How `--method` writes it.
        paper: Name, authors, year and arXiv number.
        reads: What it reads of networks and batch, by default.
        kernel, topology, criterion: What it is composed of: of relations their kernels, and their criteria and scales.
        weight: The published weight.
        gamma: The published weight of the cross-entropy beside it.
        views: How the images are augmented, and the extra views that it asks for.
        differs: Where paper, official code and this one differ, in one line.
        options: Its options and their defaults; those that begin with `--` are options of `relgraph train` as well.
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


def method_info(spec: Methods) -> MethodInfo:
    """Return the facts of a method, read from its class and from an instance with the defaults, or the one given.

    Args:
        spec: Its name, or in Python its class, an instance, or a bare `Relation`.

    Raises:
        RelgraphError: for an unknown name, a sum, or a method that cannot be built.

    >>> method_info("pkt").kernel, method_info("pkt").criterion
    ('(cosine + 1) / 2', 'KL by anchor sum')
    """
    named = parse_methods(spec)
    if len(named) != 1:
        raise RelgraphError(f"expected one method, got {spec!r}")
    item, cls = named[0], named[0].cls
    with torch.random.fork_rng(devices=[]):
        method = item.build(SMALL_RUN, {})
    relations = [part for part in vars(method).values() if isinstance(part, Relation)]
    kernels = dict.fromkeys(relation.kernel.name for relation in relations)
    criteria = dict.fromkeys(f"{one.criterion.name} by {one.scale.name}".removesuffix(" by ") for one in relations)
    doc = getdoc(cls) or ""
    for base, told in BASES.items():
        if f"See `{base.__name__}`" in doc:
            doc += f"\n\n{told}:\n\n{getdoc(base)}"
    extra = "" if method.views is None else f", and {method.views.each} {method.views.kind} of each image"
    facts = {**dict.fromkeys(("Paper", "Differs", "Kernel", "Topology", "Criterion"), "-"), **facts_of(cls)}
    shared, options = item.shared(), item.options
    own = {name: str(item.default) for name, item in options.items() if name not in shared}
    of_run = {f"--{run.replace('_', '-')}": options.get(option) for option, run in shared.items()}
    own |= {option: "None" if item is None else str(item.default) for option, item in of_run.items()}
    return MethodInfo(
        item.name, facts["Paper"], method.reads, "; ".join(kernels) or facts["Kernel"], facts["Topology"],
        "; ".join(criteria) or facts["Criterion"], method.weight, cls.gamma, f"{cls.augment}{extra}",
        facts["Differs"], own, doc,
    )  # fmt: skip
