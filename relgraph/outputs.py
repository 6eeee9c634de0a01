"""What travels in a step: the outputs of a network for a batch, the images of the batch, and the inputs of the step."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from relgraph.processes import SINGLE_PROCESS, ProcessGroup


class Output(NamedTuple):
    """A network's outputs for a batch.

    Attributes:
        embedding: The nodes of its graph, `(N, D)`. Every network of the package gives some; for a method that reads
            other parts alone, as KD the logits, it may be left out.
        logits: `(N, classes)`, where there is a classifier; of each position `(N, classes, h, w)`, where pixels have
            classes.
        feature: The pooled vector below the projection, `(N, width)`, where there is one.
        maps: The maps between the network's stages, in order, each `(N, C, H, W)`, the first that of the stem; empty
            for a network that returns no maps.
        extra: Its outputs for V extra views of the same images, for a method that requests them by `views`: row
            `v * N + i` is view v of image i.
    """

    # Not `Tensor | None`: who has a network's output need not ask. Methods, which take any, check it (`nodes_of`).
    embedding: Tensor = None  # type: ignore[assignment]
    logits: Tensor | None = None
    feature: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    extra: "Output | None" = None

    def tensors(self) -> list[Tensor]:
        """Return the tensors that it has, those of extra views last."""
        own = [x for x in (self.embedding, self.logits, self.feature, *self.maps) if x is not None]
        return own if self.extra is None else [*own, *self.extra.tensors()]

    @property
    def rows(self) -> int:
        """The number of rows of its tensors, N."""
        return len(self.tensors()[0])

    def filled(self, tensors: Iterable[Tensor]) -> "Output":
        """Return an output of other tensors, in the order of `tensors`, with the same parts as this one."""
        others = iter(tensors)
        return self.each(lambda _: next(others))

    def each(self, function: Callable[[Tensor], Tensor]) -> "Output":
        """Return the output with a function applied to each tensor, in the order of `tensors`."""
        embedding = self.embedding if self.embedding is None else function(self.embedding)
        logits, feature = (None if x is None else function(x) for x in (self.logits, self.feature))
        maps = tuple(map(function, self.maps))
        return Output(embedding, logits, feature, maps, None if self.extra is None else self.extra.each(function))

    def detach(self) -> "Output":
        """Return the same without gradient."""
        return self.each(Tensor.detach)


def of_views(network: Callable[[Tensor], Output], images: Tensor, extra: Tensor | None) -> Output:
    """Return a network's outputs for images `(N, C, H, W)` with, in `extra`, those for their extra views.

    Views of one size pass through the network together, and share batch statistics. Maps of extra views are left out.
    """
    if extra is None:
        return network(images)
    if images.shape[1:] != extra.shape[1:]:
        return network(images)._replace(extra=network(extra)._replace(maps=()))
    both, count = network(torch.cat([images, extra])), len(images)
    first, rest = both.each(lambda x: x[:count]), both.each(lambda x: x[count:])
    return first._replace(extra=rest._replace(maps=()))


def bare(vectors: Tensor) -> Output:
    """Return vectors `(N, D)` as the outputs of a network without a head: they are both embedding and feature."""
    return Output(vectors, feature=vectors)


class BatchEdges(NamedTuple):
    """The graph of which a batch was made: edges to its first images, the anchors, from these and those behind them.

    Attributes:
        edge_index: Neighbours above anchors, `(2, E)`, by their places in the batch of all processes.
        anchors: How many images are anchors.
        degree: The number of edges of every anchor, if it is known and the same for all.
        weights: The teacher's weights `(E,)`, in place of those that a kernel finds.
        messages: The edges over which a refinement moves nodes, between any images of the batch; those to the anchors
            where there are none.
    """

    edge_index: Tensor
    anchors: int
    degree: int | None = None
    weights: Tensor | None = None
    messages: "BatchEdges | None" = None

    def to(self, device: torch.device | str) -> "BatchEdges":
        """Return the edges on a device."""
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        messages = None if self.messages is None else self.messages.to(device)
        edge_index = self.edge_index.to(device, non_blocking=True)
        return self._replace(edge_index=edge_index, weights=weights, messages=messages)


class Batch(NamedTuple):
    """The images of a batch, besides the networks' outputs.

    Attributes:
        indices: Position of each image in the training set, `(N,)`.
        labels: Class of each image, `(N,)`, or where pixels have classes of each pixel, `(N, h, w)`; -1 where it is
            unknown.
        edges: The graph of which the batch was made, where a method is not to find its own: its anchors alone have a
            loss; the images behind them are their neighbours, or fill the batch.
        images: The images as the student reads them, `(N, C, H, W)`, where a method reads "image".
    """

    indices: Tensor
    labels: Tensor
    edges: BatchEdges | None = None
    images: Tensor | None = None

    @property
    def of_images(self) -> Tensor:
        """The classes of the images, `(N,)`; -1 for all where it is pixels that have classes."""
        return self.labels if self.labels.ndim == 1 else torch.full_like(self.indices, -1)

    def learned(self, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
        """Return the labels `(N,)` that are learned: -1 for images behind the anchors, of the rows of this process."""
        if self.edges is None:
            return self.labels
        row = torch.arange(len(self.labels), device=self.labels.device) + processes.rank * len(self.labels)
        return self.labels.masked_fill(row >= self.edges.anchors, -1)


class StepInputs(NamedTuple):
    """The inputs of one step, for a batch of B images; of a batch over processes, those of this one.

    Attributes:
        images: The student's views as it reads them, `(B, C, H, W)`.
        batch: Indices and labels of the images.
        teacher: The teacher's outputs for these or other views, those for extra views in `extra`, if there is a
            teacher.
        extra: The extra views that a method needs, as the student reads them, `(V * B, C, h, w)`: row `v * B + i` is
            view v of image i.
    """

    images: Tensor
    batch: Batch
    teacher: Output | None = None
    extra: Tensor | None = None
