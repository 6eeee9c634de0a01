"""Measures of neighbourhoods: nodes, edges, labels and classes of a whole split in its k-NN graphs.

A k-NN graph is a table `(N, k)`: row i holds the neighbours of node i, nearest first, so each entry is a directed edge
from anchor i. Its weights are a table of the same shape. A label is the number of a class; a negative one is unknown,
and its nodes and edges count for no class.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.analysis.diagnostics import equal_labels, shared_neighbours
from relgraph.errors import RelgraphError
from relgraph.graph.topology import edges_of

if TYPE_CHECKING:
    import networkx as nx


def neighbour_overlap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return for each node the share of neighbours on which both tables agree, `(N, k), (N, k) -> (N,)`, 0 to 1.

    `|student(i) & teacher(i)| / k`. No row may name a neighbour twice.

    Raises:
        RelgraphError: if the tables are not (N, k) alike.

    >>> neighbour_overlap(torch.tensor([[1, 2], [0, 2], [1, 0]]), torch.tensor([[2, 1], [2, 3], [3, 4]]))
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise RelgraphError(f"tables of neighbours must be (N, k) alike, got {shapes}")
    return shared_neighbours(student, teacher).double() / student.shape[1]


def some_pairs(count: int, limit: int = 200_000) -> Tensor:
    """Return all pairs of nodes, each once, `(2, E)`; of more than `limit` pairs, that many drawn at random.

    The draw is the same each time; a few pairs may come twice.

    >>> some_pairs(3)
    tensor([[0, 0, 1],
            [1, 2, 2]])
    """
    if count * (count - 1) // 2 <= limit:
        return torch.triu_indices(count, count, offset=1)
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(count, (limit,), generator=generator)
    return torch.stack([one, (one + torch.randint(1, count, (limit,), generator=generator)) % count])


def homophily(neighbours: Tensor, labels: Tensor) -> float:
    """Return the share of edges that join equal labels, `(N, k), (N,) -> 0 to 1`.

    Edges with an unknown label at an end do not count; NaN if none is left.

    >>> homophily(torch.tensor([[1], [0], [0]]), torch.tensor([5, 5, 7]))
    0.6666666666666666
    """
    equal, known = equal_labels(neighbours, labels)
    return float(equal) / float(known) if known else float("nan")


def degrees(neighbours: Tensor) -> dict[str, float]:
    """Return how unevenly nodes are chosen as neighbours, `(N, k)`; the mean is k.

    - `largest`: how often the most chosen node is.
    - `skewness`: third standardised moment of the in-degrees, which rises with hubs (hubness; Radovanovic et al., 2010,
      JMLR 11); 0 if all are equal.
    - `orphans`: number of nodes that no other node chooses.

    >>> degrees(torch.tensor([[1], [2], [0]]))
    {'largest': 1, 'skewness': 0.0, 'orphans': 0}
    """
    chosen = neighbours.flatten().bincount(minlength=len(neighbours)).double()
    deviation = chosen - chosen.mean()
    variance = deviation.square().mean()
    skewness = float(deviation.pow(3).mean() / variance.pow(1.5)) if variance > 0 else 0.0
    return {"largest": int(chosen.max()), "skewness": skewness, "orphans": int((chosen == 0).sum())}


def neighbour_graph(neighbours: Tensor, weights: Tensor) -> "nx.Graph[int]":
    """Return the symmetrised graph for networkx, with all nodes 0 to N-1 and the magnitudes as `weight`.

    Nodes are joined if one is the other's neighbour and their weight is not 0; a pair that both rows hold is one edge,
    of the mean of both magnitudes, which differ by rounding at most.
    """
    import networkx as nx

    from relgraph.graph.pyg import to_undirected

    magnitudes = weights.flatten().abs().double()
    edges, magnitudes = edges_of(neighbours)[:, magnitudes > 0], magnitudes[magnitudes > 0]
    both, means = to_undirected(edges, magnitudes, len(neighbours), reduce="mean")
    once = both[0] < both[1]
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(neighbours)))
    graph.add_weighted_edges_from(zip(*both[:, once].tolist(), means[once].tolist(), strict=True))
    return graph


def communities(neighbours: Tensor, weights: Tensor, seed: int = 0) -> Tensor:
    """Return each node's community, `(N, k), (N, k) -> (N,)`, numbered from the largest, 0, on.

    Louvain (Blondel et al., 2008, arXiv 0803.0476), by networkx, on the symmetrised graph with magnitudes as weights.
    50,000 nodes of 10 neighbours take half a minute.
    """
    import networkx as nx

    found = nx.community.louvain_communities(neighbour_graph(neighbours, weights), seed=seed)
    result = torch.empty(len(neighbours), dtype=torch.long)
    for number, members in enumerate(sorted(found, key=lambda members: (-len(members), min(members)))):
        result[list(members)] = number
    return result


def modularity(graph: "nx.Graph[int]", partition: Tensor) -> float:
    """Return the modularity of a partition `(N,)` of a `neighbour_graph`, -0.5 to 1; NaN if no nodes are joined.

    Newman (2004, arXiv cond-mat/0407503), with magnitudes as weights and resolution 1.
    """
    import networkx as nx

    if graph.number_of_edges() == 0:
        return float("nan")
    members: dict[int, set[int]] = {}
    for node, part in enumerate(partition.tolist()):
        members.setdefault(part, set()).add(node)
    return float(nx.community.modularity(graph, members.values()))


def components(graph: "nx.Graph[int]") -> list[int]:
    """Return the sizes of the connected components of a `neighbour_graph`, largest first."""
    import networkx as nx

    return sorted((len(members) for members in nx.connected_components(graph)), reverse=True)


def agreement(one: Tensor, other: Tensor) -> dict[str, float]:
    """Return how well two partitions of the same nodes agree, `(N,), (N,)`; a negative number belongs to no part.

    - `nmi`: normalised mutual information, 0 to 1, divided by the mean of both entropies.
    - `ari`: adjusted Rand index (Hubert and Arabie, 1985), at most 1, about 0 for partitions by chance.

    Nodes that are in no part of either do not count; NaN if none is left.

    >>> agreement(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 3, 3]))
    {'nmi': 1.0, 'ari': 1.0}
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = (one >= 0) & (other >= 0)
    parts, some = (one[known].numpy(), other[known].numpy()), bool(known.any())
    scores = {"nmi": normalized_mutual_info_score, "ari": adjusted_rand_score}
    return {name: float(score(*parts)) if some else float("nan") for name, score in scores.items()}


