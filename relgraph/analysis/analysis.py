"""The k-NN graphs of student and teacher on a whole split of a run, and all figures of them and their agreement."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from relgraph.analysis import neighbourhoods as measures
from relgraph.analysis.diagnostics import rank_correlation
from relgraph.analysis.node_set import NodeSet
from relgraph.analysis.run_loading import TrainedRun
from relgraph.analysis.sources import Source
from relgraph.analysis.targets import check_own
from relgraph.errors import RelgraphError, unknown
from relgraph.files import write_atomically
from relgraph.graph import search as searching
from relgraph.graph.search import edge_weights
from relgraph.graph.topology import edges_of, joined

# How many of the images whose neighbourhoods differ most, and of the largest components, are listed.
LISTED = 50
# All are exact: they differ in speed, and between weights that are equal to rounding.
BLOCKS = partial(searching.nearest_in_blocks, progress="neighbours")
SEARCHES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"blocks": BLOCKS, "faiss": searching.nearest_by_faiss}


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
        return measures.class_means(self.edge_error, self.edges[1], len(self.overlap))

    def worst(self, count: int) -> list[int]:
        """Return so many nodes on whose neighbours the networks agree least, among equals by their relation error."""
        order = self.relation_error.argsort(descending=True, stable=True)
        return [int(place) for place in order[self.overlap[order].argsort(stable=True)][:count]]


@dataclass(frozen=True, eq=False)
class Analysis:
    """The result of `analyse`; all tensors are on the CPU, nodes are in the order of the split.

    Attributes:
        kind: What was analysed, a "run" or a "store" of embeddings.
        path: Its path.
        dataset: Name of the data set.
        split: Name of the split; "" where a table of vectors does not tell.
        k: Neighbours of each node.
        search: How they were found, a name of `SEARCHES`.
        classes: Names of the classes.
        index: Each image's position in the data set's original split, `(N,)`.
        labels: True labels, `(N,)`, negative where unknown.
        graphs: By network, the student's first: of a run without a teacher it is alone, and of a store the teacher's.
        comparison: Both together; `None` where there is one.
        source: Whose vectors the teacher's graph is of, "teacher" or "projection"; "student" where there is none (see
            `relgraph.analysis.sources.title`).
    """

    kind: Literal["run", "store"]
    path: Path
    dataset: str
    split: str
    k: int
    search: str
    classes: tuple[str, ...]
    index: Tensor
    labels: Tensor
    graphs: Mapping[str, NetworkGraph]
    comparison: Comparison | None
    source: Source

    @property
    def student(self) -> NetworkGraph:
        """The graph of a run's student."""
        return self.graphs["student"]

    @property
    def teacher(self) -> NetworkGraph | None:
        """The teacher's graph; `None` where there is none."""
        return self.graphs.get("teacher")

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return bool((self.labels >= 0).any())

    def class_name(self, place: int, without: str = "") -> str:
        """Return the name of an image's class, or `without` where it has no label."""
        label = int(self.labels[place])
        return self.classes[label] if label >= 0 else without

    def summary(self) -> dict[str, Any]:
        """Return all figures as numbers, lists and dictionaries, for JSON.

        A figure that cannot be computed is left out, or `None` inside a list: all that needs labels where the data have
        none, all that compares where there is no teacher.

        - `run` or `store`: its path; `source`: whose vectors the teacher's graph is of.
        - `student`, `teacher`: of each graph alone, `network_figures`.
        - `overlap`: mean neighbour overlap at k; `match`: share of student nodes whose nearest teacher node is their
          own, where both networks' vectors have one width; `edge_rank`: Spearman's rank correlation of both networks'
          correlations over the `edges` directed edges (anchor, candidate) that are in either k-NN graph, each once;
          `relation_error`: mean |r_s - r_t| over them.
          An edge that one network alone chose is strong there and weaker in the other, so `edge_rank` falls below 0
          where most are such; `pair_rank` is the same over all pairs of images, above 200,000 over so many drawn at
          random.
        - `agreement`: NMI and ARI of the student's communities, the teacher's and the labels, by pairs.
        - `per_class`: for each class overlap, relation error (over the edges whose anchor is of that class) and
          homophily of both graphs, worst classes first: by relation error, without a teacher by homophily.
        - `confusion`: edges from each class to each other one, the largest differences between the networks first.
        - `worst`: the images whose neighbourhoods differ most, by overlap, then relation error.
        """
        comparison, graphs, labels = self.comparison, self.graphs, self.labels
        found: dict[str, Any] = {self.kind: str(self.path), "dataset": self.dataset, "split": self.split}
        found |= {"source": self.source, "images": len(labels), "labelled": int((labels >= 0).sum())}
        found |= {"k": self.k, "search": self.search}
        found |= {name: network_figures(graph, self) for name, graph in graphs.items()}
        if comparison is not None:
            found |= _comparison_figures(comparison, list(graphs.values()))
        parts = {name: graph.communities for name, graph in graphs.items()}
        parts |= {"labels": labels} if self.labelled else {}
        found["agreement"] = {f"{a}_{b}": measures.agreement(parts[a], parts[b]) for a, b in combinations(parts, 2)}
        if self.labelled:
            found |= {"per_class": per_class(self), "confusion": confusion(self)}
        return found if comparison is None else {**found, "worst": _worst(self, comparison)}


