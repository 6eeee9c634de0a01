"""An anchor: each student node by its own teacher node (SimReg; Navaneet et al., BMVC 2021, arXiv 2201.05131)."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from relgraph.graph.criteria import Criterion, huber, mean_square
from relgraph.graph.kernels import at_least_float32, cosine, precision_of
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.contrastive import Contrastive
from relgraph.methods.relational import overflowed
from relgraph.networks.heads import Regressor

OF_NUMBERS: dict[str, Criterion] = {"smooth_l1": huber, "mean_square": mean_square}


class Anchor(Contrastive):
    """Give each student node the place of its own teacher node, and read no other edge of the cross graph.

    With s behind the head,

        L = 1 / N * sum_i (2 - 2 cos(s_i, t_i))        distance="cosine"
        L = 1 / (N D) * sum_ij (s_ij - t_ij)^2         distance="mean_square"
        L = 1 / (N D) * sum_ij huber(s_ij - t_ij)      distance="smooth_l1": d^2 / 2 where |d| < 1, else |d| - 1/2

    A relation does not see a rotation of the student's space; added to it, `--method rkd+0.5*anchor`, this says where
    the nodes are, so that the student can be asked for neighbours among the teacher's vectors. Called with outputs or
    vectors `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0, which is infinite where the numbers of a "mean_square"
    differ by 2e19 or more. It needs no labels. The student alone receives gradient. The head is a part of the student,
    `Method.space`, and stored with it.

    Paper, official code and this one: SimReg is `head=mlp`, four linear layers w-2w-w-2w-D_t with batch norm and ReLU
    after the first and the third, and drops the head afterwards: its student is the backbone. Its flag for vectors that
    are not normalised normalises them nevertheless. The script gives one weakly augmented view to both networks. The
    mean square of linear projections is lightly-train's second version (there on the positions of maps, with the
    teacher's last two blocks) and the plain regression of features. By default there is a linear layer where the
    widths differ, and none where they are equal: ours.

    Paper: SimReg: Regression as a Simple Yet Effective Tool for Self-supervised Knowledge Distillation (Navaneet,
        Abbasi Koohpayegani, Tejankar, Pirsiavash, BMVC 2021, arXiv 2201.05131)
    Differs: SimReg has the head mlp and deploys the student without it; here it is linear where widths differ, and
        stays in the student's file
    Kernel: cosine
    Topology: own edges
    Criterion: mean of 2 - 2 cos

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes.
        distance: "cosine", "smooth_l1" or "mean_square".
        head: "mlp", SimReg's four layers; "linear", one; "none", which needs equal widths; by default "linear" if the
            widths differ, else none.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, or widths that are missing or do not fit.

    >>> import torch
    >>> Anchor()(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]]))  # 0 and 2
    tensor(1.)
    """

    pointwise = True
    augment: ClassVar[Literal["crop", "contrastive"]] = "crop"

    distance: Literal["cosine", "smooth_l1", "mean_square"] = option(default="cosine", kw_only=True)
    head: Literal["mlp", "linear", "none"] | None = option(default=None, kw_only=True)  # type: ignore[assignment]

    def make_head(self, student: int, teacher: int) -> nn.Module | None:
        """Return SimReg's layers, a linear one or none."""
        if self.head is None and student == teacher:
            return None
        return Regressor(student, teacher) if self.head == "mlp" else super().make_head(student, teacher)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `anchor`."""
        s, t = self.vectors(student, teacher)
        return {"anchor": self.apart(s, t).to(precision_of(s, t))}

    def apart(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean distance of vectors `(N, D)`, a scalar."""
        if self.distance == "cosine":
            return (2 - 2 * cosine.paired(cosine.nodes(student), cosine.nodes(teacher))).mean()
        s, t = at_least_float32(student), at_least_float32(teacher)
        return overflowed(OF_NUMBERS[self.distance](s, t), s, t)
