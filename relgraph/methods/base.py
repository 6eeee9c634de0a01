"""What every method is made of: the networks' outputs, the batch, and a module that turns them into named losses."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel, at_least_float32
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

Watcher = Callable[["HeteroData", Kernel], None]
Part = Literal["embedding", "feature", "map"]
PARTS: tuple[Part, ...] = ("embedding", "feature", "map")


class Views(NamedTuple):
    """Extra views of each image that a method asks for: what the networks say of them is in `Output.extra`.

    Attributes:
        kind: "rotations" by 90, 180 and 270 degrees; "transformations", one each of SSKD's four; small "patches".
        each: How many of each image, V.
    """

    kind: Literal["rotations", "transformations", "patches"]
    each: int


class Output(NamedTuple):
    """What a network says of a batch.

    Attributes:
        embedding: The nodes of its graph, `(N, D)`.
        logits: `(N, classes)`, where there is a classifier.
        feature: The pooled vector below the projection, `(N, width)`, where there is one.
        maps: The maps between the network's stages, in order, each `(N, C, H, W)`, the first that of the stem; none
            of a network that hands on no maps.
        extra: What it says of V extra views of the same images, for a method that asks for them by `views`: row
            `v * N + i` is view v of image i.
    """

    embedding: Tensor
    logits: Tensor | None = None
    feature: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    extra: "Output | None" = None

    def detach(self) -> "Output":
        """Return the same without gradient."""
        return Output(
            self.embedding.detach(),
            None if self.logits is None else self.logits.detach(),
            None if self.feature is None else self.feature.detach(),
            tuple(stage.detach() for stage in self.maps),
            None if self.extra is None else self.extra.detach(),
        )


class Batch(NamedTuple):
    """What a method may know of the images besides the two outputs.

    Attributes:
        indices: Position of each image in the training set, `(N,)`.
        labels: Class of each image, `(N,)`; -1 where it is unknown.
    """

    indices: Tensor
    labels: Tensor


class Method(nn.Module):
    """A published choice of how a student follows a teacher: `method(student, teacher, batch) -> scalar`.

    Student and teacher are `Output`s, or bare vectors `(N, D)`, which stand for embedding and feature alike, where a
    method needs no more. The teacher is detached in `terms`, once, for all methods: no method sends gradient into it.
    A loss is pure: it may read a memory and never writes it; `remember` does. A method implements `compare`.

    Attributes:
        paper: Name, authors, year and arXiv number.
        weight: The published weight of the method, or of the form that was asked for, beside a cross-entropy of 1.
        kernel, topology, criterion: What it is composed of, for the table of methods.
        differs: Where paper, official code and this one differ, in one line; the docstring says all.
        init_share: Share of the epochs in which the method trains alone, before the cross-entropy does, as the authors
            of some methods have it; 0 for the others.
        gamma: The published weight of the cross-entropy beside it; 0 for a method that needs no labels.
        augment: How the images are augmented that both networks see: "crop" (padding, crop, flip), or "contrastive" as
            in the training of self-supervised teachers.
        views: The extra views of each image that it asks for, if any.
        watcher: What gets each graph pair that the loss reads, and its kernel.
        reads: What it reads of the outputs ("embedding", "feature", "map", "maps", "logits") and of the batch
            ("labels", "indices"); if nothing is named, it may read all.
        pointwise: Whether the loss is a mean over images, and what it says of one depends on no other.
        processes: Over which processes a batch is spread (`spread_over`): outputs and batch are then the rows of this
            one, and the loss is that of all. A pointwise loss stays that of the rows of this process.
        local: Whether it relates the rows of this process alone all the same. Memories then still hold all rows.
    """

    paper: ClassVar[str] = ""
    weight: float = 1.0
    kernel: ClassVar[str] = "-"
    topology: ClassVar[str] = "-"
    criterion: ClassVar[str] = "-"
    differs: ClassVar[str] = ""
    init_share: ClassVar[float] = 0.0
    gamma: ClassVar[float] = 1.0
    augment: ClassVar[Literal["crop", "contrastive"]] = "crop"
    views: Views | None = None
    watcher: "Watcher | None" = None
    reads: tuple[str, ...] = ()
    pointwise: ClassVar[bool] = False
    processes: ProcessGroup = SINGLE_PROCESS
    local: bool = False

    def __init__(self) -> None:
        super().__init__()  # or a method without a constructor would have torch's *args and **kwargs as options

    def forward(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Tensor:
        """Return the loss of one batch, a scalar: the sum of its terms.

        Raises:
            RelgraphError: if shapes or values do not fit the method.
        """
        return torch.stack(list(self.terms(student, teacher, batch).values())).sum()

    def terms(
        self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name, scalars, for logs and for telling which one went wrong."""
        return self.compare(*self.together(as_output(student), as_output(teacher).detach(), as_batch(batch)))

    def together(self, student: Output, teacher: Output, batch: Batch | None) -> tuple[Output, Output, Batch | None]:
        """Return what the loss reads, of all processes that it relates; of a pointwise one that is what came in."""
        if self.local or self.pointwise:
            return student, teacher, batch
        return self.whole(student, teacher, batch)

    def whole(self, student: Output, teacher: Output, batch: Batch | None) -> tuple[Output, Output, Batch | None]:
        """Return what the method reads of all processes, in the order of the batch, with the student's gradient."""
        if self.processes.count == 1:
            return student, teacher, batch
        gather = self.processes.gather
        rows = None if batch is None else Batch(gather(batch.indices), gather(batch.labels))
        s, t = (gathered(output, self.reads, self.processes) for output in (student, teacher))
        return s, t, rows

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return the weighted terms of one batch; the teacher comes detached."""
        raise NotImplementedError

    def teacher_terms(
        self, student: Output, teacher: Output, batch: Batch, classify: Callable[[Output], Tensor]
    ) -> dict[str, Tensor]:
        """Return what trains the method's own side of the teacher, by name; its head learns from it as well.

        `classify` returns the logits `(N, classes)` of the teacher's head for an output whose embedding or feature
        the method has changed. The student learns nothing from it. Most methods have nothing to train there.
        """
        return {}

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters that `teacher_terms` trains, which the student's optimiser leaves alone."""
        return ()

    def show(self, pair: "HeteroData", kernel: Kernel) -> "HeteroData":
        """Return a pair after handing it to `watcher`, if there is one, so that diagnoses see what the loss reads."""
        if self.watcher is not None:
            self.watcher(pair, kernel)
        return pair

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Write this batch into the method's memory; most methods have none.

        In a loop of your own, call it in every step between `backward` and the optimiser's step. Where the batch is
        spread over processes, the memories of all hold the whole of it, and stay alike.
        """


def spread_over(method: Method, processes: ProcessGroup | None = None, *, local: bool = False) -> None:
    """Let a method, and all that it is made of, read the whole of a batch that is spread over processes.

    In a loop of your own under DDP, call it once, after `torch.distributed.init_process_group`; each process then gives
    the method its own rows, as many on each. The loss is that of the whole batch on all of them, and the gradient of
    the parameters, averaged by DDP, is that of one process with the whole batch. Put a method that has parameters into
    the module that DDP wraps. Without `processes` they are those of the default group. With `local` each relates its
    own rows alone, which is another loss; memories hold the whole batch all the same, and stay alike.
    """
    processes = ProcessGroup.current() if processes is None else processes
    for module in method.modules():
        if isinstance(module, Method):
            module.processes, module.local = processes, local


def gathered(output: Output, reads: Sequence[str], processes: ProcessGroup) -> Output:
    """Return the embedding and those parts of an output that are read, of all processes; the others as they are.

    Row `v * N + i` of the extra views is view v of image i of the whole batch.
    """
    read = {"embedding", *(part.removeprefix("student's ") for part in reads or (*PARTS, "maps", "logits"))}
    done: dict[int, Tensor] = {}

    def gather(part: Tensor | None, *names: str, views: int = 1) -> Tensor | None:
        if part is None or read.isdisjoint(names):
            return part
        if id(part) not in done:  # a bare vector is embedding and feature alike
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


def nodes_of(output: Output, part: Part, method: str) -> Tensor:
    """Return the nodes `(N, D)` that a method reads of an output: embedding, feature, or the last map, flattened.

    Raises:
        RelgraphError: if the output has no such part.
    """
    if part not in PARTS:
        raise unknown("kind of nodes", part, PARTS)
    if part == "map":
        if not output.maps:
            raise RelgraphError(
                f"{method} reads the last stage map: expected Output(embedding, maps=(...)) of both networks, or "
                "nodes='feature' for vectors"
            )
        return output.maps[-1].flatten(1)
    found = output.embedding if part == "embedding" else output.feature
    if found is None:
        raise RelgraphError(f"{method} reads features: expected Output(embedding, feature=...) of both networks")
    return found


def stage_maps(output: Output, method: str, least: int = 1) -> tuple[Tensor, ...]:
    """Return the maps of an output, that of the stem first.

    Raises:
        RelgraphError: if there are fewer than `least`.
    """
    if len(output.maps) < least:
        raise RelgraphError(
            f"{method} reads stage maps (N, C, H, W): expected Output(embedding, maps=(...)) with at least {least} of "
            f"student and teacher, got {len(output.maps)}"
        )
    return output.maps


def logits_of(student: Output, teacher: Output, method: str) -> tuple[Tensor, Tensor]:
    """Return the logits `(N, classes)` of student and teacher.

    Raises:
        RelgraphError: if they are missing or differ in shape.
    """
    if student.logits is None or teacher.logits is None:
        raise RelgraphError(
            f"{method} reads logits: expected Output(embedding, logits) of student and teacher, got bare embeddings"
        )
    if student.logits.shape != teacher.logits.shape:
        shapes = f"{tuple(student.logits.shape)} and {tuple(teacher.logits.shape)}"
        raise RelgraphError(f"{method} needs logits of one shape (N, classes) from student and teacher, got {shapes}")
    return student.logits, teacher.logits


def labels_of(batch: Batch | None, method: str) -> Tensor:
    """Return the labels `(N,)` of a batch.

    Raises:
        RelgraphError: if there is no batch.
    """
    if batch is None or not isinstance(batch.labels, Tensor):
        raise RelgraphError(f"{method} reads labels: expected a Batch(indices, labels) as the third argument, got none")
    return batch.labels


def labelled_cross_entropy(logits: Tensor, labels: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return the mean cross-entropy over the images that have a label (not -1); 0 if none has one.

    Of a batch that is spread over processes, it is a share whose mean over the processes is that of the whole batch.
    """
    loss = cross_entropy(at_least_float32(logits), labels, ignore_index=-1, reduction="sum")
    return loss * processes.count / processes.sum((labels >= 0).sum()).clamp_min(1)


def check_positive(**values: float) -> None:
    """Raise RelgraphError unless each value is above 0."""
    for name, value in values.items():
        if not value > 0:
            raise RelgraphError(f"{name} must be positive, got {value}")


def check_weights(**weights: float) -> None:
    """Raise RelgraphError unless each weight is at least 0."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise RelgraphError(f"{name} must be at least 0, got {weight}")


def as_output(given: Output | Tensor) -> Output:
    """Return an output; a bare tensor is embedding and feature alike.

    Raises:
        RelgraphError: for anything else.
    """
    if isinstance(given, Output):
        return given
    if not isinstance(given, Tensor):
        raise RelgraphError(
            "a method takes vectors (N, D) or an Output(embedding, logits=..., feature=..., maps=...) of each network, "
            f"got {type(given).__name__}"
        )
    return Output(given, feature=given)


def as_batch(given: Batch | None) -> Batch | None:
    """Return a batch, or none.

    Raises:
        RelgraphError: for anything else.
    """
    if given is not None and not isinstance(given, Batch):
        raise RelgraphError(f"the third argument of a method is a Batch(indices, labels), got {type(given).__name__}")
    return given
