"""Weighted sums of methods."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.methods.base import Batch, Method, Output, Views, check_weights


class Sum(Method):
    """Several methods at once, or one at another weight: `sum_m weight_m * L_m`.

    Terms of more than one method are called `METHOD_TERM`, or like the method where it has but one. A method is asked
    for each batch what it would be asked alone; memories and the teacher's sides of the methods are kept apart.

    Args:
        methods: Weight >= 0 and method by name.

    Raises:
        RelgraphError: if there is no method, or for a negative weight.

    >>> from relgraph.methods import PKT, RKD
    >>> loss = Sum({"rkd": (1.0, RKD()), "pkt": (100.0, PKT())})
    >>> sorted(loss.terms(torch.randn(6, 4), torch.randn(6, 8)))
    ['pkt', 'rkd_angle', 'rkd_distance']
    """

    def __init__(self, methods: Mapping[str, tuple[float, Method]]) -> None:
        super().__init__()
        if not methods:
            raise RelgraphError("a sum of methods needs at least one, got none")
        check_weights(**{f"the weight of {name}": weight for name, (weight, _) in methods.items()})
        self.methods = nn.ModuleDict({name: method for name, (_, method) in methods.items()})
        self.weights = {name: weight for name, (weight, _) in methods.items()}
        self.views = _views({name: method.views for name, (_, method) in methods.items() if method.views is not None})
        self.reads = tuple(sorted({part for _, method in methods.values() for part in method.reads}))

    def together(self, student: Output, teacher: Output, batch: Batch | None) -> tuple[Output, Output, Batch | None]:
        """Return what came in: each method gathers what it reads itself."""
        return student, teacher, batch

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return the terms of all methods, with their weights."""
        terms = {}
        for name, method in self._each():
            for term, value in method.compare(*method.together(student, teacher, batch)).items():
                terms[self._called(name, term)] = self.weights[name] * value
        return terms

    def teacher_terms(
        self, student: Output, teacher: Output, batch: Batch, classify: Callable[[Output], Tensor]
    ) -> dict[str, Tensor]:
        """Return what trains the methods' sides of the teacher; their weights do not matter there."""
        return {
            self._called(name, term): value
            for name, method in self._each()
            for term, value in method.teacher_terms(student, teacher, batch, classify).items()
        }

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the methods' sides of the teacher."""
        return [parameter for _, method in self._each() for parameter in method.teacher_parameters()]

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Let each method remember the batch."""
        for _, method in self._each():
            method.remember(student, teacher, batch)

    def _each(self) -> list[tuple[str, Method]]:
        return [(name, method) for name, method in self.methods.items() if isinstance(method, Method)]

    def _called(self, name: str, term: str) -> str:
        return term if len(self.methods) == 1 or term == name else f"{name}_{term}"


def _views(asked: Mapping[str, Views]) -> Views | None:
    """Return the extra views that the methods of a sum ask for, which must be the same."""
    if len(set(asked.values())) > 1:
        words = " and ".join(f"{name} for {views.each} {views.kind}" for name, views in asked.items())
        raise RelgraphError(f"the methods of a sum share the extra views of an image, got {words}")
    return next(iter(asked.values()), None)
