"""The objectives of a training: modules from the inputs of a step to its named losses."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from relgraph.methods import KD, Method
from relgraph.methods.base import Terms
from relgraph.networks.heads import Head, Student
from relgraph.outputs import Batch, Output, StepInputs, of_views
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.accumulation import in_parts
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.spread import Pairs, Spread, labelled_cross_entropy

FILLED = 4096  # slots that are written at a time
Stage = Literal["method", "labels", "both"]
LabelLoss = Callable[[Tensor, Tensor, ProcessGroup], Tensor]


class Losses(NamedTuple):
    """The losses of one batch.

    Of a batch that is spread over processes, each has a share of the terms: their means over the processes are those of
    the whole batch, and so are the means of the gradients.

    Attributes:
        terms: The student's weighted terms by name; their sum is what the student minimises.
        student: The student's outputs, without gradient, and without stage maps but the last where a memory reads it.
        teacher: Those of the teacher and its head, if there is a teacher, with the same maps.
        degenerate: Number of nodes on both sides that have weight 0 to every node; a share, as the terms.
        teacher_terms: The losses that train the teacher's side, its head's cross-entropy as `teacher_head`: no
            parameter receives gradient from these and from those of the student.
    """

    terms: Terms
    student: Output
    teacher: Output | None
    degenerate: Tensor
    teacher_terms: Terms

    @property
    def total(self) -> Tensor:
        """Return the scalar for `backward`."""
        return torch.stack([*self.terms.values(), *self.teacher_terms.values()]).sum()


class Objective(nn.Module):
    """A module from the inputs of a step to its losses, with the networks that these train."""

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the losses of a step's inputs, in a stage of the training.

        Where an objective compares graphs, those of the step go to `diagnostics`, if there are any.
        """
        raise NotImplementedError

    def remember(self, losses: Losses, batch: Batch) -> None:
        """Update the objective's memory by the outputs of a step, if it has one: before the optimiser's step."""


def losses_of(name: str, loss: Tensor, output: Output, processes: ProcessGroup = SINGLE_PROCESS) -> Losses:
    """Return the losses of a network that has one term and no teacher; nodes without variance are degenerate."""
    output = output.detach()
    return Losses({name: loss}, output, None, _without_variance(output).sum() * processes.count, {})


def _without_variance(output: Output) -> Tensor:
    """Return which embeddings `(N,)` are rows of equal numbers: Pearson correlation gives them weight 0 to every node.

    >>> _without_variance(Output(torch.tensor([[2.0, 2.0], [2.0, 3.0]])))
    tensor([ True, False])
    """
    most, least = output.embedding.amax(-1), output.embedding.amin(-1)
    return most == least