def analyse(
    run: TrainedRun | Path,
    split: str = "test",
    k: int | None = None,
    first: int | None = None,
    seed: int = 0,
    search: str | None = None,
    source: Source = "teacher",
) -> Analysis:
    """Return the k-NN graphs of a run's student and teacher on a split, or on its first images, and their comparison.

    Nodes are those of `TrainedRun.nodes`, unrefined, edges their correlations, as those of `run_pair`; each network
    chooses its own neighbours. Where the teacher's vectors have another width than the student's, no node matches.

    Args:
        run: A finished run, or its path.
        split: "train", "val" or "test".
        k: Neighbours of each node; 10, or as many as fewer images have, if not given.
        first: How many images of the split; all if `None`.
        seed: Of the communities.
        search: A name of `SEARCHES`; by default faiss where it is installed and the nodes are not large, else blocks,
            which alone holds no copy of them.
        source: Whose vectors the teacher's graph is of: the frozen "teacher"'s own, or the "projection" that the run
            learned; with "student" there is the student's graph alone.

    Raises:
        RelgraphError: if the run cannot be opened, or the split has no images or too few for k neighbours.
    """
    if search is not None and search not in SEARCHES:
        raise unknown("search", search, SEARCHES)
    opened = TrainedRun(run) if isinstance(run, Path) else run
    images = opened.images(split, first)
    k = _chosen_k(k, len(images))
    return analyse_nodes(opened.node_set(images, source), k, seed, search)


def analyse_nodes(nodes: NodeSet, k: int | None = None, seed: int = 0, search: str | None = None) -> Analysis:
    """Return the k-NN graphs of nodes, each network's own, and their comparison where there are two: see `analyse`.

    Raises:
        RelgraphError: if there are too few nodes for k neighbours, or they hold what is no finite number.
    """
    k = _chosen_k(k, len(nodes.index))
    if search is None:
        largest = max(one.x.numel() for one in nodes.networks.values())
        small = k < searching.FAISS_LIMIT and largest <= searching.LARGEST
        search = "faiss" if small and searching.has_faiss() else "blocks"
    graphs = {}
    for name, (x, prediction, _) in nodes.networks.items():
        searching.check_finite(x, name)
        table = SEARCHES[search](x, k)
        parts = measures.communities(*table, seed)
        graphs[name] = NetworkGraph(x, prediction, *table, parts, searching.degenerate_in_blocks(x))
    comparison = compare(*graphs.values()) if len(graphs) > 1 else None
    facts = nodes.kind, nodes.path, nodes.dataset, nodes.split, k, search, nodes.classes
    return Analysis(*facts, nodes.index, nodes.labels, graphs, comparison, nodes.source)


def _chosen_k(given: int | None, count: int) -> int:
    k = searching.chosen_k(given, 10, count)
    if not 0 < k < count:
        raise RelgraphError(f"k must be between 1 and the number of images less one, {count - 1}, got {k}")
    return k


def compare(student: NetworkGraph, teacher: NetworkGraph) -> Comparison:
    """Return what two networks' graphs of the same nodes have in common."""
    count = len(student.neighbours)
    edges = joined([edges_of(student.neighbours), edges_of(teacher.neighbours)], count, "union")
    one, other = student.embedding, teacher.embedding
    overlap = measures.neighbour_overlap(student.neighbours, teacher.neighbours)
    matched = searching.matches_in_blocks(one, other, progress="matches") if one.shape == other.shape else None
    return Comparison(overlap, matched, edges, edge_weights(one, one, edges), edge_weights(other, other, edges))


