"""Looking at the graphs while a student trains: every so many steps, at the very pair that the loss reads.

Of a method that reads no pair, as `kd` or `crd`, the graphs of what it reads are looked at. Of a pair whose loss is
computed without the N x N matrix, the graphs of its first nodes are; of a factored loss over processes, the first nodes
of each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.graph.diagnostics import diagnose
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import graph_pair
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.methods import Method
from relgraph.training.objective import Losses

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

NEIGHBOURS = 8
# Nodes of a pair without a matrix that are looked at: as many as make one that no one notices.
SAMPLE = 1024


class Looks:
    """The diagnostics of some steps of an epoch, kept on the device until they are read.

    Args:
        every: Steps from one look to the next, the first step of an epoch being one; 0 for none.
        k: Neighbours that count.
        processes: Over which the batch is spread; all look at the same steps.
    """

    def __init__(self, every: int, k: int = NEIGHBOURS, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self.every, self.k, self.processes = every, k, processes
        self.step = -1
        self.steps: list[int] = []
        self.found: list[dict[str, Tensor]] = []

    @contextmanager
    def at(self, method: Method | None, labels: Tensor) -> Iterator[None]:
        """Look at the first graph pair that a method's loss reads in this block, if this step is due."""
        self.step += 1
        if method is None or not self._due():
            yield
            return
        methods = [module for module in method.modules() if isinstance(module, Method)]
        for each in methods:
            each.watcher = lambda pair, kernel: self._add(pair, kernel, labels)
        try:
            yield
        finally:
            for each in methods:
                each.watcher = None

    def add(self, losses: Losses, method: Method | None, labels: Tensor) -> None:
        """Look at a step whose method read no pair: at the graphs of what it reads, by Pearson's correlation."""
        if method is None or losses.teacher is None or not self._due() or self._looked():
            return
        student, teacher = losses.student, losses.teacher
        nodes = (student.embedding, teacher.embedding)
        if "embedding" not in method.reads and student.feature is not None and teacher.feature is not None:
            nodes = (student.feature, teacher.feature)
        s, t = (self.processes.gather(x.detach().float()) for x in nodes)
        self._add(graph_pair(s, t, match=False), pearson, labels)

    def _due(self) -> bool:
        return self.every > 0 and self.step % self.every == 0

    def _looked(self) -> bool:
        return bool(self.steps) and self.steps[-1] == self.step

    def _add(self, pair: "HeteroData", kernel: Kernel, labels: Tensor) -> None:
        if not self._looked() and len(labels) > 1:
            if len(pair["student"].x) != len(labels):  # the pair holds the rows of all processes
                labels = self.processes.gather(labels)
            if pair.form != "matrix":
                s, t = (pair[side].x[:SAMPLE].detach() for side in ("student", "teacher"))
                pair, labels = graph_pair(s, t, kernel=kernel, match=False), labels[:SAMPLE]
            self.steps.append(self.step)
            self.found.append(diagnose(pair, kernel, self.k, labels))

    def read(self) -> list[dict[str, float]]:
        """Return a row for each look: its `step` in the epoch, counted from 0, and the measures that it has."""
        rows = []
        for step, found in zip(self.steps, self.found, strict=True):
            pairs = torch.stack(list(found.values())).tolist()
            measures = {n: total / count for n, (total, count) in zip(found, pairs, strict=True) if count}
            rows.append({"step": step, **measures})
        return rows

    def means(self) -> dict[str, float]:
        """Return each measure over all looks so far; those that nothing could be said of are left out."""
        sums: dict[str, Tensor] = {}
        for found in self.found:
            for name, pair in found.items():
                sums[name] = sums[name] + pair if name in sums else pair
        if not sums:
            return {}
        pairs = torch.stack(list(sums.values())).tolist()
        return {name: total / count for name, (total, count) in zip(sums, pairs, strict=True) if count}
