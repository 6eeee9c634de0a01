"""Base classes of contrastive methods: nodes, the student's head, and a queue if there is one."""

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import cosine, excess, full_precision
from relgraph.graph.memory import Queue
from relgraph.graph.pair import check_nodes
from relgraph.methods.base import Batch, Method, Output, RunFacts, Space, as_output, chosen_nodes, nodes_of, option
from relgraph.networks.heads import Projector

Vectors = Literal["embedding", "feature"]


class Contrastive(Method):
    """A method that identifies the teacher's vector of the same image among others; it needs no labels.

    The student's nodes go through a head to the teacher's width; the loss trains the head, so its parameters must be
    passed to the optimiser. Head and loss are computed in float32 or wider. Without `student_width` there is no head,
    and both networks' vectors must have one width.

    Kernel: cosine
    Criterion: cross-entropy of softmax

    Args:
        student_width: Width of the student's nodes.
        teacher_width: Width of the teacher's nodes.
        head: "mlp", two linear layers with a ReLU between them; "linear", one; "none", which needs equal widths.
        nodes: "feature" or "embedding".

    Raises:
        RelgraphError: for unknown names, or widths that are missing or do not fit.
    """

    gamma: ClassVar[float] = 0.0
    augment: ClassVar[Literal["crop", "contrastive"]] = "contrastive"

    student_width: int | None = None
    teacher_width: int | None = None
    head: Literal["mlp", "linear", "none"] = option(default="mlp", kw_only=True)
    nodes: Vectors = option(default="feature", kw_only=True)

    def __post_init__(self) -> None:
        """Build the student's head."""
        super().__post_init__()
        self.reads = (self.nodes,)
        self.projector: nn.Module | None = None
        name, s, t = type(self).__name__, self.student_width, self.teacher_width
        if s is None:
            return
        if t is None:
            raise RelgraphError(f"the head of {name} ends at the teacher's width: expected teacher_width, got none")
        if min(s, t) < 1:
            raise RelgraphError(f"the head of {name} needs widths of at least 1, got {s} and {t}")
        self.projector = self.make_head(s, t)

    def make_head(self, student: int, teacher: int) -> nn.Module | None:
        """Return the layers on the student's side for these widths, if there are any."""
        if self.head != "none":
            return Projector(student, teacher) if self.head == "mlp" else nn.Linear(student, teacher)
        if student != teacher:
            told = "without a head needs student and teacher of one width"
            raise RelgraphError(f"{type(self).__name__} {told}, got {student} and {teacher}")
        return None

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the widths that its nodes have in a run."""
        return cls(*run.widths(chosen_nodes(cls, options)), **options)

    def vectors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the student's nodes behind the head and the teacher's, both `(N, D_t)`."""
        s = nodes_of(student, self.nodes, type(self).__name__, "student", self.student_width)
        t = self.teacher_nodes(teacher)
        check_nodes(s, t, one_width=self.projector is None)
        return s if self.projector is None else projected(self.projector, s), t

    def space(self) -> Space:
        """Return the student's layers; the teacher's vectors are its nodes."""
        return Space(self.nodes, self.projector, joint=True)

    def teacher_nodes(self, output: Output) -> Tensor:
        """Return the teacher's nodes `(N, D_t)`, of the width that the method was built for."""
        return nodes_of(output, self.nodes, type(self).__name__, "teacher", self.teacher_width)


def projected(layers: nn.Module, nodes: Tensor) -> Tensor:
    """Return nodes behind layers, `(N, D) -> (N, D')`, in float32 or wider; a row of huge numbers is divided first."""
    with full_precision(nodes):
        found: Tensor = layers((nodes / excess(nodes)).to(next(layers.parameters()).dtype))
    return found


class Queued(Contrastive):
    """A contrastive method whose negative keys are the teacher's vectors of the last batches.

    The queue changes only when `remember` is called: once a step, between `backward` and the optimiser's step.

    Topology: own key and queue

    Args:
        student_width: See `Contrastive`.
        teacher_width: See `Contrastive`; always needed, for the queue.
        queue: Number of keys, K.
        head: See `Contrastive`.
        nodes: See `Contrastive`.

    Raises:
        RelgraphError: as `Contrastive`, and without the teacher's width or for a queue without keys.
    """

    queue: int = option(default=65536, above=0, kw_only=True)

    def __post_init__(self) -> None:
        """Fill the queue."""
        super().__post_init__()
        if self.teacher_width is None:
            name = type(self).__name__
            raise RelgraphError(f"{name} keeps a queue of the teacher's vectors: expected teacher_width, got none")
        self.memory = self.make_memory(self.teacher_width)

    def make_memory(self, teacher: int) -> Queue:
        """Return the queue for the teacher's width."""
        return Queue(self.queue, teacher)

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Put the teacher's vectors, of unit length, in place of the oldest."""
        self.memory.remember(cosine.nodes(self.teacher_nodes(as_output(teacher))))
