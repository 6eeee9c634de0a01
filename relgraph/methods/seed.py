"""Self-supervised distillation (Fang, Wang, Wang, Zhang, Yang, Liu, ICLR 2021, arXiv 2101.04731)."""

import torch
from torch import Tensor

from relgraph.graph.contrast import soft_queue_contrast
from relgraph.graph.kernels import cosine
from relgraph.graph.memory import Queue
from relgraph.methods.base import Batch, Output, Terms, Views, as_output, extra_of, option
from relgraph.methods.contrastive import Queued


class SEED(Queued):
    """Match the teacher's similarities to a queue of its vectors, each image's own vector first.

    With s and t the vectors of unit length, the student's behind its head, and D+ = [t_i, Q] the teacher's vector of
    the same image and a queue Q of K earlier ones,

        p^t_i = softmax over D+ of <t_i, .> / teacher_tau        p^s_i = softmax over D+ of <s_i, .> / tau
        L = -1 / N * sum_ij p^t_ij log p^s_ij

    What to choose. At `teacher_tau=1e-4`, the official code's, the target is one-hot on the own vector, since
    `<t_i, t_i> = 1` is the largest cosine: SEED then equals the method `moco`, InfoNCE with the teacher as key encoder.
    Soft targets begin at about 0.01 and are softer at 0.05: they also train the student to match the teacher's
    similarities to other images. Choose 1e-4 to repeat the official code, 0.01 for the method as the paper describes
    it, more if the teacher's vectors all lie far from each other.

    Called with outputs or vectors `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. It needs no labels, and both
    networks get one view of each image. The student alone receives gradient. The queue changes only when `remember` is
    called: once a step, between `backward` and the optimiser's step. It starts with random unit vectors and takes K x
    D_t numbers, in checkpoints as well: 32 MiB for 65,536 keys of 128, 512 MiB of 2,048.

    With `patches` > 0 both networks also get that number of small patches of each image, as `Output.extra`: the
    same loss of each patch's own vectors, averaged over the patches, against a second queue of as many keys, which
    holds the first patch of each image. It is added under the name `seed_patches`.

    Paper, official code and this one: the paper's teacher temperature is 0.01 according to others (not verified), the
    code's is 1e-4. A summary by others sums over the batch and puts the current vectors into the queue before the loss;
    the code, and this one, average, put the own vector first and the batch into the queue afterwards. The code needs K
    divisible by the batch; here any K will do. Its small-patch variant has six patches and adds both losses, as here.
    The code makes matrices `(N, 1 + K)`; here the queue is read in blocks, and the loss can be differentiated once.

    Paper: SEED: Self-supervised Distillation for Visual Representation (Fang, Wang, Wang, Zhang, Yang, Liu, ICLR
        2021, arXiv 2101.04731)
    Differs: at the official code's teacher temperature, 1e-4, the target is one-hot on the own vector, which is
        MoCo's InfoNCE with the teacher's keys; it is soft from about 0.01 on, said to be the paper's
    Criterion: soft cross-entropy of softmax

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes, D_t.
        queue: Number of keys, K.
        tau: The student's temperature > 0.
        teacher_tau: The teacher's temperature > 0: 1e-4 makes the target one-hot, from about 0.01 on it is soft.
        head: "mlp", two linear layers with a ReLU between them; "linear", one; "none", which needs equal widths.
        patches: Small patches of each image; 0 for none, 6 in the official small-patch variant.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, numbers out of range, without the teacher's width, for nodes of another
            width, or without the patches that it needs.

    >>> loss = SEED(student_width=6, teacher_width=8, queue=64)
    >>> student, teacher = torch.randn(3, 6), torch.randn(3, 8)
    >>> loss(student, teacher).backward()
    >>> loss.remember(student, teacher, Batch(torch.arange(3), torch.full((3,), -1)))  # then the optimiser's step
    >>> int(loss.memory.next), list(loss.terms(student, teacher))
    (3, ['seed'])
    """

    tau: float = option(default=0.2, above=0, kw_only=True)
    teacher_tau: float = option(default=1e-4, above=0, kw_only=True)
    patches: int = option(default=0, least=0, kw_only=True)

    def __post_init__(self) -> None:
        """Request patches and fill their queue, if there are any."""
        super().__post_init__()
        self.views = Views("patches", self.patches) if self.patches else None
        self.patch_memory = Queue(*self.memory.keys.shape) if self.patches else None

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `seed` and, if there are patches, `seed_patches`."""
        s, t = self.vectors(student, teacher)
        terms = {"seed": self._contrast(s, t, self.memory)}
        if self.patch_memory is not None:
            patches = (extra_of(output, self.views, len(s), "SEED") for output in (student, teacher))
            terms["seed_patches"] = self._contrast(*self.vectors(*patches), self.patch_memory)
        return terms

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Put the teacher's vectors in place of the oldest, and those of the first patches into their own queue."""
        super().remember(student, teacher, batch)
        if self.patch_memory is not None:
            output = as_output(teacher)
            count = len(self.teacher_nodes(output))
            patches = self.teacher_nodes(extra_of(output, self.views, count, "SEED"))
            self.patch_memory.remember(cosine.nodes(patches[:count]))

    def _contrast(self, student: Tensor, teacher: Tensor, queue: Queue) -> Tensor:
        return soft_queue_contrast(student, teacher, queue.keys, self.tau, self.teacher_tau)
