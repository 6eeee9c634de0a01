"""Decoupled differential distillation (Xie, Lin, Cai, Xu, Zhang, Du, He, CVPR 2024)."""

from functools import partial

import torch
from torch import Tensor

from relgraph.graph.criteria import Criterion
from relgraph.graph.ranking import by_differences, differences, ranked
from relgraph.graph.relation import Relation
from relgraph.methods.against import MARKED, Keyed, own_cosines
from relgraph.methods.base import Terms, option


class D3still(Keyed):
    """Match differences between the teacher's similarities around each image, by whether the student has their sign.

    With `T_m = cos(t_i, t_j)` and `X_m = cos(s_i, t_j)` of the `length - 1` other keys j that the teacher ranks first
    around image i, `dT_mn = T_n - T_m`, `dX_mn` likewise and `r_mn = (dX_mn - dT_mn) / (0.1 + |dT_mn|)`,

        feature = |(cos(t_i, t_i) - cos(s_i, t_i))_i| / N
        inconsistent = 1 / (N (length - 1)) * sum_i |r_i, of the pairs with dX dT < 0|
        consistent = 1 / (N (length - 1)) * sum_i |r_i, of the pairs with dX dT > 0|
        L = feature_weight * feature + inconsistent_weight * inconsistent + consistent_weight * consistent

    Norms are Euclidean and not squared; ordered pairs count, so each twice; which pairs belong to which term is a
    constant for the gradient. Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`, and for
    `memory="images"` a `Batch` with indices; returns a scalar >= 0.

    Paper, official code and this one: the code divides by `length - 1` even where the batch has fewer others; here by
    the number of others, and as the code with `official=True`. Its weights alpha, beta and gamma are 50, 2 and 1 by
    default and for MSMT17, 100, 5 and 1 for its other data sets. The paper trains with this loss alone, the repository
    adds cross-entropy and a triplet loss. The code drops the first of the teacher's order, which is the image itself
    unless another one equals it; here the image itself is left out. Sparse graphs and memories are ours.

    Paper: D3still: Decoupled Differential Distillation for Asymmetric Image Retrieval (Xie, Lin, Cai, Xu, Zhang, Du,
        He, CVPR 2024)
    Differs: divides by the number of others that there are, the code by length - 1 even in smaller batches
        (official=True); sparse graphs and memories are ours
    Topology: nearest; memory

    Args:
        student_width: See `Against`.
        teacher_width: See `Against`.
        length: See `Keyed`; the published k.
        feature_weight: Weight of the own vector, alpha.
        inconsistent_weight: Weight of the pairs that the student ranks the other way round, beta.
        consistent_weight: Weight of those that it ranks alike, gamma.
        official: Whether to divide by `length - 1` where there are fewer others.
        memory: See `Keyed`.
        queue: See `Keyed`.
        images: See `Keyed`.
        gallery: See `Keyed`.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Against`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: as `Keyed`, and for a negative weight.

    >>> import torch
    >>> x = torch.randn(8, 4)
    >>> D3still()(2 * x, x).item() < 1e-2 < D3still()(x.roll(1, 1), x).item()
    True
    """

    length: int = option(default=10, least=2)
    feature_weight: float = option(default=50.0, least=0, term="feature", kw_only=True)
    inconsistent_weight: float = option(default=2.0, least=0, term="inconsistent", kw_only=True)
    consistent_weight: float = option(default=1.0, least=0, term="consistent", kw_only=True)
    official: bool = option(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Build the second relation."""
        super().__post_init__()
        self.consistent = self._relation(1)

    def make_relation(self) -> Relation:
        """Return the relation of the pairs that the student ranks the other way round."""
        return self._relation(-1)

    def relations(self) -> dict[str, Relation]:
        """Return `inconsistent` and `consistent`."""
        assert self.relation is not None
        return {"inconsistent": self.relation, "consistent": self.consistent}

    def own_terms(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return `feature`."""
        own, expected = own_cosines(student, teacher)
        return {"feature": torch.linalg.vector_norm(expected - own) / len(own)}

    def _relation(self, sign: int) -> Relation:
        name = "consistent" if sign > 0 else "inconsistent"
        criterion = Criterion(partial(self._of_sign, sign), name=name)
        return Relation(MARKED, criterion=criterion, against="teacher")

    def _of_sign(self, sign: int, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (x[..., 1:] for x in ranked(student, teacher, self.length))  # the first is marked: the image itself
        others = self.length - 1 if self.official else max(1, t.shape[-1])
        return by_differences(partial(_length_of_sign, sign), s, t) / others


def _length_of_sign(sign: int, s: Tensor, t: Tensor) -> Tensor:
    """Return the length of the relative errors of the pairs whose differences have this product of signs, `(A,)`."""
    of_student, of_teacher = differences(s), differences(t)
    error = (of_student - of_teacher) / (0.1 + of_teacher.abs())
    chosen = of_student.detach().sign() * of_teacher.detach().sign() == sign
    length: Tensor = torch.linalg.vector_norm(torch.where(chosen, error, 0), dim=(-2, -1))
    return length
