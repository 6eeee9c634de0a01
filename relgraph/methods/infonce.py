"""InfoNCE within a batch (van den Oord, Li, Vinyals, 2018, arXiv 1807.03748), student anchors and teacher keys."""

from relgraph.graph.contrast import batch_contrast
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.contrastive import Contrastive


class InfoNCE(Contrastive):
    """Identify the teacher's vector of the same image among those of all images of the batch.

    With s and t the vectors of unit length, the student's behind its head,

        L = -1 / N * sum_i log(exp(<s_i, t_i> / tau) / sum_j exp(<s_i, t_j> / tau))

    over all pairs of the batch; there is no sparse form. Called with outputs or vectors `(N, D_s)` and `(N, D_t)`;
    returns a scalar >= 0, which is 0 for one image alone. It needs no labels. The student alone receives gradient.

    Paper, official code and this one: the paper predicts later parts of a sequence with a bilinear score and draws the
    other keys; the cosine, the temperature and the batch as keys are common in later work. As a distillation, with the
    teacher's vectors as keys, it is our definition; no official code has it. 0.07 is MoCo's first temperature (He et
    al., 2019, arXiv 1911.05722).

    Paper: Representation Learning with Contrastive Predictive Coding (van den Oord, Li, Vinyals, 2018, arXiv
        1807.03748)
    Differs: cosine over tau with student anchors and the batch's teacher vectors as keys: our definition, dense
        alone
    Topology: across

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes.
        tau: Temperature > 0.
        head: "mlp", two linear layers with a ReLU between them; "linear", one; "none", which needs equal widths.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, numbers out of range, or widths that are missing or do not fit.

    >>> import torch
    >>> InfoNCE(tau=0.1)(torch.eye(4), torch.eye(4)).item() < 1e-3
    True
    """

    tau: float = option(default=0.07, above=0, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `infonce`."""
        return {"infonce": batch_contrast(*self.vectors(student, teacher), self.tau)}
