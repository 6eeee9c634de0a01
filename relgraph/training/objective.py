"""The objective: student, teacher's head and method as one module, from a batch to its named losses."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.graph.kernels import pearson
from relgraph.methods import KD, Batch, Method, Output
from relgraph.networks.heads import Head
from relgraph.training.student import Student


class Losses(NamedTuple):
    """What one batch costs.

    Attributes:
        terms: The student's weighted terms by name; their sum is what the student minimises. With a teacher, its
            head's cross-entropy stands among them as `teacher_head`: no parameter receives gradient from both.
        student: What the student said, without its stage maps.
        teacher: What the teacher and its head said, if there is a teacher.
        degenerate: Number of nodes without variance on both sides, which relate to nothing.
    """

    terms: dict[str, Tensor]
    student: Output
    teacher: Output | None
    degenerate: Tensor

    @property
    def total(self) -> Tensor:
        """Return the scalar for `backward`."""
        return torch.stack(list(self.terms.values())).sum()


class Distiller(nn.Module):
    """`gamma * cross-entropy + alpha * KD + beta * method` for the student, and the teacher's head beside it.

    The teacher's backbone is frozen and not part of this. Its head, one linear projection and one classifier, learns
    from its own cross-entropy only: every method gets it detached. With `head_fixed` it was trained before and learns
    no more. Cross-entropies are means over the images that have a label.
    """

    def __init__(
        self,
        student: Student,
        teacher_head: Head | None,
        method: Method | None,
        *,
        gamma: float = 1.0,
        alpha: float = 0.0,
        beta: float = 1.0,
        temperature: float = 4.0,
        head_fixed: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher_head = teacher_head
        self.method = method
        self.kd = KD(temperature) if alpha > 0 else None
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        if head_fixed and teacher_head is not None:
            teacher_head.requires_grad_(False)

    def forward(self, images: Tensor, teacher_feature: Tensor | None, batch: Batch) -> Losses:
        """Return the losses of the student's views `(N, C, H, W)` and the teacher's features `(N, width)` of them."""
        student: Output = self.student(images)
        # Without its maps: under autocast Fabric would turn all that leaves this module into float32, maps last of all.
        kept = student._replace(maps=())
        terms = {"cross_entropy": self.gamma * _known(student.logits, batch.labels)}
        if self.teacher_head is None or teacher_feature is None:
            return Losses(terms, kept, None, _degenerate(student))
        embedding, logits = self.teacher_head(teacher_feature)
        teacher = Output(embedding, logits, teacher_feature)
        if self.kd is not None:
            terms["kd_of_logits"] = self.alpha * self.kd(student, teacher)
        if self.method is not None:
            terms |= {name: self.beta * term for name, term in self.method.terms(student, teacher, batch).items()}
        terms["teacher_head"] = self._teacher_loss(self.teacher_head, student, teacher, batch)
        return Losses(terms, kept, teacher, _degenerate(student) + _degenerate(teacher))

    def _teacher_loss(self, head: Head, student: Output, teacher: Output, batch: Batch) -> Tensor:
        loss = _known(teacher.logits, batch.labels)
        refined = None if self.method is None else self.method.refined_teacher(student, teacher)
        return loss if refined is None else loss + _known(head.classify(refined), batch.labels)

    def student_parameters(self) -> list[nn.Parameter]:
        """Return what the distillation loss trains: the student, and the student's side of a method."""
        teachers = {id(parameter) for parameter in self.teacher_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in teachers]

    def teacher_parameters(self) -> Iterator[nn.Parameter]:
        """Return what the teacher's own cross-entropy trains: its head, and the teacher's side of a refinement."""
        if self.teacher_head is not None:
            yield from (p for p in self.teacher_head.parameters() if p.requires_grad)
        if self.method is not None:
            yield from self.method.teacher_parameters()


def _known(logits: Tensor | None, labels: Tensor) -> Tensor:
    assert logits is not None
    return cross_entropy(logits.float(), labels, ignore_index=-1)


def _degenerate(output: Output) -> Tensor:
    return pearson.degenerate(pearson.nodes(output.embedding.detach())).sum()
