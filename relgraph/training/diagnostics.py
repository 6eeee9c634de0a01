"""Diagnostics during the training of a student: every N steps, of the graphs that the method's loss reads.

For a method without a graph of the batch, such as `kd` or `crd`, the graphs of the nodes that it reads are measured, by
Pearson correlation. If there are too many nodes for a matrix, the first ones are measured.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from relgraph.analysis.diagnostics import diagnose
from relgraph.graph.kernels import Kernel, cosine, pearson
from relgraph.graph.pair import LARGEST_MATRIX, Pair, graph_pair
from relgraph.methods import Method, Output
from relgraph.methods.contrastive import Contrastive
from relgraph.methods.relational import Relational
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.spread import Pairs, Spread, gathered

NEIGHBOURS = 8
# Number of nodes that are measured if there are too many for a matrix.
SAMPLE = 1024


class Diagnostics:
    """The measures of some steps of an epoch, kept on the device until they are read.

    Args:
        every: Steps from one measurement to the next, the first step of an epoch being one; 0 for none.
        k: Neighbours that count.
        processes: Over which the batch is spread; all measure the same steps.
    """

    def __init__(self, every: int, k: int = NEIGHBOURS, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self.every, self.k, self.processes = every, k, processes
        self.step = -1
        self.steps: list[int] = []
        self.found: list[dict[str, Tensor]] = []

    @property
    def state(self) -> dict[str, Any]:
        """What was measured, as a checkpoint holds it."""
        return {"step": self.step, "steps": self.steps, "found": self.found}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on with what was measured before."""
        vars(self).update(state)

    def next_step(self) -> "Diagnostics | None":
        """Return itself if the step that begins is to be measured, else `None`."""
        self.step += 1
        return self if self.every > 0 and self.step % self.every == 0 else None

    @torch.no_grad()
    def add(self, spread: Spread, pairs: Pairs, student: Output, teacher: Output, labels: Tensor) -> None:
        """Measure the graphs of a step: the first pair that the loss read, if it has weights, or one made for it."""
        if pairs and pairs[0][0].form == "matrix":
            pair, kernel = pairs[0]
        else:
            outputs = [student, teacher]
            if not spread.local:
                outputs = [gathered(output, spread.method.reads, self.processes) for output in outputs]
            if len(outputs[0].embedding) ** 2 > LARGEST_MATRIX:
                outputs = [output._replace(extra=None).each(lambda x: x[:SAMPLE]) for output in outputs]
            pair, kernel = measured_pair(spread.each(), *outputs)
        count = len(pair["student"].x)
        labels = (labels if spread.local else self.processes.gather(labels))[:count]
        if count > 1:
            self.steps.append(self.step)
            self.found.append(diagnose(pair, kernel, self.k, labels))

    def read(self) -> list[dict[str, float]]:
        """Return a row for each measured step: its `step` in the epoch, counted from 0, and the measures it has."""
        return [{"step": step, **_quotients(found)} for step, found in zip(self.steps, self.found, strict=True)]

    def means(self) -> dict[str, float]:
        """Return each measure over all steps so far; those of which there is none are left out."""
        sums: dict[str, Tensor] = {}
        for found in self.found:
            for name, pair in found.items():
                sums[name] = sums[name] + pair if name in sums else pair
        return _quotients(sums)


def measured_pair(methods: list[tuple[str, Method]], student: Output, teacher: Output) -> tuple[Pair, Kernel]:
    """Return the pair of the first method that has graphs of the batch, with all its weights, and its kernel."""
    for _, method in methods:
        if isinstance(method, Relational) and method.nodes != "positions":  # whose graphs are of one image each
            builder = replace(method.builder, form="matrix")
            return builder(*method.vectors(student, teacher)), builder.kernel
        if isinstance(method, Contrastive):
            return graph_pair(*method.vectors(student, teacher), kernel=cosine), cosine
    nodes = student.embedding, teacher.embedding
    read = {part for _, method in methods for part in method.reads}
    if "embedding" not in read and student.feature is not None and teacher.feature is not None:
        nodes = student.feature, teacher.feature
    s, t = (x.float() for x in nodes)
    return graph_pair(s, t, match=False), pearson


def _quotients(found: dict[str, Tensor]) -> dict[str, float]:
    """Return the measures that have a count, shares in percent: read in one go, since each read waits for the device.

    Their names begin with "batch", since graphs of a whole split have measures of the same kinds.
    """
    pairs = dict(zip(found, torch.stack(list(found.values())).tolist() if found else [], strict=True))
    read = {f"batch_{name}": _percent(name) * total / count for name, (total, count) in pairs.items() if count}
    if "batch_homophily_student" in read:  # with few labels they are few
        read["batch_homophily_edges"] = pairs["homophily_student"][1]
    return read


def _percent(name: str) -> int:
    return 1 if name == "edge_rank" else 100
