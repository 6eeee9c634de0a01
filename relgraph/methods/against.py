"""Base classes of methods that relate the student's nodes to the teacher's: in a batch, or to the keys of a memory."""

import math
from dataclasses import field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Product, cosine, dot, precision_of
from relgraph.graph.keys import keys_around, related_to_keys
from relgraph.graph.memory import Bank, Queue, check_indices
from relgraph.graph.pair import AGAINST, Pair, anchors_of, check_nodes
from relgraph.graph.refine import Refiner
from relgraph.graph.relation import Relation
from relgraph.graph.search import Prepared, Rows
from relgraph.methods.base import Batch, Output, RunFacts, Space, Terms, as_output, chosen_nodes, nodes_of, option
from relgraph.methods.contrastive import Vectors, projected
from relgraph.methods.relational import FixedParts, overflowed, related
from relgraph.outputs import BatchEdges

# The cosine, infinite from a node to itself in one graph: a criterion that reads the other nodes alone knows by it
# which of the teacher's edges is no such edge, in every form and on every topology.
MARKED = replace(cosine, product=Product(dot.pairs, own=math.inf))


class Against(FixedParts):
    """A method that relates the student's nodes to the teacher's own vectors, so that both share one space.

    Where the student's nodes have another width, a linear layer maps them to the teacher's; it is trained by the loss
    (its parameters must be passed to the optimiser) and kept with the student. Without `student_width` there is none,
    and both networks' nodes must have one width. Of `nodes="feature"`, the default, the teacher's are what it gives
    itself; embeddings are so with `--target-space teacher` alone.

    Args:
        student_width: Width of the student's nodes.
        teacher_width: Width of the teacher's nodes.
        nodes: "feature" or "embedding".
    """

    of_positions: ClassVar[bool] = False
    student_width: int | None = field(default=None)
    teacher_width: int | None = field(default=None)
    nodes: Vectors = option(default="feature", kw_only=True)

    def __post_init__(self) -> None:
        """Build the student's layer."""
        super().__post_init__()
        s, t = self.student_width, self.teacher_width
        if (s is None) != (t is None):
            raise RelgraphError(f"{type(self).__name__} maps one width to another: expected both, got {s} and {t}")
        self.projector: nn.Module | None = None if s is None or t is None or s == t else nn.Linear(s, t)

    @classmethod
    def for_run(cls, run: RunFacts, refine: str | Refiner | None = None, **options: Any) -> Self:
        """Return the method for the widths that its nodes have in a run."""
        student, teacher = run.widths(chosen_nodes(cls, options))
        return super().for_run(run, refine, student_width=student, teacher_width=teacher, **options)

    def vectors(self, student: Output, teacher: Output, edges: BatchEdges | None = None) -> tuple[Tensor, Tensor]:
        """Return the student's nodes behind the layer and the teacher's, both `(N, D_t)`."""
        for side, output, width in (("student", student, self.student_width), ("teacher", teacher, self.teacher_width)):
            nodes_of(output, self.nodes, type(self).__name__, side, width)
        s, t = super().vectors(student, teacher, edges)
        return s if self.projector is None else projected(self.projector, s), t

    def space(self) -> Space:
        """Return the student's layer; the teacher's vectors are its nodes."""
        return Space(self.nodes, self.projector, joint=True)

    def relations(self) -> dict[str, Relation]:
        """Return the relations by the names of their terms: the one, named after the method."""
        assert self.relation is not None
        return {type(self).__name__.lower(): self.relation}

    def own_terms(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return the terms of each node and its own teacher node, `(N, D)` both; here there are none."""
        return {}

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the terms of the own nodes, and those of the relations."""
        anchors = slice(anchors_of(pair))
        terms = self.own_terms(pair["student"].x[anchors], pair["teacher"].x[anchors])
        return {**terms, **{name: related(relation, pair) for name, relation in self.relations().items()}}


def own_cosines(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return `cos(s_i, t_i)` and `cos(t_i, t_i)`, 1 but for a node of zeros, `(N, D), (N, D) -> (N,), (N,)`.

    >>> own_cosines(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    (tensor([1., 0.]), tensor([1., 0.]))
    """
    s, t = cosine.nodes(student), cosine.nodes(teacher)
    return (s * t).sum(-1), t.square().sum(-1)


class Keyed(Against):
    """A method whose anchors rank the teacher's vectors: those of the batch, or of a memory and the own one.

    In the batch the keys of an anchor are its edges: all images, or those of a sparse graph, itself included. A memory
    takes their place: the own teacher vector of each image, and the keys of the memory that are nearest to it for the
    teacher. They are searched in blocks, and compared in blocks of anchors. A memory changes only when `remember` is
    called: once a step, between `backward` and the optimiser's step.

    Topology: nearest; memory

    Args:
        student_width: See `Against`.
        teacher_width: See `Against`; always needed for a memory.
        length: How many keys of each anchor are compared, those that the teacher ranks first, the image itself among
            them; all, where there are fewer.
        memory: "batch" for the images of the batch; "queue" for the teacher's vectors of the last batches; "images" for
            a slot for each training image with its last vector, in which an image leaves out its own.
        queue: Number of keys of the queue.
        images: Number of training images, for "images".
        gallery: The teacher's vectors of all training images `(images, D_t)`, for "images", in place of slots that
            are filled as images are seen, in their order (`Batch.indices`): a tensor, or what reads files in blocks.
        nodes: See `Against`.

    Raises:
        RelgraphError: for unknown names, numbers out of range, nodes of two widths without a layer, a graph beside a
            memory, or without what a memory needs: the teacher's width, the number of images, indices in the batch.
    """

    length: int = option(default=256, least=2)
    memory: Literal["batch", "queue", "images"] = option(default="batch", kw_only=True)
    queue: int = option(default=65536, above=0, kw_only=True)
    images: int = field(default=0, kw_only=True)
    gallery: Rows | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Build the memory."""
        super().__post_init__()
        self.paired = self.memory == "batch"
        self.remembered: Queue | Bank | None = None
        if self.memory == "images":
            self.reads = (self.nodes, "indices")
        if self.memory != "batch":
            self._check_memory()
        if isinstance(vectors := self.gallery, Tensor):  # moves with the method, and is in no checkpoint
            del self.gallery
            self.register_buffer("gallery", vectors, persistent=False)
        if self.memory == "queue":
            assert self.teacher_width is not None
            self.remembered = Queue(self.queue, self.teacher_width)
        elif self.memory == "images" and self.gallery is None:
            assert self.teacher_width is not None
            self.remembered = Bank(self.images, self.teacher_width)
            self.remembered.keys.copy_(cosine.nodes(self.remembered.keys))
            self.slots = True

    def _check_memory(self) -> None:
        name = type(self).__name__
        if not self.rule.dense:
            raise RelgraphError(f"a memory of {name} has its own nearest keys: expected graph 'dense', got another")
        if self.teacher_width is None and self.gallery is None:
            raise RelgraphError(f"{name} keeps the teacher's vectors: expected teacher_width, got none")
        if self.memory == "images" and self.gallery is None and self.images < 2:
            raise RelgraphError(f"{name} keeps a vector of each training image: expected images, got {self.images}")
        if self.gallery is not None and self.images not in (0, len(self.gallery)):
            told = f"expected a gallery of the {self.images} training images in their order"
            raise RelgraphError(f"{name} leaves out an image's own slot: {told}, got {len(self.gallery)} vectors")

    @classmethod
    def for_run(cls, run: RunFacts, refine: str | Refiner | None = None, **options: Any) -> Self:
        """Return the method for the widths of its nodes in a run, and the run's number of training images."""
        return super().for_run(run, refine, images=run.images, **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the terms of a batch, of its own keys or of those of the memory."""
        if self.paired:
            return super().compare(student, teacher, batch)
        s, t = self.vectors(student, teacher)
        own = self._own(batch, len(s))
        check_nodes(s, t, one_width=True, remedy=AGAINST)
        terms, keys, batched = self.own_terms(s, t), self.keys(), self.with_batch
        near = keys_around(cosine, t, keys, self.length - 1, own, batch=batched)
        for name, relation in self.relations().items():
            value = related_to_keys(relation, s, t, keys, near, batch=batched)
            terms[name] = overflowed(value.to(precision_of(s, t)), s, t)
        return terms

    @property
    def with_batch(self) -> bool:
        """Whether all images of the batch are keys of every anchor beside those of a memory, not its own alone."""
        return False

    def keys(self) -> Rows:
        """Return the keys of the memory, of unit length."""
        if self.remembered is not None:
            return self.remembered.keys
        assert self.gallery is not None
        return Prepared(self.gallery, cosine)

    def _own(self, batch: Batch | None, count: int) -> Tensor | None:
        """Return the slots of the images of a batch, where the memory has some."""
        if self.memory != "images":
            return None
        if batch is None:
            expected = "expected a Batch(indices, labels) as the third argument, got none"
            raise RelgraphError(f"{type(self).__name__} reads indices: {expected}")
        check_indices(batch.indices, count, len(self.keys()))
        return batch.indices

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Put the teacher's vectors, of unit length, into the memory."""
        if self.remembered is None:
            return
        found = cosine.nodes(nodes_of(as_output(teacher), self.nodes, type(self).__name__))
        if isinstance(self.remembered, Bank):
            self.remembered.remember(batch.indices, found, momentum=0.0)
        else:
            self.remembered.remember(found)
