"""The losses of lightly-train's distillation (Lightly, 2025)."""

from typing import Literal

import torch
from torch import Tensor

from relgraph.graph.contrast import soft_rows
from relgraph.graph.criteria import log_kl
from relgraph.graph.kernels import cosine
from relgraph.graph.positions import on_grid, positions_of
from relgraph.graph.relation import Relation
from relgraph.graph.scales import softmax
from relgraph.methods.base import Batch, Output, Terms, as_output, option
from relgraph.methods.contrastive import Queued
from relgraph.methods.stages import last_maps


class Lightly(Queued):
    """Match the teacher's similarities to a queue of its vectors by the divergence, at one temperature.

    With s and t the vectors of unit length, the student's behind its head, and Q the K keys once those of this batch
    have taken the place of the oldest,

        p^x_i = softmax over Q of <x_i, .> / tau        L = 1 / N * sum_i KL(p^t_i || p^s_i)

    With `local_weight` there is also the term of the positions of each image: with c the cosines of a position to all P
    of its image, `local = 1 / (N P) * sum_i KL(softmax(c^t_i / tau) || softmax(c^s_i / tau))` on the last stage maps,
    the student's resized to the teacher's grid (bilinear).

    Called with outputs or vectors `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0, which is 0 where both agree. It
    needs no labels. The student alone receives gradient. The queue changes only when `remember` is called; the loss
    reads a copy of it that the batch has been put into, K x D_t numbers. It is `rrd` with equal temperatures and the
    teacher's entropy subtracted.

    Paper, official code and this one: there is no paper; this is the loss of the library's first version and the global
    term of its third, as its code has it. The code writes its queue, then reads it; here the loss writes nothing. Its
    queue starts with zeros, which are candidates of similarity 0 until it has filled, and of a batch larger than the
    queue it keeps the first vectors: so does `official=True`; else keys start at random, as in `seed`, and the last
    vectors are kept. Its queue is one a device, this one is of the whole batch. It mixes the images of a batch, the
    same mixture for both networks, which is not here. It takes 8,192 keys, fewer for small data (16 to 4,096).

    Paper: none; lightly-train's distillation, versions 1 and 3 (Lightly, 2025)
    Differs: the code starts with keys of zeros, one queue a device, and mixes images; here random keys, one queue,
        and no mixture
    Topology: queue with the batch
    Criterion: KL of softmax

    Args:
        student_width: Width of the student's nodes; without it there is no head.
        teacher_width: Width of the teacher's nodes, D_t.
        queue: Number of keys, K.
        tau: Temperature > 0 of both networks.
        local_weight: Weight of the local term; 1 in the library's third version.
        head: "linear", one layer; "mlp", two with a ReLU between them; "none", which needs equal widths.
        official: Whether the queue starts with zeros and keeps the first vectors of a batch that is larger.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, numbers out of range, without the teacher's width, or for nodes of another
            width.

    >>> loss, x = Lightly(teacher_width=8, queue=64), torch.randn(3, 8)
    >>> bool(loss(x, x).abs() < 1e-5), bool(loss(x, torch.randn(3, 8)) > 0.1)
    (True, True)
    """

    queue: int = option(default=8192, above=0, kw_only=True)
    tau: float = option(default=0.07, above=0, kw_only=True)
    local_weight: float = option(default=0.0, least=0, term="local", kw_only=True)
    head: Literal["mlp", "linear", "none"] = option(default="linear", kw_only=True)
    official: bool = option(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Empty the queue, if that is asked for."""
        super().__post_init__()
        if self.official:
            self.memory.keys.zero_()
        if self.local_weight > 0:
            self.reads = (*self.reads, "map")

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `lightly`."""
        s, t = self.vectors(student, teacher)
        crossed, entropy = soft_rows(s, t, self.memory.after(self._written(t)), self.tau, self.tau)
        terms = {"lightly": (crossed - entropy).mean()}
        return terms if self.local_weight == 0 else {**terms, "local": self._local(student, teacher)}

    def _local(self, student: Output, teacher: Output) -> Tensor:
        """Return the divergence of the rows of cosines of each image's positions, on the teacher's grid: a scalar."""
        s, t = last_maps(student, teacher, "Lightly")
        rows = Relation(cosine, scale=softmax(self.tau), criterion=log_kl)
        return rows(positions_of(on_grid(s, t.shape[-2:])), positions_of(t))

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Put the teacher's vectors, of unit length, in place of the oldest."""
        self.memory.remember(self._written(self.teacher_nodes(as_output(teacher))))

    def _written(self, teacher: Tensor) -> Tensor:
        keys = cosine.nodes(teacher)
        return keys[: self.queue] if self.official else keys
