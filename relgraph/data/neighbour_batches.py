"""Batches of seeds with all their neighbours in a fixed graph of the training images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from relgraph.data.batches import Batches, epoch_batches
from relgraph.errors import RelgraphError
from relgraph.outputs import BatchEdges
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.seeding import generator


@dataclass(frozen=True, eq=False)
class ImageGraph:
    """A fixed graph over the N training images, by anchor.

    Attributes:
        neighbours: Neighbours of all images one after the other, `(E,)`.
        first: Where those of each image begin, and at last E, `(N + 1,)`.
        weights: The teacher's weights of these edges, `(E,)`; `None` where they are computed from its vectors.
        hops: Where nodes are refined, within how many edges of a seed all images are in its batch, and send messages.

    >>> graph = ImageGraph.of_edges(torch.tensor([[2, 1, 0], [0, 0, 2]]), count=3)
    >>> graph.neighbours.tolist(), graph.first.tolist()
    ([2, 1, 0], [0, 2, 2, 3])
    """

    neighbours: Tensor
    first: Tensor
    weights: Tensor | None = None
    hops: int = 0

    @classmethod
    def of_edges(cls, edge_index: Tensor, count: int, weights: Tensor | None = None) -> "ImageGraph":
        """Return the graph over `count` images of an `edge_index` (2, E), neighbours above anchors."""
        order = edge_index[1].argsort(stable=True)
        first = torch.cat([torch.zeros(1, dtype=torch.long), edge_index[1].bincount(minlength=count).cumsum(0)])
        return cls(edge_index[0, order].long(), first, None if weights is None else weights[order])

    def __len__(self) -> int:
        """Return N."""
        return len(self.first) - 1

    @cached_property
    def degrees(self) -> Tensor:
        """How many neighbours each image has, `(N,)`."""
        return self.first.diff()

    @property
    def edge_index(self) -> Tensor:
        """The edges (2, E), neighbours above anchors, in the order of the anchors."""
        return torch.stack([self.neighbours, torch.arange(len(self)).repeat_interleave(self.degrees)])

    @cached_property
    def degree(self) -> int | None:
        """The number of neighbours, where all images have as many."""
        least, most = self.degrees.min(), self.degrees.max()
        return int(most) if least == most else None

    def around(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the edges to some images `(S,)`: their places in `neighbours`, and the seed's number of each."""
        degrees = self.degrees[seeds]
        anchor = torch.arange(len(seeds)).repeat_interleave(degrees)
        start = self.first[seeds] - (degrees.cumsum(0) - degrees)
        return torch.arange(len(anchor)) + start[anchor], anchor

    def reach(self) -> Callable[[int], set[int]]:
        """Return what finds the images that a seed has in its batch: itself, its neighbours, and all within `hops`."""
        neighbours, first = self.neighbours.numpy(), self.first.tolist()

        def reached(image: int) -> set[int]:
            found = ring = {image}
            for _ in range(max(1, self.hops)):
                ring = {near for one in ring for near in neighbours[first[one] : first[one + 1]].tolist()} - found
                found = found | ring
            return found

        return reached

    @cached_property
    def reached(self) -> Tensor:
        """How many images each has in its batch if it is a seed, itself included, `(N,)`."""
        if self.hops < 2:
            return self.degrees + 1
        reach = self.reach()
        return torch.tensor([len(reach(image)) for image in range(len(self))])

    def among(self, images: Tensor) -> BatchEdges:
        """Return all edges between some images `(B,)`, by their positions there, each image an anchor."""
        places, anchor = self.around(images)
        position = torch.full((len(self),), -1)
        position[images] = torch.arange(len(images))
        ends = torch.stack([position[self.neighbours[places]], anchor])
        inside = ends[0] >= 0
        weights = None if self.weights is None else self.weights[places[inside]]
        return BatchEdges(ends[:, inside], len(images), weights=weights)