def network_figures(graph: NetworkGraph, analysis: Analysis) -> dict[str, Any]:
    """Return the figures of one network's graph alone.

    `width` of its vectors, `homophily` (with labels), `degenerate` nodes, number of `communities`, their `modularity`
    (`None` if no nodes are joined), connected `components` with their largest sizes, and `in_degree`: mean (k),
    largest, skewness, orphans.
    """
    joint = measures.neighbour_graph(graph.neighbours, graph.weights)
    sizes, chosen = measures.components(joint), measures.degrees(graph.neighbours)
    homophily = _number(measures.homophily(graph.neighbours, analysis.labels))
    return (
        {"width": graph.embedding.shape[1]}
        | ({"homophily": homophily} if analysis.labelled else {})
        | {
            "degenerate": int(graph.degenerate.sum()),
            "communities": int(graph.communities.max()) + 1,
            "modularity": _number(measures.modularity(joint, graph.communities)),
            "components": {"count": len(sizes), "sizes": sizes[:LISTED]},
            "in_degree": {"mean": analysis.k, **chosen},
        }
    )


def per_class(analysis: Analysis) -> list[dict[str, Any]]:
    """Return a row for each class that has images, the worst first."""
    labels, classes = analysis.labels, len(analysis.classes)
    comparison, columns = analysis.comparison, {}
    if comparison is not None:
        columns["overlap"] = measures.class_means(comparison.overlap, labels, classes)
        columns["relation_error"] = measures.class_means(comparison.edge_error, labels[comparison.edges[1]], classes)
    for name, graph in analysis.graphs.items():
        counts = measures.class_counts(graph.neighbours, labels, classes)
        columns[f"homophily_{name}"] = counts.diagonal() / counts.sum(1).double()
    images = labels[labels >= 0].bincount(minlength=classes)
    badness = columns["relation_error"] if comparison is not None else -next(iter(columns.values()))
    rows = []
    for number in badness.nan_to_num(-torch.inf).argsort(descending=True, stable=True).tolist():
        figures = {name: _number(float(column[number])) for name, column in columns.items()}
        row = {"class": number, "name": analysis.classes[number], "images": int(images[number]), **figures}
        rows += [row] if row["images"] else []
    return rows


def confusion(analysis: Analysis) -> dict[str, list[float]]:
    """Return the edges between the classes by columns: rows would take ten times the space.

    They are those of `measures.class_edges`, with `anchor` and `candidate` as `from` and `to`; of a network that there
    is not there are no columns.
    """
    labels, classes = analysis.labels, len(analysis.classes)
    none = torch.zeros(classes, classes, dtype=torch.long)
    counts = {name: measures.class_counts(one.neighbours, labels, classes) for name, one in analysis.graphs.items()}
    found = measures.class_edges(*(counts.get(name, none) for name in ("student", "teacher")))
    kept = {"from": found["anchor"], "to": found["candidate"]}
    kept |= {name: column for name, column in found.items() if name.split("_")[0] in analysis.graphs}
    return {name: [round(value, 6) for value in column] for name, column in kept.items()}


def _comparison_figures(comparison: Comparison, graphs: Sequence[NetworkGraph]) -> dict[str, Any]:
    pairs = measures.some_pairs(len(comparison.overlap))
    student, teacher = (edge_weights(graph.embedding, graph.embedding, pairs) for graph in graphs)
    found = {
        "overlap": float(comparison.overlap.mean()),
        "edges": comparison.edges.shape[1],
        "edge_rank": float(rank_correlation(comparison.student, comparison.teacher)),
        "pair_rank": float(rank_correlation(student, teacher)),
        "relation_error": float(comparison.edge_error.double().mean()),
    }
    if comparison.matched is not None:
        found["match"] = float(comparison.matched.double().mean())
    return found


def _worst(analysis: Analysis, comparison: Comparison) -> list[dict[str, Any]]:
    error, labels = comparison.relation_error, analysis.labels.tolist()
    rows = []
    for place in comparison.worst(LISTED):
        label = {"label": labels[place], "name": analysis.class_name(place)} if labels[place] >= 0 else {}
        measured = {"overlap": float(comparison.overlap[place]), "relation_error": float(error[place])}
        near = {name: analysis.index[graph.neighbours[place]].tolist() for name, graph in analysis.graphs.items()}
        rows.append({"index": int(analysis.index[place]), **label, **measured, **near})
    return rows


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write a summary as JSON, whole or not at all, an entry of it a line.

    Raises:
        RelgraphError: if it cannot be written, or would replace what is no summary.
    """
    check_summary(path)
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in summary.items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def check_summary(path: Path) -> None:
    """Check that a summary can be written to a path: nothing is there, or a summary of before.

    Raises:
        RelgraphError: if anything else is.
    """
    check_own(path, "analysis of relgraph", _is_summary)


def _is_summary(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= {"dataset", "images", "k", "agreement"}
