"""What every method is made of: the networks' outputs, the batch, and a module that turns them into named losses."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """What a network says of a batch.

    Attributes:
        embedding: The nodes of its graph, `(N, D)`.
        logits: `(N, classes)`, where there is a classifier.
        feature: The pooled vector below the projection, `(N, width)`, where there is one.
        maps: The maps between the network's stages, in order, each `(N, C, H, W)`; none of a teacher.
    """

    embedding: Tensor
    logits: Tensor | None = None
    feature: Tensor | None = None
    maps: tuple[Tensor, ...] = ()

    def detach(self) -> "Output":
        """Return the same without gradient."""
        return Output(
            self.embedding.detach(),
            None if self.logits is None else self.logits.detach(),
            None if self.feature is None else self.feature.detach(),
            tuple(stage.detach() for stage in self.maps),
        )


class Batch(NamedTuple):
    """What a method may know of the images besides the two outputs.

    Attributes:
        indices: Position of each image in the training set, `(N,)`.
        labels: Class of each image, `(N,)`; -1 where it is unknown.
    """

    indices: Tensor
    labels: Tensor


class Method(nn.Module):
    """A published choice of how a student follows a teacher: `method(student, teacher, batch) -> scalar`.

    Student and teacher are `Output`s, or bare embeddings `(N, D)` where a method needs no more. The teacher is
    detached in `terms`, once, for all methods: no method sends gradient into it. A loss is pure: it may read a
    memory and never writes it; `remember` does, after the step. A method implements `compare`.
    """

    def forward(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Tensor:
        """Return the loss of one batch, a scalar: the sum of its terms.

        Raises:
            RelgraphError: if shapes or values do not fit the method.
        """
        return torch.stack(list(self.terms(student, teacher, batch).values())).sum()

    def terms(
        self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name, scalars, for logs and for telling which one went wrong."""
        return self.compare(_as_output(student), _as_output(teacher).detach(), batch)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return the weighted terms of one batch; the teacher comes detached."""
        raise NotImplementedError

    def refined_teacher(self, student: Output, teacher: Output) -> Tensor | None:
        """Return the teacher's nodes as this method refines them, *with* gradient, `(N, D)`.

        The teacher's own cross-entropy on them is what trains it; `None` says that there is nothing to train.
        """
        return None

    def teacher_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the teacher's own cross-entropy trains, not the student's optimiser."""
        return ()

    @torch.no_grad()
    def remember(self, student: Output, teacher: Output, batch: Batch) -> None:
        """Write this batch into the method's memory, after the step; most methods have none."""


def _as_output(given: Output | Tensor) -> Output:
    return given if isinstance(given, Output) else Output(given)
