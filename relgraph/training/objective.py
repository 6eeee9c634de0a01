"""The objective: student, teacher's head and method as one module, from a batch to its named losses."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from relgraph.graph.kernels import pearson
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.methods import KD, Batch, Method, Output
from relgraph.methods.base import labelled_cross_entropy, spread_over
from relgraph.networks.heads import Head
from relgraph.networks.teachers import Features
from relgraph.training.student import Student

Stage = Literal["method", "labels", "both"]


class Losses(NamedTuple):
    """What one batch costs.

    Of a batch that is spread over processes, each has a share of the terms: their means over the processes are those of
    the whole batch, and so are the means of the gradients.

    Attributes:
        terms: The student's weighted terms by name; their sum is what the student minimises.
        student: What the student said, without its stage maps and without gradient.
        teacher: What the teacher and its head said, if there is a teacher, without its stage maps.
        degenerate: Number of nodes without variance on both sides, which relate to nothing; a share, as the terms.
        teacher_terms: What the teacher's side learns from, its head's cross-entropy as `teacher_head`: no parameter
            receives gradient from these and from those of the student.
    """

    terms: dict[str, Tensor]
    student: Output
    teacher: Output | None
    degenerate: Tensor
    teacher_terms: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Return the scalar for `backward`."""
        return torch.stack([*self.terms.values(), *self.teacher_terms.values()]).sum()


class Distiller(nn.Module):
    """`gamma * cross-entropy + alpha * KD + method` for the student, and the teacher's head beside it.

    The teacher's backbone is frozen and not part of this. Its head, one linear projection and one classifier, learns
    from its own cross-entropy only: every method gets it detached. With `head_fixed` it was trained before and learns
    no more. Cross-entropies are means over the images that have a label.

    In the stage "method" the student learns from the method alone, in the stage "labels" from all but the method: some
    methods come before the training proper. In the stage "both", the default, it learns from all.
    """

    def __init__(
        self,
        student: Student,
        teacher_head: Head | None,
        method: Method | None,
        *,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        head_fixed: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher_head = teacher_head
        self.method = method
        self.kd = KD(temperature) if alpha > 0 else None
        self.gamma, self.alpha = gamma, alpha
        self.processes = SINGLE_PROCESS
        self.stage: Stage = "both"
        self.method_terms: tuple[str, ...] = ()  # their names, once they were computed: what has had its stage is not
        if head_fixed and teacher_head is not None:
            teacher_head.requires_grad_(False)

    def forward(
        self,
        images: Tensor,
        seen: Features | None,
        batch: Batch,
        extra: Tensor | None = None,
        extra_teacher: Features | None = None,
    ) -> Losses:
        """Return the losses of the student's views `(N, C, H, W)` and of what the teacher's backbone saw in them.

        `extra` `(V * N, C, h, w)` are the extra views that a method asks for, and `extra_teacher` what the teacher's
        backbone saw in those. Views of one size go through the student together.
        """
        return self.losses(self.see(images, extra), seen, batch, extra_teacher)

    def losses(
        self, student: Output, seen: Features | None, batch: Batch, extra_teacher: Features | None = None
    ) -> Losses:
        """Return the losses of what the student said of a batch."""
        # Without its maps: under autocast Fabric would turn all that leaves this module into float32, maps last of all.
        # Without gradient: DDP waits for the gradient of everything that leads to what leaves it.
        kept = student._replace(maps=()).detach()
        if self.teacher_head is None or seen is None:
            return Losses(self._student_terms(student, None, batch), kept, None, self._degenerate(student), {})
        teacher = self._taught(self.teacher_head, seen)
        if extra_teacher is not None:
            teacher = teacher._replace(extra=self._taught(self.teacher_head, extra_teacher)._replace(maps=()))
        return Losses(
            self._student_terms(student, teacher, batch),
            kept,
            teacher._replace(maps=()).detach(),
            self._degenerate(student) + self._degenerate(teacher),
            self._teacher_terms(student, teacher, batch),
        )

    def spread_over(self, processes: ProcessGroup, *, local: bool = False) -> None:
        """Let the batch be spread over processes; with `local` the method relates those of one process alone."""
        self.processes = processes
        if self.method is not None:
            spread_over(self.method, processes, local=local)

    def see(self, images: Tensor, extra: Tensor | None) -> Output:
        """Return what the student says of its views, those of one size in one pass: they share batch statistics."""
        if extra is None:
            output: Output = self.student(images)
            return output
        if images.shape[1:] != extra.shape[1:]:
            output = self.student(images)
            return output._replace(extra=self.student(extra)._replace(maps=()))
        both: Output = self.student(torch.cat([images, extra]))
        first, rest = (_rows(both, rows) for rows in (slice(len(images)), slice(len(images), None)))
        return first._replace(extra=rest._replace(maps=()))

    @staticmethod
    def _taught(head: Head, seen: Features) -> Output:
        embedding, logits = head(seen.pooled)
        return Output(embedding, logits, seen.pooled, seen.maps)

    def _student_terms(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        assert student.logits is not None
        by_labels = {"cross_entropy": self.gamma * self._by_labels(student.logits, batch)}
        if teacher is not None and self.kd is not None:
            by_labels["kd_of_logits"] = self.alpha * self.kd(student, teacher)
        if self.stage == "method":
            by_labels = _zeros(by_labels)
        elif self.gamma == 0:
            by_labels |= _zeros({"cross_entropy": by_labels["cross_entropy"]})
        if teacher is None or self.method is None:
            return by_labels
        if self.stage == "labels" and self.method_terms:
            return {**by_labels, **{name: student.logits.new_zeros(()) for name in self.method_terms}}
        by_method = self.method.terms(student, teacher, batch)
        self.method_terms = tuple(by_method)
        return {**by_labels, **(_zeros(by_method) if self.stage == "labels" else by_method)}

    def _teacher_terms(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        assert teacher.logits is not None
        terms = {"head": self._by_labels(teacher.logits, batch)}
        if self.method is not None:
            terms |= self.method.teacher_terms(student, teacher, batch, self._classify)
        return {f"teacher_{name}": term for name, term in terms.items()}

    def _by_labels(self, logits: Tensor, batch: Batch) -> Tensor:
        return labelled_cross_entropy(logits, batch.labels, self.processes)

    def _degenerate(self, output: Output) -> Tensor:
        return pearson.degenerate(pearson.nodes(output.embedding.detach())).sum() * self.processes.count

    def _classify(self, output: Output) -> Tensor:
        assert self.teacher_head is not None
        logits: Tensor
        if output.feature is None:
            logits = self.teacher_head.classify(output.embedding)
        else:
            _, logits = self.teacher_head(output.feature)
        return logits

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


def _rows(output: Output, rows: slice) -> Output:
    logits, feature = (None if part is None else part[rows] for part in (output.logits, output.feature))
    return Output(output.embedding[rows], logits, feature, tuple(stage[rows] for stage in output.maps))


def _zeros(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for terms that wait or have no part.

    Not 0 times them, which is NaN for infinity and weight decay for their layers.

    They stay among the terms so that all rows of the metrics have the same columns.
    """
    return {name: torch.zeros_like(term) for name, term in terms.items()}
