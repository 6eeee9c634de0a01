"""relgraph analyze."""

from pathlib import Path
from typing import Any

import click

from .show import columns, table

ROWS = 5
EPILOG = """\b
Examples:
  relgraph analyze runs/knn8                           the test split: tables, and runs/knn8/analysis-test.json
  relgraph analyze runs/knn8 --split train --first 2000 --k 5 --out train.json
"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="Neighbours of each image.")
@click.option(
    "--first", type=click.IntRange(min=2), metavar="N", help="Only the first N images of the split. [default: all]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search for communities.")
@click.option("--search", type=click.Choice(["blocks", "faiss"]),
              help="How neighbours are found, both exact. [default: faiss if it is installed]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="JSON file of all figures. [default: RUN/analysis-SPLIT.json]")  # fmt: skip
def analyze(run: Path, split: str, k: int, first: int | None, seed: int, search: str | None, out: Path | None) -> None:
    """Compare the nearest neighbours of the student and the teacher of a RUN.

    Each network joins an image to its k nearest others by the correlation of their embeddings. Tables show how far the
    two graphs agree with each other and with the labels, and where they differ most; the JSON file holds every figure.
    An edge that one network alone chose is weaker in the other: over the edges of either graph the rank correlation
    can be below 0 where over all pairs it is high.
    """
    from relgraph.analysis.analysis import analyse
    from relgraph.analysis.figures import write_summary

    summary = analyse(run, split, k, first, seed, search).summary()
    out = out or run / f"analysis-{split}.json"
    write_summary(summary, out)
    for part in _parts(summary):
        click.echo(part + "\n")
    click.echo(str(out))


def _parts(summary: dict[str, Any]) -> list[str]:
    networks: list[str] = [name for name in ("student", "teacher") if name in summary]
    parts = [f"{summary['dataset']}, {summary['split']}: {summary['images']} images, k = {summary['k']}"]
    parts.append(_networks(summary, networks))
    if len(networks) == 2:
        parts.append(_comparison(summary))
    else:
        parts.append("The run has no teacher: the student's graph alone is analysed.")
    if "per_class" in summary:
        parts += [_classes(summary, networks), _confusion(summary, networks)]
    else:
        parts.append("The images have no labels: figures that need them are left out.")
    if "worst" in summary:
        parts.append(_worst(summary))
    return [part for part in parts if part]


def _networks(summary: dict[str, Any], networks: list[str]) -> str:
    graphs = [summary[name] for name in networks]
    with_labels = [summary["agreement"].get(f"{name}_labels") for name in networks]
    rows: list[list[str | float | None]] = []
    if "homophily" in graphs[0]:
        rows += [
            ["edges that join equal labels %", *(_percent(graph["homophily"]) for graph in graphs)],
            ["communities and labels, NMI", *(each["nmi"] for each in with_labels)],
            ["communities and labels, ARI", *(each["ari"] for each in with_labels)],
        ]
    rows += [
        ["communities", *(str(graph["communities"]) for graph in graphs)],
        ["modularity", *(graph["modularity"] for graph in graphs)],
        ["connected components", *(str(graph["components"]["count"]) for graph in graphs)],
        ["largest component", *(str(graph["components"]["sizes"][0]) for graph in graphs)],
        ["most often chosen", *(str(graph["in_degree"]["largest"]) for graph in graphs)],
        ["skewness of how often (hubs)", *(graph["in_degree"]["skewness"] for graph in graphs)],
        ["never chosen", *(str(graph["in_degree"]["orphans"]) for graph in graphs)],
        ["without variance", *(str(graph["degenerate"]) for graph in graphs)],
    ]
    return table(["graph", *networks], rows)


def _comparison(summary: dict[str, Any]) -> str:
    agreement = summary["agreement"]["student_teacher"]
    rows: list[list[str | float | None]] = [
        [f"neighbour overlap at {summary['k']} %", 100 * summary["overlap"]],
        ["nearest teacher node is the own %", 100 * summary["match"] if "match" in summary else None],
        ["rank correlation, all pairs", summary["pair_rank"]],
        ["rank correlation, edges of either", summary["edge_rank"]],
        ["mean error of these edges", summary["relation_error"]],
        ["communities, NMI", agreement["nmi"]],
        ["communities, ARI", agreement["ari"]],
    ]
    return table(["student against teacher", ""], rows)


def _classes(summary: dict[str, Any], networks: list[str]) -> str:
    compared = len(networks) == 2
    header = ["worst classes", "images", *(["overlap %", "edge error"] if compared else [])]
    header += [f"equal labels %, {name}" for name in networks]
    rows = [
        [
            row["name"],
            str(row["images"]),
            *([100 * row["overlap"], row["relation_error"]] if compared else []),
            *(_percent(row[f"homophily_{name}"]) for name in networks),
        ]
        for row in summary["per_class"][:ROWS]
    ]
    return table(header, rows)


def _confusion(summary: dict[str, Any], networks: list[str]) -> str:
    edges, names = summary["confusion"], {row["class"]: row["name"] for row in summary["per_class"]}
    count = min(ROWS, len(edges["from"]))
    if count == 0:
        return ""
    rows = [
        [f"{names[edges['from'][i]]} -> {names[edges['to'][i]]}", *(100 * edges[f"{n}_share"][i] for n in networks)]
        for i in range(count)
    ]
    title = "edges between classes that differ most" if len(networks) == 2 else "most edges between classes"
    return table([title, *(f"{name} %" for name in networks)], rows)


def _worst(summary: dict[str, Any]) -> str:
    rows = [["image", "class", "overlap %", "student's nearest", "teacher's nearest"]]
    for image in summary["worst"][:ROWS]:
        nearest = (" ".join(map(str, image[name][:ROWS])) for name in ("student", "teacher"))
        rows.append([str(image["index"]), image.get("name", "-"), f"{100 * image['overlap']:.0f}", *nearest])
    return columns(rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
