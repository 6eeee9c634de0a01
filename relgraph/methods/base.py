"""What every method is made of: the networks' outputs, the batch, and a module that turns them into one scalar."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """What a network says of a batch.

    Attributes:
        embedding: The nodes of its graph, `(N, D)`.
        logits: `(N, classes)`, where there is a classifier.
        feature: The pooled vector below the projection, `(N, width)`, where there is one.
    """

    embedding: Tensor
    logits: Tensor | None = None
    feature: Tensor | None = None

    def detach(self) -> "Output":
        """Return the same without gradient."""
        return Output(*(None if part is None else part.detach() for part in (self.embedding, self.logits, self.feature)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Batch:
    """What a method may know of the images besides the two outputs.

    Attributes:
        index: Position of each image in the training set, `(N,)`.
        labels: Class of each image, `(N,)`; -1 where it is unknown.
    """

    index: Tensor
    labels: Tensor


class Method(nn.Module):
    """A published choice of how a student follows a teacher: `method(student, teacher, batch) -> scalar`.

    Student and teacher are `Output`s, or bare embeddings `(N, D)` where a method needs no more. The teacher is detached here, once, for all
    methods: no method sends gradient into it. A loss is pure: it may read a memory and never writes it; `remember` does, after the step.
    """

    def forward(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Tensor:
        """Return the loss of one batch, a scalar.

        Raises:
            RelgraphError: if shapes or values do not fit the method.
        """
        return self.compare(_as_output(student), _as_output(teacher).detach(), batch)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Tensor:
        """Return the loss of one batch; the teacher comes detached."""
        raise NotImplementedError

    def refined_teacher(self, student: Output, teacher: Output) -> Tensor | None:
        """Return the teacher's nodes as this method refines them, *with* gradient, `(N, D)`, if it learns a refinement of the teacher.

        The teacher's own cross-entropy on them is what trains it; `None` says that there is nothing to train.
        """
        return None

    @torch.no_grad()
    def remember(self, student: Output, teacher: Output, batch: Batch) -> None:
        """Write this batch into the method's memory, after the step; most methods have none."""


def _as_output(given: Output | Tensor) -> Output:
    return given if isinstance(given, Output) else Output(given)
