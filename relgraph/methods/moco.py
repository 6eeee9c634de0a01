"""Momentum contrast's loss, with the teacher as key encoder (He, Fan, Wu, Xie, Girshick, 2019, arXiv 1911.05722)."""

from relgraph.graph.contrast import queue_contrast
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.contrastive import Queued


class MoCo(Queued):
    """Identify the teacher's vector of the same image among a queue of its vectors of earlier images.

    With s and t the vectors of unit length, the student's behind its head, and D+ = [t_i, Q] the teacher's vector of
    the same image and a queue Q of K earlier ones,

        L = -1 / N * sum_i log p_i0,    p_i = softmax over D+ of <s_i, .> / tau

    Called with outputs or vectors `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. It needs no labels. The student
    alone receives gradient. The queue changes only when `remember` is called: once a step, between `backward` and the
    optimiser's step. It starts with random unit vectors and takes K x D_t numbers, in checkpoints as well: 32 MiB for
    65,536 keys of 128, 512 MiB of 2,048.

    Paper, official code and this one: in paper and code the key encoder is a running mean of the student's weights and
    gets another view of the image; here it is the teacher, which is fixed, and both get the same view. That is SEED at
    a teacher temperature towards 0, its official code's 1e-4 included. tau is 0.2, that of MoCo v2 (Chen et al., 2020,
    arXiv 2003.04297), as is the head of two layers, here as wide in the middle as the student's nodes; the first paper
    has 0.07 and one layer. The code's K is a multiple of the batch; here any K will do. To train a teacher by MoCo
    itself, see `relgraph pretrain`.

    Paper: Momentum Contrast for Unsupervised Visual Representation Learning (He, Fan, Wu, Xie, Girshick, 2019,
        arXiv 1911.05722)
    Differs: the key encoder is the teacher, which reads the student's view, not a running mean of the student with a
        view of its own; tau and head as in MoCo v2

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes, D_t.
        queue: Number of keys, K.
        tau: Temperature > 0.
        head: "mlp", two linear layers with a ReLU between them; "linear", one; "none", which needs equal widths.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, numbers out of range, without the teacher's width, or for nodes of another
            width.

    >>> import torch
    >>> loss = MoCo(teacher_width=8, queue=64)
    >>> student, teacher = torch.randn(3, 8), torch.randn(3, 8)
    >>> bool(loss(teacher, teacher) < loss(student, teacher))
    True
    """

    tau: float = option(default=0.2, above=0, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `moco`."""
        return {"moco": queue_contrast(*self.vectors(student, teacher), self.memory.keys, self.tau)}
