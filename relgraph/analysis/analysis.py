"""The k-NN graphs of student and teacher on a whole split of a run, and their agreement."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from relgraph.analysis.neighbourhoods import class_means, communities, neighbour_overlap
from relgraph.analysis.run_loading import TrainedRun
from relgraph.errors import RelgraphError, unknown
from relgraph.graph import search as searching
from relgraph.graph.search import check_finite, degenerate_in_blocks, edge_weights, matches_in_blocks
from relgraph.graph.topology import edges_of, joined

# All are exact: they differ in speed, and between weights that are equal to rounding.
SEARCHES: dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]] = {
    "blocks": partial(searching.nearest_in_blocks, progress="neighbours"),
    "faiss": searching.nearest_by_faiss,
}


class NetworkGraph(NamedTuple):
    """The k-NN graph of one network on the N images of a split.

    Attributes:
        embedding: Embeddings as `TrainedRun.nodes` has them, unrefined, `(N, D)`; large ones lie in a temporary file.
        prediction: The class that its head predicts, `(N,)`; `None` if no loss trained the head.
        neighbours: Each node's k nearest others by correlation, nearest first, as positions `(N, k)`.
        weights: Their correlations, `(N, k)`.
        communities: Each node's community, `(N,)`, 0 the largest.
        degenerate: Which nodes have no variance, `(N,)`: they correlate with nothing; their neighbours are arbitrary.
    """

    embedding: Tensor
    prediction: Tensor | None
    neighbours: Tensor
    weights: Tensor
    communities: Tensor
    degenerate: Tensor


class Comparison(NamedTuple):
    """How the graphs of both networks of a run compare on the same N nodes.

    Attributes:
        overlap: Share of its neighbours on which both networks agree, for each node, `(N,)`, 0 to 1.
        matched: Whether a student's node has its own as the nearest teacher's node, `(N,)`; `None` where the networks'
            embeddings differ in width.
        edges: The directed edges of both k-NN graphs, each once, `(2, E)`: candidates above anchors.
        student: The student's correlation on each of these edges, `(E,)`.
        teacher: The teacher's.
    """

    overlap: Tensor
    matched: Tensor | None
    edges: Tensor
    student: Tensor
    teacher: Tensor

    @property
    def edge_error(self) -> Tensor:
        """How far the student's correlation of each edge is from the teacher's, `|r_s - r_t|`, `(E,)`, 0 to 2."""
        return (self.student - self.teacher).abs()

    @property
    def relation_error(self) -> Tensor:
        """The mean error of each node's edges, those whose anchor it is, `(N,)`, 0 to 2."""
        return class_means(self.edge_error, self.edges[1], len(self.overlap))

    def worst(self, count: int) -> list[int]:
        """Return so many nodes on whose neighbours the networks agree least, among equals by their relation error."""
        order = self.relation_error.argsort(descending=True, stable=True)
        places: list[int] = order[self.overlap[order].argsort(stable=True)][:count].tolist()
        return places


@dataclass(frozen=True, eq=False)
class Analysis:
    """The result of `analyse`; all tensors are on the CPU, nodes are in the order of the split.

    Attributes:
        run: Path of the run.
        dataset: Name of the data set.
        split: Name of the split.
        k: Neighbours of each node.
        search: How they were found, a name of `SEARCHES`.
        classes: Names of the classes.
        index: Each image's position in the data set's original split, `(N,)`.
        labels: True labels, `(N,)`, negative where unknown.
        student: The student's graph.
        teacher: The teacher's; `None` in a run without one.
        comparison: Both together; `None` without a teacher.
    """

    run: Path
    dataset: str
    split: str
    k: int
    search: str
    classes: tuple[str, ...]
    index: Tensor
    labels: Tensor
    student: NetworkGraph
    teacher: NetworkGraph | None
    comparison: Comparison | None

    @property
    def graphs(self) -> dict[str, NetworkGraph]:
        """The graphs that there are, student first."""
        return {"student": self.student} | ({} if self.teacher is None else {"teacher": self.teacher})

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return bool((self.labels >= 0).any())

    def class_name(self, place: int, without: str = "") -> str:
        """Return the name of an image's class, or `without` where it has no label."""
        label = int(self.labels[place])
        return self.classes[label] if label >= 0 else without

    def summary(self) -> dict[str, Any]:
        """Return all figures as numbers, lists and dictionaries, for JSON: see `relgraph.analysis.figures`."""
        from relgraph.analysis.figures import summarise

        return summarise(self)


def analyse(
    run: TrainedRun | Path,
    split: str = "test",
    k: int = 10,
    first: int | None = None,
    seed: int = 0,
    search: str | None = None,
) -> Analysis:
    """Return the k-NN graphs of a run's student and teacher on a split, or on its first images, and their comparison.

    Nodes are those of `TrainedRun.nodes`, unrefined, edges their correlations, as those of `run_pair`; each network
    chooses its own neighbours.

    Args:
        run: A finished run, or its path.
        split: "train", "val" or "test".
        k: Neighbours of each node.
        first: How many images of the split; all if `None`.
        seed: Of the communities.
        search: A name of `SEARCHES`; by default faiss where it is installed and the nodes are not large, else blocks,
            which alone holds no copy of them.

    Raises:
        RelgraphError: if the run cannot be opened, or the split has no images or too few for k neighbours.
    """
    if search is not None and search not in SEARCHES:
        raise unknown("search", search, tuple(SEARCHES))
    opened = TrainedRun(run) if isinstance(run, Path) else run
    images = opened.images(split, first)
    if not 0 < k < len(images):
        raise RelgraphError(f"k must be between 1 and the number of images less one, {len(images) - 1}, got {k}")
    networks = zip(("student", "teacher"), opened.nodes(images), strict=True)
    found = {name: nodes for name, nodes in networks if nodes is not None}
    if search is None:
        small = k < searching.FAISS_LIMIT and max(nodes.x.numel() for nodes in found.values()) <= searching.LARGEST
        search = "faiss" if small and searching.has_faiss() else "blocks"
    graphs = {}
    for name, (x, prediction) in found.items():
        check_finite(x, name)
        table, known = SEARCHES[search](x, k), prediction if opened.has_trained_classifier(name) else None
        graphs[name] = NetworkGraph(x, known, *table, communities(*table, seed), degenerate_in_blocks(x))
    student, teacher = graphs["student"], graphs.get("teacher")
    comparison = None if teacher is None else compare(student, teacher)
    facts = opened.run.path, opened.recipe.dataset, split, k, search, tuple(images.classes)
    return Analysis(*facts, images.index, images.true_labels, student, teacher, comparison)


def compare(student: NetworkGraph, teacher: NetworkGraph) -> Comparison:
    """Return what two networks' graphs of the same nodes have in common."""
    count = len(student.neighbours)
    edges = joined([edges_of(student.neighbours), edges_of(teacher.neighbours)], count, "union")
    one, other = student.embedding, teacher.embedding
    overlap = neighbour_overlap(student.neighbours, teacher.neighbours)
    matched = matches_in_blocks(one, other, progress="matches") if one.shape == other.shape else None
    return Comparison(overlap, matched, edges, edge_weights(one, one, edges), edge_weights(other, other, edges))