class Distiller(Objective):
    """`gamma * cross-entropy + alpha * KD + method` for the student, and the teacher's head beside it.

    The teacher's backbone is frozen and not part of this. Its head, one linear projection and one classifier, is
    trained by its own cross-entropy only: every method gets it detached. With `head_fixed` it was trained before and is
    fixed; without `head_read` nothing reads its classifier, which has no loss then. Cross-entropies are means over the
    images that have a label.

    Of a batch that brings edges of its own (`Batch.edges`) the anchors alone are learned: labels, KD and the method.

    In the stage "method" the student is trained by the method alone, in the stage "labels" by all terms but the
    method's: some methods are used before the main training. In the stage "both", the default, it is trained by all.

    With `own_logits` the logits of the teacher are those that the network has, not those of its head.

    `label_loss` is what labels teach by (see `relgraph.training.tasks`). A batch may be spread over processes; with
    `local` the method compares only the images of one process. With `parts` above 1 it passes through the student in as
    many parts, whose activations are not held together; the graph stays that of the whole batch.
    """

    def __init__(
        self, student: Student, teacher_head: Head | None, method: Method | None, *, gamma: float = 1.0,
        alpha: float = 0.0, temperature: float = 4.0, head_fixed: bool = False, head_read: bool = True,
        own_logits: bool = False, label_loss: LabelLoss = labelled_cross_entropy,
        processes: ProcessGroup = SINGLE_PROCESS, local: bool = False, parts: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.student = student
        self.teacher_head = teacher_head
        self.method = method
        self.kd = Spread(KD(temperature), processes) if alpha > 0 else None
        self.gamma, self.alpha, self.parts, self.head_read = gamma, alpha, parts, head_read
        self.label_loss, self.processes, self.own_logits = label_loss, processes, own_logits
        self.shows_images = method is not None and any("image" in part.method.reads for part in method.summands())
        self.spread = None if method is None else Spread(method, processes, local)
        remembered = self.spread is not None and self.spread.remembers("map")
        self.kept_maps = slice(-1, None) if remembered else slice(0)
        if head_fixed and teacher_head is not None:
            teacher_head.requires_grad_(False)

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the losses of a step's inputs; the graphs that the method's loss reads go to `diagnostics`."""
        if self.parts == 1:
            student = of_views(self.student, inputs.images, inputs.extra)
        else:
            # Those of the student alone count as well, and a method that names no part may read every one.
            maps = self.method is not None and any("map" in part for part in self.method.reads or ("maps",))
            student = in_parts(self.student, inputs.images, inputs.extra, self.parts, maps=maps)
        return self.losses(student, inputs, stage, diagnostics)

    def losses(
        self, student: Output, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None
    ) -> Losses:
        """Return the losses of the student's outputs for a step's inputs."""
        # Without maps that no memory reads: under autocast Fabric would turn all that leaves this module into float32.
        # Without gradient: DDP waits for the gradient of everything that leads to what leaves it.
        kept, batch = student._replace(maps=student.maps[self.kept_maps]).detach(), inputs.batch
        if self.shows_images:
            batch = batch._replace(images=inputs.images)
        if self.teacher_head is None or inputs.teacher is None:
            terms, pairs = self._student_terms(student, None, batch, stage)
            return Losses(terms, kept, None, self._degenerate([], kept), {})
        teacher = self._with_head(self.teacher_head, inputs.teacher)
        fixed = teacher.detach()
        terms, pairs = self._student_terms(student, fixed, batch, stage)
        if diagnostics is not None and self.spread is not None:
            diagnostics.add(self.spread, pairs, student, fixed, batch.of_images)
        degenerate = self._degenerate(pairs, kept, fixed)
        fixed = fixed._replace(maps=fixed.maps[self.kept_maps])
        return Losses(terms, kept, fixed, degenerate, self._teacher_terms(student, teacher, batch))

    def _with_head(self, head: Head, teacher: Output) -> Output:
        """Return the teacher's outputs with the embedding and the logits of its head."""
        embedding, logits = head(teacher.embedding)
        logits = teacher.logits if self.own_logits else logits
        extra = None if teacher.extra is None else self._with_head(head, teacher.extra)
        return teacher._replace(embedding=embedding, logits=logits, extra=extra)

    def _student_terms(
        self, student: Output, teacher: Output | None, batch: Batch, stage: Stage
    ) -> tuple[Terms, Pairs]:
        assert student.logits is not None
        learned = batch.labels if batch.edges is None else batch.learned(self.processes)
        by_labels = {"cross_entropy": self.gamma * self.label_loss(student.logits, learned, self.processes)}
        if teacher is not None and self.kd is not None:
            by_labels["kd_of_logits"] = self.alpha * self.kd(student, teacher, batch)
        idle = list(by_labels) if stage == "method" else ["cross_entropy"] if self.gamma == 0 else []
        # Zeros, not 0 times the terms, which is NaN for infinity and weight decay for their layers.
        by_labels |= {name: torch.zeros_like(by_labels[name]) for name in idle}
        if teacher is None or self.spread is None or stage == "labels":
            return by_labels, []
        terms, pairs = self.spread.compare(student, teacher, batch)
        return {**by_labels, **terms}, pairs  # `rehearse` refuses terms of these names

    def _teacher_terms(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        terms: Terms = {}
        if self.head_read:
            assert teacher.logits is not None
            learned = batch.labels if batch.edges is None else batch.learned(self.processes)
            terms["head"] = self.label_loss(teacher.logits, learned, self.processes)
        if self.spread is not None:
            terms |= self.spread.teacher_terms(student, teacher, batch, self._classify)
        return {f"teacher_{name}": term for name, term in terms.items()}

    def remember(self, losses: Losses, batch: Batch) -> None:
        """Update the method's memory: before the step, so that its layers are those of the loss."""
        if self.spread is not None and losses.teacher is not None:
            self.spread.remember(losses.student, losses.teacher, batch)

    @torch.no_grad()
    def fill(self, known: Callable[[Tensor], Output | None], images: int) -> None:
        """Write the teacher's vectors of all training images into memories that have a slot for each.

        `known` returns what is known of the teacher's outputs for images at positions `(B,)` of the training set; where
        that is nothing, the slots are filled as images are seen.
        """
        slotted = [] if self.method is None else [part.method for part in self.method.summands() if part.method.slots]
        if self.teacher_head is None or not slotted:
            return
        positions = torch.arange(images, device=self.teacher_head.classify.weight.device)
        for position in torch.split(positions, FILLED):
            found = known(position)
            if found is None:
                return
            teacher, batch = self._with_head(self.teacher_head, found), Batch(position, torch.full_like(position, -1))
            for method in slotted:
                method.remember(teacher, teacher, batch)

    def _degenerate(self, pairs: Pairs, student: Output, *teacher: Output) -> Tensor:
        """Return how many nodes of the first pair have weight 0 to every node; without one, those without variance.

        It is a share, as the terms: a pair of one process's rows counts for those of all.
        """
        rows, count = len(student.embedding), self.processes.count
        if pairs:
            stores = [pairs[0][0][side] for side in ("student", "teacher")]
            lost, count = [store.degenerate for store in stores], count * rows // len(stores[0].x)
        else:
            lost = [_without_variance(output) for output in (student, *teacher)]
        return torch.cat(lost).sum() * count

    def _classify(self, output: Output) -> Tensor:
        assert self.teacher_head is not None
        nodes = output.embedding if output.feature is None else self.teacher_head.project(output.feature)
        logits: Tensor = self.teacher_head.classify(nodes)
        return logits

    def student_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the distillation loss trains: the student's and its side of a method."""
        teachers = {id(parameter) for parameter in self.teacher_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in teachers]

    def teacher_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that the teacher's cross-entropy trains: its head, and its side of a refinement."""
        if self.teacher_head is not None:
            yield from (p for p in self.teacher_head.parameters() if p.requires_grad)
        if self.method is not None:
            yield from self.method.teacher_parameters()