def neighbour_batches(
    graph: ImageGraph,
    labels: Tensor,
    *,
    batch_size: int,
    labelled_share: float,
    seed: int,
    epoch: int,
    by_label: bool = True,
    processes: ProcessGroup = SINGLE_PROCESS,
    purpose: str = "batches",
    drop_last: bool = True,
) -> "NeighbourBatches":
    """Return the batches of one epoch, each of `batch_size` images: seeds with all their neighbours, each image once.

    Seeds come in the order of `epoch_batches`, so that each image is a seed once an epoch, or where some have no label
    those without one once and the others in turn, by `labelled_share`: of as many seeds as a batch has on average at
    least one has no label, unless the share leaves no room for one among `batch_size` images. A batch takes seeds as
    long as they and their neighbours fit into it, with the neighbours of these up to as many `hops` as the graph has.
    It is then filled by images drawn at random, so that every step has the same number of images, on any number of
    processes: with k neighbours these are k / 2 of them on average, which have no loss. No seed is left out at the end
    of an epoch, whatever `drop_last` says: the last batch is filled as the others are. All of this depends on
    `(purpose, seed, epoch)` alone.

    Raises:
        RelgraphError: as `epoch_batches`, or if an image with its neighbours is no batch.
    """
    size, most = min(batch_size, len(labels)), int(graph.reached.max()) - 1
    if most >= size:
        told = f"an image with its neighbours must fit into a batch: expected at most {size - 1} neighbours, got {most}"
        within = f" within {graph.hops} hops" if graph.hops > 1 else ""
        raise RelgraphError(f"{told}{within} of image {int(graph.reached.argmax())}: choose a larger batch_size")
    whole = not by_label or bool((labels >= 0).all())
    each = len(labels) if whole else max(2, round(len(labels) * size / int(graph.reached.sum())))
    if round(labelled_share * batch_size) < batch_size:  # seeds are few, and by rounding all of them would have a label
        labelled_share = min(labelled_share, (each - 1) / each)
    order = epoch_batches(labels, batch_size=each, labelled_share=labelled_share, seed=seed, epoch=epoch,
                          by_label=by_label, purpose=purpose, drop_last=False)  # fmt: skip
    seeds = torch.cat([*order])
    return NeighbourBatches(graph, seeds, _cut(graph, seeds, size), size, processes, f"others of {purpose}",
                            (seed, epoch))  # fmt: skip


@dataclass(frozen=True, eq=False)
class NeighbourBatches:
    """The batches of an epoch, or the rows of them that one process holds: each is made when it is asked for.

    Attributes:
        graph: The graph.
        seeds: The seeds of all batches.
        cuts: Where those of each batch begin, and at last their number.
        size: Images in a batch.
        processes: Those that hold a batch.
        purpose: What the images that fill a batch are drawn for.
        numbers: A seed and an epoch, by which they are drawn.
    """

    graph: ImageGraph
    seeds: Tensor
    cuts: list[int]
    size: int
    processes: ProcessGroup
    purpose: str
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the images of each batch, `(B,)` int64, those that this process holds."""
        rows = self.processes.rows(self.size)
        return (self.batch(number)[0][rows] for number in range(len(self)))

    def edges(self, number: int) -> BatchEdges:
        """Return the edges of a batch, between positions in the batch of all processes; the seeds are its anchors."""
        return self.batch(number)[1]

    def batch(self, number: int) -> tuple[Tensor, BatchEdges]:
        """Return the images of a batch `(B,)` of all processes, seeds first, and the edges between its positions."""
        seeds = self.seeds[self.cuts[number] : self.cuts[number + 1]]
        places, anchor = self.graph.around(seeds)
        neighbours = self.graph.neighbours[places].tolist()
        position = {image: at for at, image in enumerate(seeds.tolist())}
        for _ in range(max(1, self.graph.hops)):
            for image in self.graph.neighbours[self.graph.around(torch.tensor(list(position)))[0]].tolist():
                position.setdefault(image, len(position))
        random = generator(self.purpose, *self.numbers, number)
        while len(position) < self.size:
            position.setdefault(int(torch.randint(len(self.graph), (), generator=random)), len(position))
        index = torch.stack([torch.tensor([position[image] for image in neighbours], dtype=torch.long), anchor])
        weights = None if self.graph.weights is None else self.graph.weights[places]
        images = torch.tensor(list(position))
        messages = self.graph.among(images) if self.graph.hops else None
        return images, BatchEdges(index, len(seeds), self.graph.degree, weights, messages)


def describe(batches: Batches | NeighbourBatches, labels: Tensor) -> dict[str, float]:
    """Return what an epoch is: its steps, images and classes a step, and how often an image is seen.

    Classes are those of `labels` `(N,)`, -1 where there is none; the batches are those of one process.
    """
    visits, classes = torch.zeros(len(labels), dtype=torch.long), 0
    for index in batches:
        visits[index] += 1
        classes += len(set(labels[index].tolist()) - {-1})
    return {
        "steps": len(batches),
        "images_per_step": int(visits.sum()) / len(batches),
        "classes_per_step": classes / len(batches),
        "least_visits": int(visits.min()),
        "mean_visits": float(visits.double().mean()),
        "most_visits": int(visits.max()),
    }


def _cut(graph: ImageGraph, seeds: Tensor, size: int) -> list[int]:
    """Return where each batch begins in the order of the seeds, which are a seed once in a batch, and their number."""
    reach, cuts, held, own = graph.reach(), [0], set[int](), set[int]()
    for number, image in enumerate(seeds.tolist()):
        around = reach(image)
        if image in own or len(held) + len(around - held) > size:
            cuts.append(number)
            held, own = set(), set()
        held |= around
        own.add(image)
    return [*cuts, len(seeds)]
