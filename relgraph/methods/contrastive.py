"""What contrastive methods have in common: nodes, the student's head, and a queue where there is one."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import cosine
from relgraph.graph.memory import Queue
from relgraph.graph.pair import graph_pair
from relgraph.graph.relation import check_nodes
from relgraph.methods.base import PARTS, Batch, Method, Output, Part, as_output, check_positive, nodes_of
from relgraph.networks.heads import Projector

HeadKind = Literal["mlp", "linear", "none"]
HEADS: tuple[HeadKind, ...] = ("mlp", "linear", "none")


class Contrastive(Method):
    """A method whose student finds the teacher's vector of its image among others, and which needs no labels.

    The student's nodes go through a head to the teacher's width; the loss trains it, so its parameters belong into the
    optimiser. Head and loss are computed in float32 or wider. Without `student_width` there is no head, and both
    networks' vectors must have one width.

    Args:
        student_width: Width of the student's nodes.
        teacher_width: Width of the teacher's nodes.
        head: "mlp", two linear layers with a ReLU between them; "linear", one; "none", which needs equal widths.
        nodes: "feature" or "embedding".
        dim: Width of the embeddings of both networks, in place of the other two, where these are the nodes.

    Raises:
        RelgraphError: for unknown names, or widths that are missing or do not fit.
    """

    kernel = "cosine"
    criterion = "cross-entropy of softmax"
    gamma: ClassVar[float] = 0.0
    augment: ClassVar[Literal["crop", "contrastive"]] = "contrastive"

    def __init__(
        self, student_width: int | None, teacher_width: int | None, head: HeadKind, nodes: Part, dim: int | None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if nodes not in PARTS:
            raise unknown("kind of nodes", nodes, PARTS)
        if nodes == "map":
            raise RelgraphError(
                f"{name} compares one vector per image: nodes must be 'embedding' or 'feature', got 'map'"
            )
        if head not in HEADS:
            raise unknown("head", head, HEADS)
        if nodes == "embedding" and dim is not None:
            student_width = teacher_width = dim
        self.nodes = nodes
        self.reads = (nodes,)
        self.widths = {"student": student_width, "teacher": teacher_width}
        self.head = _make_head(name, head, student_width, teacher_width)

    def vectors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the student's nodes behind the head and the teacher's, both `(N, D_t)`."""
        s, t = (self.nodes_of_side(output, side) for output, side in ((student, "student"), (teacher, "teacher")))
        check_nodes(s, t, one_width=self.head is None)
        if self.head is not None:
            with torch.autocast(s.device.type, enabled=False):
                s = self.head(s.to(next(self.head.parameters()).dtype))
        if self.watcher is not None:  # the loss itself needs no pair
            self.show(graph_pair(s.detach(), t, kernel=cosine), cosine)
        return s, t

    def nodes_of_side(self, output: Output, side: str) -> Tensor:
        """Return the nodes `(N, D)` of one network, "student" or "teacher", as wide as the method was built for.

        Raises:
            RelgraphError: if the output has no such part or it has another width.
        """
        name, width = type(self).__name__, self.widths[side]
        found = nodes_of(output, self.nodes, name)
        if width is not None and (found.ndim != 2 or found.shape[1] != width):
            raise RelgraphError(f"{name} was built for {side} nodes (N, {width}), got {tuple(found.shape)}")
        return found


class Queued(Contrastive):
    """A contrastive method whose other keys are the teacher's vectors of the last batches.

    The queue changes only when `remember` is called: once a step, between `backward` and the optimiser's step.

    Args:
        student_width: See `Contrastive`.
        teacher_width: See `Contrastive`; always needed, for the queue.
        queue: Number of keys, K.
        head: See `Contrastive`.
        nodes: See `Contrastive`.
        dim: See `Contrastive`.

    Raises:
        RelgraphError: as `Contrastive`, and without the teacher's width or for a queue without keys.
    """

    topology = "own key and queue"

    def __init__(
        self,
        student_width: int | None,
        teacher_width: int | None,
        queue: int,
        head: HeadKind,
        nodes: Part,
        dim: int | None,
    ) -> None:
        super().__init__(student_width, teacher_width, head, nodes, dim)
        check_positive(queue=queue)
        self.queue = self.make_queue(queue)

    def make_queue(self, size: int) -> Queue:
        """Return a queue of the teacher's width.

        Raises:
            RelgraphError: if that is not known.
        """
        width = self.widths["teacher"]
        if width is None:
            name = type(self).__name__
            raise RelgraphError(f"{name} keeps a queue of the teacher's vectors: expected teacher_width, got none")
        return Queue(size, width)

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Put the teacher's vectors, of unit length, in place of the oldest."""
        _, whole, _ = self.whole(as_output(student), as_output(teacher), batch)
        self.queue.remember(cosine.nodes(self.nodes_of_side(whole, "teacher")))


def _make_head(name: str, head: HeadKind, student: int | None, teacher: int | None) -> nn.Module | None:
    """Return the layers from the student's to the teacher's width, if there are any."""
    if student is None:
        return None
    if teacher is None:
        raise RelgraphError(f"the head of {name} ends at the teacher's width: expected teacher_width, got none")
    check_positive(student_width=student, teacher_width=teacher)
    if head == "none":
        if student != teacher:
            raise RelgraphError(
                f"{name} without a head needs student and teacher of one width, got {student} and {teacher}"
            )
        return None
    return Projector(student, teacher) if head == "mlp" else nn.Linear(student, teacher)


def head_like(state: Mapping[str, Tensor]) -> nn.Module | None:
    """Return new layers of the shapes that a stored head's `state_dict` has; `None` for the state of no head.

    >>> head_like(nn.Linear(4, 6).state_dict())
    Linear(in_features=4, out_features=6, bias=True)
    """
    if not state:
        return None
    if "weight" in state:
        return nn.Linear(state["weight"].shape[1], len(state["weight"]))
    first, last = state["0.weight"], state["2.weight"]
    return Projector(first.shape[1], len(last), len(first))
