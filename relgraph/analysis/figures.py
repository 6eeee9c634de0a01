"""The figures of an analysis as numbers, lists and dictionaries: what `relgraph analyze` writes as JSON.

A figure that cannot be computed is left out, or `None` inside a list: all that needs labels where the data have none,
all that compares where there is no teacher.
"""

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from relgraph.analysis import neighbourhoods as measures
from relgraph.analysis.analysis import Analysis, Comparison, NetworkGraph
from relgraph.analysis.diagnostics import rank_correlation
from relgraph.analysis.neighbourhoods import agreement, class_counts, class_edges, class_means, some_pairs
from relgraph.files import write_atomically
from relgraph.graph.search import edge_weights

# How many of the images whose neighbourhoods differ most, and of the largest components, are listed.
LISTED = 50


def summarise(analysis: Analysis) -> dict[str, Any]:
    """Return all figures of an analysis.

    - `student`, `teacher`: of each graph alone, `network_figures`.
    - `overlap`: mean neighbour overlap at k; `match`: share of student nodes whose nearest teacher node is their own;
      `edge_rank`: Spearman's rank correlation of both networks' correlations over the `edges` directed edges
      (anchor, candidate) that are in either k-NN graph, each once; `relation_error`: mean |r_s - r_t| over them.
      An edge that one network alone chose is strong there and weaker in the other, so `edge_rank` falls below 0 where
      most are such; `pair_rank` is the same over all pairs of images, above 200,000 over so many drawn at random.
    - `agreement`: NMI and ARI of the student's communities, the teacher's and the labels, by pairs.
    - `per_class`: for each class overlap, relation error (over the edges whose anchor is of that class) and homophily
      of both graphs, worst classes first: by relation error, without a teacher by homophily.
    - `confusion`: edges from each class to each other one, the largest differences between the networks first.
    - `worst`: the images whose neighbourhoods differ most, by overlap, then relation error.
    """
    comparison, graphs, labels = analysis.comparison, analysis.graphs, analysis.labels
    found: dict[str, Any] = {"run": str(analysis.run), "dataset": analysis.dataset, "split": analysis.split}
    found |= {"images": len(labels), "labelled": int((labels >= 0).sum()), "k": analysis.k, "search": analysis.search}
    found |= {name: network_figures(graph, analysis) for name, graph in graphs.items()}
    if comparison is not None:
        found |= _comparison_figures(comparison, list(graphs.values()))
    parts = {name: graph.communities for name, graph in graphs.items()}
    parts |= {"labels": labels} if analysis.labelled else {}
    found["agreement"] = {f"{a}_{b}": agreement(parts[a], parts[b]) for a, b in combinations(parts, 2)}
    if analysis.labelled:
        found |= {"per_class": per_class(analysis), "confusion": confusion(analysis)}
    return found if comparison is None else {**found, "worst": _worst(analysis, comparison)}


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write a summary as JSON, whole or not at all, an entry of it a line.

    Raises:
        RelgraphError: if it cannot be written.
    """
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in summary.items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def network_figures(graph: NetworkGraph, analysis: Analysis) -> dict[str, Any]:
    """Return the figures of one network's graph alone.

    `homophily` (with labels), `degenerate` nodes, number of `communities`, their `modularity` (`None` if no nodes are
    joined), connected `components` with their largest sizes, and `in_degree`: mean (k), largest, skewness, orphans.
    """
    joined = measures.neighbour_graph(graph.neighbours, graph.weights)
    sizes, chosen = measures.components(joined), measures.degrees(graph.neighbours)
    homophily = _number(measures.homophily(graph.neighbours, analysis.labels))
    return ({"homophily": homophily} if analysis.labelled else {}) | {
        "degenerate": int(graph.degenerate.sum()),
        "communities": int(graph.communities.max()) + 1,
        "modularity": _number(measures.modularity(joined, graph.communities)),
        "components": {"count": len(sizes), "sizes": sizes[:LISTED]},
        "in_degree": {"mean": analysis.k, **chosen},
    }


def per_class(analysis: Analysis) -> list[dict[str, Any]]:
    """Return a row for each class that has images, the worst first."""
    labels, classes = analysis.labels, len(analysis.classes)
    comparison, columns = analysis.comparison, {}
    if comparison is not None:
        columns["overlap"] = class_means(comparison.overlap, labels, classes)
        columns["relation_error"] = class_means(comparison.edge_error, labels[comparison.edges[1]], classes)
    for name, graph in analysis.graphs.items():
        counts = class_counts(graph.neighbours, labels, classes)
        columns[f"homophily_{name}"] = counts.diagonal() / counts.sum(1).double()
    images = labels[labels >= 0].bincount(minlength=classes)
    badness = columns["relation_error"] if comparison is not None else -columns["homophily_student"]
    rows = []
    for number in badness.nan_to_num(-torch.inf).argsort(descending=True, stable=True).tolist():
        figures = {name: _number(float(column[number])) for name, column in columns.items()}
        row = {"class": number, "name": analysis.classes[number], "images": int(images[number]), **figures}
        rows += [row] if row["images"] else []
    return rows


def confusion(analysis: Analysis) -> dict[str, list[float]]:
    """Return the edges between the classes, largest differences first, by columns: rows would take ten times the space.

    `from` and `to` are the numbers of the classes, `student` and `student_share`, `teacher` and `teacher_share` those
    of the edges (see `ClassEdge`); without a teacher there are no columns of it.
    """
    graphs, labels, classes = analysis.graphs, analysis.labels, len(analysis.classes)
    student, *others = (class_counts(graph.neighbours, labels, classes) for graph in graphs.values())
    edges, columns = class_edges(student, *(others or [0 * student])), {"from": "anchor", "to": "candidate"}
    for name in graphs:
        columns |= {name: name, f"{name}_share": f"{name}_share"}
    return {name: [round(getattr(edge, column), 6) for edge in edges] for name, column in columns.items()}


def _comparison_figures(comparison: Comparison, graphs: Sequence[NetworkGraph]) -> dict[str, Any]:
    pairs = some_pairs(len(comparison.overlap))
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
