"""Rank order preservation (Wu, Wang, Zhou, Li, ICLR 2023)."""

from typing import Literal

import torch
from torch import Tensor

from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import cosine
from relgraph.graph.ranking import by_differences, differences, ranked
from relgraph.graph.relation import Relation
from relgraph.methods.against import Keyed
from relgraph.methods.base import option

STEP = 1e-6  # temperature of the teacher's sigmoid, the official code's: a step but for equal keys


class ROP(Keyed):
    """Match the order in which the teacher ranks its own vectors around each image.

    With `T_m = cos(t_i, t_j)` and `X_m = cos(s_i, t_j)` of the `length` keys j that the teacher ranks first around
    image i, in its order m = 1..k, the image itself first,

        G_mn = sigmoid((T_n - T_m) / 1e-6)    S_mn = sigmoid((X_n - T_m) / tau)    w_m = m softmax_m(rho T_m)
        L = 1 / (N k) * sum_i sum_mn w_m (G_mn - S_mn)^2

    Since the student's similarity n is compared with the teacher's similarity m, absolute similarities count too;
    `reference="student"` compares it with the student's own, X_m. The weights grow with the position, times a softmax
    that is almost flat at the default `rho`. The k x k differences are made for some anchors at a time. Called with
    outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`, and for `memory="images"` a `Batch` with
    indices; returns a scalar >= 0.

    Paper, official code and this one: the paper's own code was not found; this is the one of a benchmark
    (AIR-Distiller). Whether the paper subtracts T_m or X_m could not be verified; the code subtracts T_m. The paper's
    second variant, a learned monotonic map of similarities, is not in that code, nor here. The code refuses batches of
    fewer than `length` images, all of which are compared here. Similarities of the teacher that are equal in float32
    are ranked in the order of the batch here, in any order there. Sparse graphs and memories are ours.

    Paper: A General Rank Preserving Framework for Asymmetric Image Retrieval (Wu, Wang, Zhou, Li, ICLR 2023)
    Differs: a benchmark's code of the first of the paper's two variants, in which the student's similarities are
        compared with the teacher's and later positions weigh more; sparse graphs and memories are ours
    Topology: nearest; memory

    Args:
        student_width: See `Against`.
        teacher_width: See `Against`.
        length: See `Keyed`; the published k.
        tau: Temperature > 0 of the student's sigmoid.
        rho: Sharpness of the weights in the teacher's similarity, at least 0.
        reference: Whose similarity is subtracted from the student's: the "teacher"'s or the "student"'s own.
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
        RelgraphError: as `Keyed`.

    >>> import torch
    >>> x = torch.randn(8, 4)
    >>> ROP()(x, x).item() < ROP()(x.roll(1, 1), x).item()
    True
    """

    tau: float = option(default=0.1, above=0, kw_only=True)
    rho: float = option(default=0.2, least=0, kw_only=True)
    reference: Literal["teacher", "student"] = option(default="teacher", kw_only=True)

    def make_relation(self) -> Relation:
        """Return the relation of orders."""
        return Relation(cosine, criterion=Criterion(self._disorder, name="squared order"), against="teacher")

    def _disorder(self, student: Tensor, teacher: Tensor) -> Tensor:
        return by_differences(self._of_ranked, *ranked(student, teacher, self.length))

    def _of_ranked(self, s: Tensor, t: Tensor) -> Tensor:
        """Return the weighted squares of each anchor, `(A, k) x (A, k) -> (A,)`."""
        order = torch.sigmoid(differences(t) / STEP)
        found = torch.sigmoid(differences(s, t if self.reference == "teacher" else None) / self.tau)
        place = torch.arange(1, 1 + t.shape[-1], device=t.device)
        weight = place * (self.rho * t).softmax(-1)
        return (weight.unsqueeze(-1) * (order - found).square()).sum((-2, -1)) / t.shape[-1]
