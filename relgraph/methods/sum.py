"""Weighted sums of methods."""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import inf
from numbers import Real

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.refine import Refined
from relgraph.methods.base import Batch, Loss, Method, Output, Space, Summand, Terms, joined


class Sum(Method):
    """Several methods at once, or one at another weight: `sum_m weight_m * L_m`.

    Terms of more than one method are called `METHOD_TERM`, or like the method where it has but one. Each method reads
    the same parts of a batch as it does alone; memories and the teacher's sides of the methods are separate.

    Args:
        methods: Weight >= 0, finite, and method by name.

    Raises:
        RelgraphError: if there is no method, for a name that is empty or has a dot, for what is no weight and method,
            or for a weight that is negative or infinite; when it is called, if two terms get one name.

    >>> from relgraph.methods import PKT, RKD
    >>> loss = Sum({"rkd": (1.0, RKD()), "pkt": (100.0, PKT())})
    >>> sorted(loss.terms(torch.randn(6, 4), torch.randn(6, 8)))
    ['pkt', 'rkd_angle', 'rkd_distance']
    """

    methods: Mapping[str, tuple[float, Method]]

    def __post_init__(self) -> None:
        """Check the weights, and store methods and weights separately."""
        super().__post_init__()
        _check(self.methods)
        self.weights = {name: weight for name, (weight, _) in self.methods.items()}
        self.parts = nn.ModuleDict({name: method for name, (_, method) in self.methods.items()})
        asked = {name: method.views for name, method in self.each() if method.views is not None}
        if len(set(asked.values())) > 1:
            words = " and ".join(f"{name} for {views.each} {views.kind}" for name, views in asked.items())
            raise RelgraphError(f"the methods of a sum share the extra views of an image, got {words}")
        self.views = next(iter(asked.values()), None)
        read = [method.reads for _, method in self.each()]
        self.reads = tuple(sorted({*chain(*read)})) if all(read) else ()  # one that names no part may read all

    def each(self) -> list[tuple[str, Method]]:
        """Return the methods by their names."""
        return [(name, method) for name, method in self.parts.items() if isinstance(method, Method)]

    def summands(self) -> list[Summand]:
        """Return the methods with their weights, and the names that their terms get if there are several.

        Those of a sum within it stand in its place, and their terms are called `SUM_METHOD_TERM`.
        """
        alone, found = len(self.parts) == 1, list[Summand]()
        for name, method in self.each():
            for part in method.summands():
                owner = "_".join(word for word in ("" if alone else name, part.owner) if word)
                found.append(Summand(part.method, owner, self.weights[name] * part.weight))
        return found

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the terms of all methods, with their weights."""
        terms: Terms = {}
        for method, owner, weight in self.summands():
            terms = joined(terms, method.weighted(method.compare(student, teacher, batch), owner, weight))
        return terms

    def teacher_terms(self, student: Output, teacher: Output, batch: Batch, cross_entropy: Loss) -> Terms:
        """Return the losses that train the methods' sides of the teacher, without the methods' weights."""
        terms: Terms = {}
        for part in self.summands():
            terms = joined(terms, part.named(part.method.teacher_terms(student, teacher, batch, cross_entropy)))
        return terms

    def space(self) -> Space:
        """Return the space of the first method that has layers of its own, else that of the first.

        It is joint if a method makes it so.
        """
        spaces = [method.space() for _, method in self.each()]
        found = next((space for space in spaces if space.student is not None), spaces[0])
        return found._replace(joint=any(space.joint for space in spaces if space.part == found.part))

    def refined(self) -> Refined | None:
        """Return that of the first method that has one."""
        return next((found for _, method in self.each() if (found := method.refined()) is not None), None)

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the methods' sides of the teacher."""
        return [parameter for _, method in self.each() for parameter in method.teacher_parameters()]

    def teacher_rates(self) -> Mapping[nn.Parameter, float]:
        """Return the learning rates of their own of the methods' sides of the teacher."""
        return {parameter: rate for _, method in self.each() for parameter, rate in method.teacher_rates().items()}

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Update every method's memory with the batch."""
        for _, method in self.each():
            method.remember(student, teacher, batch)


def _check(methods: Mapping[str, tuple[float, Method]]) -> None:
    """Raise RelgraphError unless these are weights and methods by name."""
    expected = 'expected {"rkd": (1.0, RKD()), ...}'
    if not isinstance(methods, Mapping):
        raise RelgraphError(f"a sum of methods has names: {expected}, got {type(methods).__name__}")
    if not methods:
        raise RelgraphError("a sum of methods needs at least one, got none")
    for name, part in methods.items():
        if not isinstance(name, str) or not name or "." in name:
            raise RelgraphError(f"the name of a method in a sum is a word without a dot, got {name!r}")
        if not (isinstance(part, tuple | list) and len(part) == 2 and isinstance(part[1], Method)):
            raise RelgraphError(f"{name} in a sum is a weight and a method: {expected}, got {type(part).__name__}")
        if not isinstance(part[0], Real | Tensor) or not 0 <= part[0] < inf:
            bound = "finite" if part[0] == inf else "at least 0"
            raise RelgraphError(f"the weight of {name} must be {bound}, got {part[0]!r}")
