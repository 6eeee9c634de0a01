"""A method over a batch that is spread over processes: how the rows of its networks' outputs are gathered."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from relgraph.graph.kernels import Kernel
from relgraph.graph.pair import Pair
from relgraph.methods import Batch, Method, Output
from relgraph.methods.base import Summand, Terms, as_batch, as_output, joined
from relgraph.methods.relational import Relational
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

Pairs = list[tuple[Pair, Kernel]]
Rows = TypeVar("Rows", Batch, Batch | None)


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
        checked: Whether each call compares first what the processes were given, which takes one small exchange more.
    """

    method: Method
    processes: ProcessGroup = SINGLE_PROCESS
    local: bool = False
    checked: bool = False

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
        terms: Terms = {}
        pairs: Pairs = []
        if self.checked:
            self.processes.check_alike(self._facts(student, teacher, batch))
        for method, owner, weight in self._summands:
            s, t, rows, processes = student, teacher, batch, SINGLE_PROCESS
            if self.processes.count > 1:
                s, t, rows, processes = self._compared(method, student, teacher, batch)
            edges = None if rows is None else rows.edges
            if isinstance(method, Relational) and method.paired:
                pair = method.builder(*method.vectors(s, t, edges), processes, edges)
                pairs.append((pair, method.builder.kernel))
                found = method.compare_pair(pair, s, t, rows)
            else:
                found = method.compare(*(s, t, rows) if edges is None else _anchors(s, t, rows, edges.anchors))
            terms = joined(terms, method.weighted(found, owner, weight))
        return terms, pairs

    def _facts(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, int]:
        """Return what must be alike on all processes, texts by a number of theirs beyond all that counts."""
        facts = {"method": self._method, "images and labels": 2**31 + (batch is not None)}
        for side, output in (("student", student), ("teacher", teacher)):
            facts[f"number of the {side}'s rows"] = output.rows
            facts[f"width of the {side}'s embedding"] = 0 if output.embedding is None else output.embedding.shape[-1]
            kinds = [(tuple(x.shape[1:]), str(x.dtype)) for x in output.tensors()]
            facts[f"types and shapes of the {side}'s outputs"] = _number(kinds)
        return facts

    @cached_property
    def _method(self) -> int:
        options = [(owner, weight, [*vars(method).items()]) for method, owner, weight in self._summands]
        return _number([(owner, weight, [(k, v) for k, v in own if isinstance(v, (int, float, str))])
                        for owner, weight, own in options])  # fmt: skip

    @cached_property
    def _summands(self) -> list[Summand]:
        return self.method.summands()

    @cached_property
    def _teachers(self) -> list[Summand]:
        return [part for part in self._summands if part.method.teacher_parameters()]

    @cached_property
    def _memories(self) -> list[Method]:
        return [part.method for part in self._summands if type(part.method).remember is not Method.remember]

    def _compared(
        self, method: Method, student: Output, teacher: Output, batch: Batch | None
    ) -> tuple[Output, Output, Batch | None, ProcessGroup]:
        """Return the rows that a method compares, and the processes that hold them.

        Each method gathers what it reads of all processes, unless it is pointwise, compares only this process's rows
        (`local`), or sums over rows itself (in the factored form).
        """
        if self.local or (method.pointwise and (batch is None or batch.edges is None)):
            return student, teacher, batch, SINGLE_PROCESS
        if isinstance(method, Relational) and method.paired and "factored" in method.builder.known_forms:
            nodes = method.vectors(student, teacher)
            if method.builder.form_of(*nodes, self.processes.count) == "factored":
                return student, teacher, batch, self.processes
        return *self._gathered(method, student, teacher, batch), SINGLE_PROCESS

    def _gathered(self, method: Method, student: Output, teacher: Output, batch: Rows) -> tuple[Output, Output, Rows]:
        """Return what a method reads of all processes, in the order of the batch, with the student's gradient."""
        if self.processes.count == 1:
            return student, teacher, batch
        s, t = (gathered(output, method.reads, self.processes) for output in (student, teacher))
        if batch is None:
            return s, t, batch
        indices, labels = (self.processes.gather(x) for x in (batch.indices, batch.labels))
        images = None if batch.images is None else self.processes.gather(batch.images)
        return s, t, Batch(indices, labels, batch.edges, images)

    def teacher_terms(
        self, student: Output, teacher: Output, batch: Batch, classify: Callable[[Output], Tensor]
    ) -> Terms:
        """Return the losses of the method's side of the teacher; `classify` returns the logits of its head."""
        terms: Terms = {}
        for part in self._teachers:
            s, t, rows, processes = student, teacher, batch, self.processes
            if processes.count > 1 and not (self.local or part.method.pointwise):
                s, t, rows = self._gathered(part.method, student, teacher, batch)
                processes = SINGLE_PROCESS
            learned = rows.learned(processes)

            def own(output: Output, labels: Tensor = learned, processes: ProcessGroup = processes) -> Tensor:
                return labelled_cross_entropy(classify(output), labels, processes)

            terms = joined(terms, part.named(part.method.teacher_terms(s, t, rows, own)))
        return terms

    def each(self) -> list[tuple[str, Method]]:
        """Return the methods of a sum by the names of their terms, or the one."""
        return [(owner, method) for method, owner, _ in self._summands]

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Write the whole batch into the method's memory: the memories of all processes stay equal."""
        for method in self._memories:
            method.remember(*self._gathered(method, as_output(student), as_output(teacher), batch))

    def remembers(self, part: str) -> bool:
        """Return whether a method with a memory reads a part of the outputs."""
        return any(part in method.reads for method in self._memories)


