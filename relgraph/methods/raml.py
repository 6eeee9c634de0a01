"""Large-to-small resolution asymmetry in metric learning, RAML (Suma, Tolias, WACV 2023)."""

from dataclasses import replace

import torch
from torch import Tensor

from relgraph.graph.criteria import Criterion
from relgraph.graph.pair import PairBuilder
from relgraph.graph.relation import Relation
from relgraph.methods.against import MARKED, Against, own_cosines
from relgraph.methods.base import Terms, option

EPSILON = 1e-6  # the code's, inside the square


class RAML(Against):
    """Match the teacher's own vector of each image, and its similarities to the others across and within the networks.

    With `T_ij = cos(t_i, t_j)`, `X_ij = cos(s_i, t_j)`, `Z_ij = cos(s_i, s_j)` and e = 1e-6,

        node = mean_i (1 - X_ii + e)^2
        across = mean_ij (X_ij - T_ij + e)^2    within = mean_ij (Z_ij - T_ij + e)^2    over j other than i
        L = node + across_weight * across + within_weight * within

    over all pairs of the batch, or over the edges of a sparse graph. With both weights 0 it is a regression of each
    node alone. Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0.

    Paper, official code and this one: this is the code of a benchmark (AIR-Distiller). It reads one option for both
    weights, so its own runs presumably had 0.7482 twice, as here with `official=True`. Its weight is 10, on MSMT17 5.
    Sparse graphs are ours.

    Paper: Large-to-small Image Resolution Asymmetry in Deep Metric Learning (Suma, Tolias, WACV 2023)
    Differs: a benchmark's code, which gives both relations the first one's weight (official=True); sparse graphs are
        ours
    Topology: all pairs; across

    Args:
        student_width: See `Against`.
        teacher_width: See `Against`.
        across_weight: Weight of the similarities of the student's nodes to the teacher's.
        within_weight: Weight of those among the student's nodes.
        official: Whether `across_weight` is the weight of both.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Against`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, a negative weight, or nodes of two widths without a layer.

    >>> import torch
    >>> x = torch.randn(8, 4)
    >>> RAML()(2 * x, x).item() < 1e-9 < RAML()(x.roll(1, 1), x).item()
    True
    """

    weight = 10.0

    across_weight: float = option(default=0.7482, least=0, term="across", kw_only=True)
    within_weight: float = option(default=0.6778, least=0, term="within", kw_only=True)
    official: bool = option(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Build the relation within the networks."""
        super().__post_init__()
        if self.official:
            self.within_weight = self.across_weight
        self.within = Relation(MARKED, criterion=SQUARED_OTHERS)

    def make_relation(self) -> Relation:
        """Return the relation of the student's nodes to the teacher's."""
        return Relation(MARKED, criterion=SQUARED_OTHERS, against="teacher")

    def make_builder(self) -> PairBuilder:
        """Return the builder of a pair with both graphs and the cross graph."""
        return replace(super().make_builder(), within=True)

    def relations(self) -> dict[str, Relation]:
        """Return `across` and `within`."""
        assert self.relation is not None
        return {"across": self.relation, "within": self.within}

    def own_terms(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return `node`."""
        own, _ = own_cosines(student, teacher)
        return {"node": (1 - own + EPSILON).square().mean()}


def _squares(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum of the squares of each anchor, its edge to itself, which is marked in the teacher's, left out."""
    other = teacher != torch.inf
    return torch.where(other, student - teacher + EPSILON, 0).square().sum(-1)


def _mean_over_others(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / max(1, edges - anchors)


SQUARED_OTHERS = Criterion(_squares, _mean_over_others, "square of others", additive=True)
