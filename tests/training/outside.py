"""A method as a user writes it: outside of the package, with all that a method may have, and in no table of it."""

from dataclasses import field
from typing import Any, Self

import torch
from torch import Tensor, nn

from relgraph.methods import Batch, Method, Output, RunFacts, Views, option
from relgraph.methods.base import Loss, extra_of


class Echo(Method):
    """Follow the teacher's features, less their mean of earlier batches, in the image and in its views.

    Args:
        power: Power > 0 of each difference.
        inertia: Share of the mean that a batch leaves as it was.
        views_weight: Weight of the views.
    """

    weight = 2.0
    reads = ("feature",)
    views = Views("rotations", 3)

    student_width: int
    teacher_width: int
    centre: Tensor = field(init=False)
    power: float = option(default=2.0, above=0)
    inertia: float = option(default=0.5, least=0, most=1)
    views_weight: float = option(default=0.5, least=0, term="views")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer = nn.Linear(self.student_width, self.teacher_width)
        self.side = nn.Linear(self.teacher_width, self.teacher_width)
        self.register_buffer("centre", torch.zeros(self.teacher_width))

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        return cls(run.student_width, run.teacher_width, **options)

    def _distance(self, student: Output, teacher: Output) -> Tensor:
        assert student.feature is not None and teacher.feature is not None
        difference: Tensor = self.layer(student.feature) - (teacher.feature - self.centre)
        return difference.abs().pow(self.power).mean()

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        extra = (extra_of(output, self.views, len(output.embedding), "Echo") for output in (student, teacher))
        return {"echo": self._distance(student, teacher), "views": self._distance(*extra)}

    def teacher_terms(self, student: Output, teacher: Output, batch: Batch, cross_entropy: Loss) -> dict[str, Tensor]:
        assert teacher.feature is not None
        return {"side": cross_entropy(Output(teacher.embedding, feature=self.side(teacher.feature)))}

    def teacher_parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.side.parameters())

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        assert isinstance(teacher, Output) and teacher.feature is not None
        self.centre.lerp_(teacher.feature.mean(0), 1 - self.inertia)
