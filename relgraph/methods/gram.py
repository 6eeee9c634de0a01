"""Gram anchoring of dense features (Simeoni et al., DINOv3, 2025, arXiv 2508.10104)."""

from typing import ClassVar, Literal

from torch import Tensor

from relgraph.graph.criteria import Criterion, mean_square
from relgraph.graph.kernels import cosine
from relgraph.graph.relation import Relation
from relgraph.methods.base import Output, Part, option
from relgraph.methods.relational import Relational


class Gram(Relational):
    """Match the teacher's cosines between the patches of each image, the Gram anchoring of DINOv3.

    With x_i the vector at position i of the last stage map (of a vision transformer its patch tokens), of length 1, and
    P positions, `G_ij = <x_i, x_j>` and

        L = 1 / (B P^2) * sum_b sum_ij (G^s_ij - G^t_ij)^2

    over the B images, the diagonal included; with `level="batch"` the positions of all images are one graph. Called
    with outputs that hold maps `(B, C_s, H, W)` and `(B, C_t, h, w)`; returns a scalar in [0, 4]. The teacher receives
    no gradient: in the paper it is an earlier checkpoint of the student itself.

    Paper, official code and this one: the paper has the squared Frobenius norm, the code its mean over all P^2 entries,
    as here. The code's class clamps negative cosines of both networks at 0 (`negatives="clamped"`), which all released
    configurations switch off, as the default is here; with `negatives="teacher"` the teacher's alone are clamped, and
    the student's are pulled to 0, as that option of the code does. A teacher's map of another grid is resized to the
    student's, bicubic, as in the code. The weight is 2 at the end of its schedule.

    Paper: DINOv3 (Simeoni et al., 2025, arXiv 2508.10104)
    Differs: the squared Frobenius norm in the paper, its mean over the entries in the code and here
    Topology: positions of one image

    Args:
        level: Whether the positions of an "image" are a graph, or those of the whole "batch".
        negatives: Whether negative cosines are "kept", "clamped" at 0 in both networks, or in the "teacher" alone.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        pool: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, or outputs without the nodes that it reads.

    >>> import torch
    >>> x = torch.randn(2, 4, 3, 3)
    >>> Gram()(Output(x, maps=(2 * x,)), Output(x, maps=(x,))).item() < 1e-12
    True
    """

    weight = 2.0
    resize: ClassVar[str] = "bicubic"

    level: Literal["image", "batch"] = option(default="image", kw_only=True)
    negatives: Literal["kept", "clamped", "teacher"] = option(default="kept", kw_only=True)
    nodes: Part = option(default="positions", kw_only=True)

    def __post_init__(self) -> None:
        """Compare the positions of all images together, if that is asked for."""
        super().__post_init__()
        if self.level == "batch":
            self.pointwise = False

    def make_relation(self) -> Relation:
        """Return the relation of the cosines."""
        return Relation(cosine, criterion=CRITERIA[self.negatives])

    def positions(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the nodes of each image's graphs, or of the one graph of all images."""
        s, t = super().positions(student, teacher)
        return (s, t) if self.level == "image" else (s.flatten(0, 1).unsqueeze(0), t.flatten(0, 1).unsqueeze(0))


def _clamped(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.clamp_min(0) - teacher.clamp_min(0)).square().sum(-1)


def _teacher_clamped(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher.clamp_min(0)).square().sum(-1)


CRITERIA = {
    "kept": mean_square,
    "clamped": Criterion(_clamped, mean_square.finish, "mean square of positive weights", additive=True),
    "teacher": Criterion(_teacher_clamped, mean_square.finish, "mean square to positive weights", additive=True),
}
