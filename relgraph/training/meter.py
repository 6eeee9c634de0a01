"""Running sums of an epoch, kept on the device.

Reading them back waits for the device, so they are read twice a second, not every step.
"""

import time

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.objective import Losses

PAUSE = 0.5  # seconds between two readings: often enough for a progress bar, rare enough to cost nothing


class Meter:
    """Sums the losses and counts the hits of an epoch, on each of the processes what it has."""

    def __init__(self, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self.processes = processes
        self.names: list[str] = []
        self.of_student = 0
        self.sums: Tensor | None = None
        self.culprit: Tensor | None = None
        self.steps = 0
        self.last = time.perf_counter()

    @torch.no_grad()
    def add(self, losses: Losses, labels: Tensor) -> None:
        """Add one batch."""
        named = {**losses.terms, **losses.teacher_terms}
        terms = torch.stack([term.float() for term in named.values()])
        logits = losses.student.logits
        right = labels.new_zeros(()) if logits is None else (logits.argmax(-1) == labels).sum()
        counts = torch.stack([right, (labels >= 0).sum(), losses.degenerate])
        row = torch.cat([terms, counts]).double()
        # A bad step spoils the weights, and then every later term: only what was not finite in the first bad step is
        # to blame.
        bad = ~terms.isfinite()
        if self.sums is None or self.culprit is None:
            self.names, self.of_student = list(named), len(losses.terms)
            self.sums, self.culprit = row, bad
        else:
            self.sums = self.sums + row
            self.culprit = torch.where(self.culprit.any(), self.culprit, bad)
        self.steps += 1

    def due(self) -> bool:
        """Return whether the progress bar is due for an update."""
        return time.perf_counter() - self.last > PAUSE

    def read(self, epoch: int, *, whole: bool = True) -> dict[str, float]:
        """Return the means so far: the student's `loss`, its terms, `train_top1` in percent, and `degenerate` nodes.

        Accuracy is that on labelled images; it is left out where there are none. The figures are those of all
        processes, which must read at the same time, or of this one if not `whole`.

        Raises:
            RelgraphError: if a term was not a number; the message names it.
        """
        assert self.sums is not None and self.culprit is not None, "an epoch has at least one batch"
        sums, culprit = self.sums, self.culprit
        if whole:
            sums, culprit = self.processes.mean_(sums.clone()), self.processes.maximum(culprit.int()).bool()
        if bool(culprit.any()):
            bad = [name for name, spoilt in zip(self.names, culprit.tolist(), strict=True) if spoilt]
            raise RelgraphError(
                f"the loss is not a number in epoch {epoch + 1}: {', '.join(bad)} first; "
                "a smaller learning rate or weight may help"
            )
        *terms, hits, labelled, degenerate = sums.tolist()
        means = {name: term / self.steps for name, term in zip(self.names, terms, strict=True)}
        loss = sum(term / self.steps for term in terms[: self.of_student])
        self.last = time.perf_counter()
        top1 = {"train_top1": 100 * hits / labelled} if labelled else {}
        return {"loss": loss, **means, **top1, "degenerate": degenerate}