def class_counts(neighbours: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the number of edges from each class to each, `(N, k), (N,) -> (C, C)`, anchors' classes as rows.

    Raises:
        RelgraphError: if a label is not below the number of classes.

    >>> class_counts(torch.tensor([[1], [0], [0]]), torch.tensor([0, 0, 1]), classes=2)
    tensor([[2, 0],
            [1, 0]])
    """
    if len(labels) and int(labels.max()) >= classes:
        raise RelgraphError(f"labels must be below the number of classes, {classes}, got {int(labels.max())}")
    anchors, candidates = labels[:, None].expand_as(neighbours), labels[neighbours]
    known = (anchors >= 0) & (candidates >= 0)
    pairs = anchors[known] * classes + candidates[known]
    return pairs.bincount(minlength=classes * classes).view(classes, classes)


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of the values of each class, `(M,), (M,) -> (C,)`; NaN for a class without any.

    >>> class_means(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 2]), classes=3)
    tensor([1.5000,    nan, 6.0000], dtype=torch.float64)
    """
    known = labels >= 0
    total = torch.zeros(classes, dtype=torch.float64).index_add(0, labels[known], values[known].double())
    return total / labels[known].bincount(minlength=classes)


def class_edges(student: Tensor, teacher: Tensor) -> dict[str, list[float]]:
    """Return the k-NN edges from the images of one class to those of another, as columns of a table.

    - `anchor`: number of the class whose images have the neighbours; `candidate`: that of the neighbours' class.
    - `student`, `teacher`: number of such edges in each graph.
    - `student_share`, `teacher_share`: share of all the graph's edges from the class `anchor`, 0 to 1.

    The largest differences of shares come first.

    Args:
        student: `class_counts` of the student's graph, `(C, C)`.
        teacher: Those of the teacher's.
    """
    shares = [counts / counts.sum(1, keepdim=True).clamp_min(1).double() for counts in (student, teacher)]
    joined = ((student + teacher) > 0).fill_diagonal_(False)
    columns = dict(zip(("anchor", "candidate"), joined.nonzero(as_tuple=True), strict=True))
    for name, counts, share in zip(("student", "teacher"), (student, teacher), shares, strict=True):
        columns |= {name: counts[joined], f"{name}_share": share[joined]}
    order = (columns["student_share"] - columns["teacher_share"]).abs().argsort(descending=True, stable=True)
    return {name: column[order].tolist() for name, column in columns.items()}


def class_graph(edges: Mapping[str, Sequence[float]], names: Sequence[str]) -> "nx.DiGraph[float]":
    """Return the confusion of classes for networkx: a node for each class, an edge from anchors' to neighbours'.

    Nodes are the numbers of the classes and have a `name`; edges, from `class_edges`, have all other columns.

    >>> graph = class_graph({"anchor": [1], "candidate": [0], "student": [3]}, ["cat", "dog"])
    >>> graph.nodes[1]["name"], graph.edges[1, 0]["student"]
    ('dog', 3)
    """
    import networkx as nx

    graph: nx.DiGraph[float] = nx.DiGraph()
    graph.add_nodes_from((number, {"name": name}) for number, name in enumerate(names))
    for row in zip(*edges.values(), strict=True):
        figures = dict(zip(edges, row, strict=True))
        graph.add_edge(figures.pop("anchor"), figures.pop("candidate"), **figures)
    return graph
