"""A method over a batch that is spread over processes: how the rows of its networks' outputs are gathered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from relgraph.graph.kernels import Kernel, at_least_float32
from relgraph.graph.pair import Pair
from relgraph.methods import Batch, Method, Output, Sum
from relgraph.methods.base import Terms, as_batch, as_output
from relgraph.methods.relational import Relational
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

Pairs = list[tuple[Pair, Kernel]]


@dataclass(frozen=True)
class Spread:
    """A method whose batch is spread over processes, each with as many rows: `spread(student, teacher, batch)`.

    The loss is that of the whole batch on all of them, and the gradient of the parameters, averaged by DDP, is that of
    one process with the whole batch. A pointwise loss stays that of the rows of each process.

    Attributes:
        method: The method, which does not depend on the processes. Its parameters must be part of the module that DDP
            wraps.
        processes: Those that hold the rows.
        local: Whether each process compares only its own rows, which is a different loss. Memories still hold the whole
            batch, and stay equal.
    """

    method: Method
    processes: ProcessGroup = SINGLE_PROCESS
    local: bool = False

    def __call__(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Tensor:
        """Return the loss of the whole batch from the rows of this process, a scalar."""
        return torch.stack(list(self.terms(student, teacher, batch).values())).sum()

    def terms(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Terms:
        """Return the weighted terms of the loss by name, scalars."""
        return self.compare(as_output(student), as_output(teacher).detach(), as_batch(batch))[0]

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> tuple[Terms, Pairs]:
        """Return the weighted terms, and the graph pairs that they were read from, with their kernels.

        The teacher's output is detached. A pair holds the rows of all processes; in the factored form, or `local`,
        those of this one.
        """
        found: dict[str, Terms] = {}
        pairs: Pairs = []
        for name, method in self.each():  # each gathers what it reads
            pair, terms = self._compare(method, student, teacher, batch)
            found[name] = method.weighted(terms)
            if isinstance(method, Relational) and pair is not None:
                pairs.append((pair, method.builder.kernel))
        return (self.method.joined(found) if isinstance(self.method, Sum) else found[""]), pairs

    def _compare(
        self, method: Method, student: Output, teacher: Output, batch: Batch | None
    ) -> tuple[Pair | None, Terms]:
        spread = self.processes.count > 1 and not (self.local or method.pointwise)
        of_pair = method if isinstance(method, Relational) and type(method).compare is Relational.compare else None
        if spread and of_pair is not None and "factored" in of_pair.builder.known_forms():
            nodes = of_pair.vectors(student, teacher)
            if of_pair.builder.form_of(*nodes, self.processes.count) == "factored":  # it sums over rows
                pair = of_pair.builder(*nodes, self.processes)
                return pair, of_pair.compare_pair(pair, student, teacher, batch)
        if spread:
            student, teacher, batch = self._whole(method, student, teacher, batch)
        if of_pair is None:
            return None, method.compare(student, teacher, batch)
        pair = of_pair.pair(student, teacher)
        return pair, of_pair.compare_pair(pair, student, teacher, batch)

    def _whole(
        self, method: Method, student: Output, teacher: Output, batch: Batch | None
    ) -> tuple[Output, Output, Batch | None]:
        """Return what a method reads of all processes, in the order of the batch, with the student's gradient."""
        gather = self.processes.gather
        rows = None if batch is None else Batch(gather(batch.indices), gather(batch.labels))
        s, t = (gathered(output, method.reads, self.processes) for output in (student, teacher))
        return s, t, rows

    def teacher_terms(
        self, student: Output, teacher: Output, batch: Batch, classify: Callable[[Output], Tensor]
    ) -> Terms:
        """Return the losses of the method's side of the teacher; `classify` returns the logits of its head."""
        own = partial(self._cross_entropy, classify, batch.labels, self.processes)
        if self.processes.count == 1 or self.local:
            return self.method.teacher_terms(student, teacher, batch, own)
        found = {}
        for name, method in self.each():
            if method.pointwise or not method.teacher_parameters():
                found[name] = method.teacher_terms(student, teacher, batch, own)
                continue
            s, t, whole = self._whole(method, student, teacher, batch)
            assert whole is not None
            of_all = partial(self._cross_entropy, classify, whole.labels, SINGLE_PROCESS)
            found[name] = method.teacher_terms(s, t, whole, of_all)
        return self.method.joined(found, weighted=False) if isinstance(self.method, Sum) else found[""]

    @staticmethod
    def _cross_entropy(
        classify: Callable[[Output], Tensor], labels: Tensor, processes: ProcessGroup, output: Output
    ) -> Tensor:
        return labelled_cross_entropy(classify(output), labels, processes)

    def each(self) -> list[tuple[str, Method]]:
        """Return the methods of a sum by their names, or the one."""
        return self.method.each() if isinstance(self.method, Sum) else [("", self.method)]

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Write the whole batch into the method's memory: the memories of all processes stay equal."""
        if self.processes.count == 1:
            self.method.remember(student, teacher, batch)
            return
        for _, method in self.each():
            s, t, whole = self._whole(method, as_output(student), as_output(teacher), batch)
            assert whole is not None
            method.remember(s, t, whole)


def spread_over(method: Method, processes: ProcessGroup | None = None, *, local: bool = False) -> Spread:
    """Return a method for a batch that is spread over processes, in a user-defined loop under DDP.

    Call it once, after `torch.distributed.init_process_group`, and what it returns in place of the method: each process
    gives its own rows, as many on each. Without `processes` they are those of the default group. See `Spread`.
    """
    return Spread(method, ProcessGroup.current() if processes is None else processes, local)


def gathered(output: Output, reads: Sequence[str], processes: ProcessGroup) -> Output:
    """Return the embedding and those parts of an output that are read, of all processes; the others as they are.

    Row `v * N + i` of the extra views is view v of image i of the whole batch.
    """
    read = {"embedding", *(part.removeprefix("student's ") for part in reads or ("feature", "map", "maps", "logits"))}
    done: dict[int, Tensor] = {}

    def gather(part: Tensor | None, *names: str, views: int = 1) -> Tensor | None:
        if part is None or read.isdisjoint(names):
            return part
        if id(part) not in done:  # a bare vector is both embedding and feature
            by_view = part.reshape(views, -1, *part.shape[1:]).transpose(0, 1)
            done[id(part)] = processes.gather(by_view.contiguous()).transpose(0, 1).flatten(0, 1)
        return done[id(part)]

    def vectors(output: Output, views: int) -> Output:
        embedding = gather(output.embedding, "embedding", views=views)
        assert embedding is not None
        logits, feature = gather(output.logits, "logits", views=views), gather(output.feature, "feature", views=views)
        return Output(embedding, logits, feature)

    maps = output.maps
    last = tuple(found for stage in maps[-1:] if (found := gather(stage, "map", "maps")) is not None)
    others = tuple(found for stage in maps[:-1] if (found := gather(stage, "maps")) is not None)
    extra = output.extra
    if extra is not None:
        extra = vectors(extra, len(extra.embedding) // len(output.embedding))
    return vectors(output, 1)._replace(maps=(*others, *last), extra=extra)


def labelled_cross_entropy(logits: Tensor, labels: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return the mean cross-entropy over the images that have a label (not -1); 0 if none has one.

    Of a batch that is spread over processes, it is a share whose mean over the processes is that of the whole batch.
    """
    loss = cross_entropy(at_least_float32(logits), labels, ignore_index=-1, reduction="sum")
    return loss * processes.count / processes.sum((labels >= 0).sum()).clamp_min(1)
