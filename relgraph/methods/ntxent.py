"""NT-Xent, the loss of SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709), over two networks."""

from relgraph.graph.contrast import view_contrast
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.contrastive import Contrastive


class NTXent(Contrastive):
    """Identify the other network's vector of the same image among all other vectors of both networks.

    With z the 2N vectors of unit length, the student's behind its head and the teacher's, and i' the place of the other
    network's vector of the same image,

        L = -1 / 2N * sum_i log(exp(<z_i, z_i'> / tau) / sum over j != i of exp(<z_i, z_j> / tau))

    over all pairs of the batch; there is no sparse form. Called with outputs or vectors `(N, D_s)` and `(N, D_t)`;
    returns a scalar >= 0, which is 0 for one image alone. It needs no labels. Anchors are the student's vectors and the
    teacher's; the student alone receives gradient, from both.

    Paper, official code and this one: in SimCLR the two vectors of an image are those of one network and two views;
    here they are those of two networks and one view, which is our definition. The mean over 2N anchors and the
    exclusion of an anchor from its own keys are as in SimCLR. 0.5 is the temperature of its experiments on CIFAR-10,
    and a common default. To train a teacher by SimCLR itself, see `relgraph pretrain`.

    Paper: A Simple Framework for Contrastive Learning of Visual Representations (Chen, Kornblith, Norouzi, Hinton,
        ICML 2020, arXiv 2002.05709)
    Differs: the two vectors of an image are those of student and teacher, not two views' of one network; dense
        alone
    Topology: all pairs, across and within

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes.
        tau: Temperature > 0.
        head: "mlp", two linear layers with a ReLU between them; "linear", one; "none", which needs equal widths.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, numbers out of range, or widths that are missing or do not fit.

    >>> import torch
    >>> NTXent(tau=0.1)(torch.eye(4), torch.eye(4)).item() < 1e-3
    True
    """

    tau: float = option(default=0.5, above=0, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `ntxent`."""
        return {"ntxent": view_contrast(*self.vectors(student, teacher), self.tau)}
