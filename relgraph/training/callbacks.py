"""What is called while a run trains: objects of the user's own, at documented moments, with read access."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.outputs import Batch, Output


@dataclass(frozen=True, eq=False)
class StepEnd:
    """A step that has changed the weights. What it holds is read, and not changed.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Number of the step in the epoch, from 1.
        steps: Steps of the epoch.
        terms: The weighted terms of the student's loss by name, scalars on the device; reading one waits for it.
        student: The student's outputs, without stage maps but the last where a memory reads it.
        teacher: The teacher's, with those of its head, if there is a teacher.
        batch: Indices and labels of the images.
    """

    epoch: int
    step: int
    steps: int
    terms: Mapping[str, Tensor]
    student: Output
    teacher: Output | None
    batch: Batch


@dataclass(frozen=True, eq=False)
class EpochEnd:
    """An epoch whose figures and checkpoint are written.

    Attributes:
        epoch: Its number, from 1.
        epochs: Number of epochs of the run.
        metrics: Its row of `metrics.csv`.
        best: Whether it is the best so far.
        network: The modules that are trained: the student is its `student`, of a pre-training the network its
            `backbone`.
        run: The directory of the run.
    """

    epoch: int
    epochs: int
    metrics: Mapping[str, float]
    best: bool
    network: Any
    run: Path


class Callback:
    """The moments of a training: a subclass overrides those that it needs, `callbacks=[...]` passes it.

    Of several processes each calls its own. What a callback raises ends the run, which can be resumed.

    >>> class Losses(Callback):
    ...     def after_epoch(self, end: EpochEnd) -> None:
    ...         print(end.epoch, end.metrics["loss"])
    """

    def after_step(self, end: StepEnd) -> None:
        """Read a step, after the optimisers' steps."""

    def after_epoch(self, end: EpochEnd) -> None:
        """Read an epoch, once its checkpoint is written."""

    def at_end(self, result: Mapping[str, Any]) -> None:
        """Read the content of `result.json`, once it is written."""


Callbacks = Sequence[Callback]


def check_callbacks(callbacks: object) -> None:
    """Check that these are callbacks, before a training begins.

    Raises:
        RelgraphError: for one alone, a class of them, or anything else.
    """
    if not isinstance(callbacks, list | tuple):
        told = f"got {type(callbacks).__name__}"
        raise RelgraphError(f"callbacks must be a list of objects derived from relgraph.Callback, {told}")
    for each in callbacks:
        if not isinstance(each, Callback):
            told = f"the class {each.__name__}" if isinstance(each, type) else type(each).__name__
            raise RelgraphError(f"a callback must be an object derived from relgraph.Callback, got {told}")