def spread_over(method: Method, processes: ProcessGroup | None = None, *, local: bool = False) -> Spread:
    """Return a method for a batch that is spread over processes, in a user-defined loop under DDP.

    Call it once, after `torch.distributed.init_process_group`, and what it returns in place of the method: each process
    gives its own rows, as many on each. Without `processes` they are those of the default group. See `Spread`.

    What it returns raises RelgraphError on all processes, before they exchange anything else, if their rows differ in
    number, type or width, one alone has labels, or their methods differ.
    """
    return Spread(method, ProcessGroup.current() if processes is None else processes, local, checked=True)


def _anchors(student: Output, teacher: Output, batch: Batch | None, count: int) -> tuple[Output, Output, Batch | None]:
    """Return the outputs for the first images, the anchors of a batch, alone; those for extra views are left out."""
    s, t = (output._replace(extra=None).each(lambda x: x[:count]) for output in (student, teacher))
    if batch is None:
        return s, t, batch
    images = None if batch.images is None else batch.images[:count]
    return s, t, Batch(batch.indices[:count], batch.labels[:count], images=images)


def _number(content: object) -> int:
    """Return a number of at least 2^31 that stands for an object's text."""
    return 2**31 + zlib.crc32(repr(content).encode())


def gathered(output: Output, reads: Sequence[str], processes: ProcessGroup) -> Output:
    """Return the embedding and those parts of an output that are read, of all processes; the others as they are.

    Row `v * N + i` of the extra views is view v of image i of the whole batch; of them, vectors that are not read are
    left out.
    """
    read = {"embedding", *(part.removeprefix("student's ") for part in reads or ("feature", "map", "maps", "logits"))}
    done: dict[int, Tensor] = {}

    def gather(part: Any, views: int, *names: str) -> Any:
        if part is None or read.isdisjoint(names):
            return part
        if id(part) not in done:  # a bare vector is both embedding and feature
            by_view = part.reshape(views, -1, *part.shape[1:]).transpose(0, 1)
            done[id(part)] = processes.gather(by_view.contiguous()).transpose(0, 1).flatten(0, 1)
        return done[id(part)]

    def parts(output: Output, views: int) -> Output:
        maps = [gather(stage, views, "maps") for stage in output.maps[:-1]]
        maps += [gather(stage, views, "map", "maps") for stage in output.maps[-1:]]
        vectors = {name: gather(getattr(output, name), views, name) for name in ("embedding", "logits", "feature")}
        return Output(**vectors, maps=tuple(maps))

    extra = output.extra
    if extra is not None:
        # Rows of this process alone.
        unread: dict[str, Any] = {name: None for name in ("logits", "feature") if name not in read}
        extra = parts(extra, extra.rows // output.rows)._replace(**unread)
    return parts(output, 1)._replace(extra=extra)


def labelled_cross_entropy(logits: Tensor, labels: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return the mean cross-entropy over the images that have a label (not -1); 0 if none has one.

    Of a batch that is spread over processes, it is a share whose mean over the processes is that of the whole batch.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = cross_entropy(wide, labels, ignore_index=-1, reduction="sum")
    labelled = (labels >= 0).sum()
    if processes.count > 1:
        loss, labelled = loss * processes.count, processes.sum(labelled)
    return loss / labelled.clamp_min(1)
