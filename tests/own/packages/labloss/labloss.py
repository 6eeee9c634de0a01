"""A laboratory's loss: a kernel, a relation, and a method with an option and a layer of its own."""

import torch
from torch import Tensor, nn

from relgraph import Relation
from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import Kernel, dot
from relgraph.methods import Batch, Method, Output, RunFacts, option
from relgraph.methods.base import Terms

signs = Kernel("signs", lambda x: torch.tanh(3 * x), dot)
relation = Relation(signs, criterion=mean_square)


def doubled(weights: Tensor) -> Tensor:
    """Return the weights of an anchor, twice as large."""
    return 2 * weights


def largest(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the largest difference of an anchor's weights."""
    return (student - teacher).abs().amax(-1)


class Regression(Method):
    """Regress the teacher's feature from the student's by one layer.

    Args:
        power: Power of the distance.
        widths: Widths of student and teacher.
    """

    power: float = option(default=2.0, above=0)
    widths: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        """Build the layer."""
        super().__post_init__()
        self.layer = nn.Linear(*self.widths)

    @classmethod
    def for_run(cls, run: RunFacts, **options: float) -> "Regression":
        """Return the method for the widths of a run."""
        return cls(widths=run.widths("feature"), **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the mean distance."""
        assert student.feature is not None and teacher.feature is not None
        found: Tensor = (self.layer(student.feature) - teacher.feature).norm(dim=1).pow(self.power).mean()
        return {"regression": found}
