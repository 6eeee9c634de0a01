"""Relational representation distillation (Giakoumoglou, Stathaki, 2024, arXiv 2407.12073)."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from relgraph.errors import RelgraphError
from relgraph.graph.contrast import soft_rows
from relgraph.graph.kernels import at_least_float32, cosine, excess, full_precision
from relgraph.graph.memory import Queue
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.contrastive import Queued


class RRD(Queued):
    """Match the teacher's similarities to a queue of its vectors that holds the current batch.

    With s and t the vectors of unit length, the student's behind its head, and Q the K keys once those of this batch
    have taken the place of the oldest,

        p^t_i = softmax over Q of <t_i, .> / teacher_tau        p^s_i = softmax over Q of <s_i, .> / tau
        L = -1 / N * sum_ij p^t_ij log p^s_ij

    It is `seed` but for the other vectors of the batch, which are keys here as well. Called with outputs or vectors
    `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. The student alone receives gradient. The queue changes only when
    `remember` is called; the loss reads a copy of it that the batch has been put into, K x D_t numbers.

    Paper, official code and this one: the code writes its queue, then reads it; here the loss writes nothing, and has
    the same value. It maps both networks to 128 numbers by linear layers, but detaches the teacher's and writes the
    queue without gradient, so that the teacher's layer is never trained: a random projection. Its queue starts with
    columns, not rows, of unit length. Here the student is mapped to the teacher's width and the teacher's vectors are
    its own; `official=True` does as the code does. Its classes are documented with the temperatures 0.02 of the student
    and 0.1 of the teacher, as here; the defaults of its command line are the reverse. The loss is a cross-entropy, from
    which no entropy is subtracted. The form with CRD's memories, a softmax of exponentials, is not here.

    Paper: Relational Representation Distillation (Giakoumoglou, Stathaki, 2024, arXiv 2407.12073)
    Differs: the code compares projections of 128 numbers, the teacher's of which is random, for it gets no gradient;
        its command line exchanges the two temperatures
    Topology: queue with the batch
    Criterion: soft cross-entropy of softmax

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes, D_t.
        queue: Number of keys, K.
        tau: The student's temperature > 0.
        teacher_tau: The teacher's temperature > 0.
        head: "linear", one layer; "mlp", two with a ReLU between them; "none", which needs equal widths.
        official: Whether both networks are mapped to 128 numbers, the teacher at random, as in the code.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, numbers out of range, without the teacher's width, for nodes of another
            width, or for `official` without the student's width or with another head than "linear".

    >>> import torch
    >>> loss = RRD(student_width=6, teacher_width=8, queue=64)
    >>> student, teacher = torch.randn(3, 6), torch.randn(3, 8)
    >>> loss(student, teacher).backward()
    >>> loss.remember(student, teacher, Batch(torch.arange(3), torch.full((3,), -1)))  # then the optimiser's step
    >>> int(loss.memory.next)
    3
    """

    gamma: ClassVar[float] = 1.0
    augment: ClassVar[Literal["crop", "contrastive"]] = "crop"
    width: ClassVar[int] = 128  # of the official projections

    queue: int = option(default=16384, above=0, kw_only=True)
    tau: float = option(default=0.02, above=0, kw_only=True)
    teacher_tau: float = option(default=0.1, above=0, kw_only=True)
    head: Literal["mlp", "linear", "none"] = option(default="linear", kw_only=True)
    official: bool = option(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Draw the teacher's projection, if there is one."""
        super().__post_init__()
        if self.official:
            if self.student_width is None or self.head != "linear" or self.teacher_width is None:
                expected = "expected the student's width and head='linear'"
                raise RelgraphError(f"the official RRD maps both networks by linear layers: {expected}")
            layer = nn.Linear(self.teacher_width, self.width)
            self.register_buffer("teacher_weight", layer.weight.detach())  # no parameters: nothing trains them
            self.register_buffer("teacher_bias", layer.bias.detach())
            self.memory.keys.copy_(normalize(self.memory.keys, dim=0))

    def make_head(self, student: int, teacher: int) -> nn.Module | None:
        """Return the head, which ends at the width of the keys."""
        return super().make_head(student, self.width if self.official else teacher)

    def make_memory(self, teacher: int) -> Queue:
        """Return the queue, of the width of the keys."""
        return Queue(self.queue, self.width if self.official else teacher)

    def teacher_nodes(self, output: Output) -> Tensor:
        """Return the teacher's nodes, behind the random projection if there is one."""
        t = super().teacher_nodes(output)
        if not self.official:
            return t
        weight, bias = self.get_buffer("teacher_weight"), self.get_buffer("teacher_bias")
        with full_precision(t):
            return linear((at_least_float32(t) / excess(t)).to(weight), weight, bias)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `rrd`."""
        s, t = self.vectors(student, teacher)
        crossed, _ = soft_rows(s, t, self.memory.after(cosine.nodes(t)), self.tau, self.teacher_tau)
        return {"rrd": crossed.mean()}
