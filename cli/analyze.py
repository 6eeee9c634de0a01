"""relgraph analyze."""

from itertools import islice
from pathlib import Path
from typing import Any

import click

from relgraph.analysis.sources import title

from .options import FIRST, RUN_OR_STORE, SPLITS, own_code_options, source_option
from .show import columns, say, say_all, table

ROWS = 5
OF_LABELS = ("edges that join equal labels %", "communities and labels, NMI", "communities and labels, ARI")
OF_GRAPH = (
    "communities", "modularity", "connected components", "largest component", "most often chosen",
    "skewness of how often (hubs)", "never chosen", "without variance",
)  # fmt: skip


@click.command()
@RUN_OR_STORE
@click.option("--split", type=SPLITS, help="Of a RUN. [default: test]")
@click.option("--k", type=click.IntRange(min=1),
              help="Neighbours of each image. [default: 10, or as many as there are]")  # fmt: skip
@FIRST
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search for communities.")
@click.option("--search", type=click.Choice(["blocks", "faiss"]),
              help="How neighbours are found, both exact. [default: faiss if it is installed]")  # fmt: skip
@source_option("teacher")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="JSON file of all figures, new or one of before. "
              "[default: RUN/analysis-SPLIT.json, STORE/analysis.json]")  # fmt: skip
@own_code_options
def analyze(run: Path, split: Any, out: Path | None, **options: Any) -> None:
    """Compare the nearest neighbours of the student and the teacher of a RUN.

    Each network joins an image to its k nearest others by the correlation of their embeddings. Tables show how far the
    two graphs agree with each other and with the labels, and where they differ most; the JSON file holds every figure.
    An edge that one network alone chose is weaker in the other: over the edges of either graph the rank correlation
    can be below 0 where over all pairs it is high.

    Of a STORE of relgraph embed, or a table of vectors (.npy, .parquet), the teacher's graph is analysed alone; labels
    are those of the data set that the store names, or of --dataset.

    \b
    Examples:
      relgraph analyze runs/knn8                           the test split: tables, and runs/knn8/analysis-test.json
      relgraph analyze runs/knn8 --split train --first 2000 --k 5 --out train.json
      relgraph analyze runs/knn8 --source projection       of what the loss read, in place of the teacher's own vectors
      relgraph analyze embeddings/digits                   a store of relgraph embed: the teacher's graph, without a run
    """
    from relgraph import api
    from relgraph.analysis.analysis import write_summary

    summary = api.analyze(run, split, out=out, **options)
    for part in _parts(summary):
        say_all(part + "\n")
    if out is None:  # behind the tables, which are not lost where it cannot be written
        out = _file(run, summary)
        write_summary(summary, out)
    say(str(out))


def _file(path: Path, summary: dict[str, Any]) -> Path:
    """Return where figures are written by default: in the run or the store, or beside a table."""
    name = f"analysis-{summary['split']}.json" if "run" in summary else "analysis.json"
    return path / name if path.is_dir() else path.with_name(f"{path.stem}-{name}")


def _parts(summary: dict[str, Any]) -> list[str]:
    networks: list[str] = [name for name in ("student", "teacher") if name in summary]
    split = f", {summary['split']}" if summary["split"] else ""
    parts = [f"{summary['dataset']}{split}: {summary['images']} images, k = {summary['k']}\n{_whose(summary)}"]
    parts.append(_networks(summary, networks))
    parts += [_comparison(summary)] if len(networks) == 2 else []
    if "per_class" in summary:
        parts += [_classes(summary, networks), _confusion(summary, networks)]
    else:
        parts.append("The images have no labels: figures that need them are left out.")
    parts += [_worst(summary)] if "worst" in summary else []
    return [part for part in parts if part]


def _whose(summary: dict[str, Any]) -> str:
    """Return sentences on whose vectors the graphs are of."""
    if "teacher" not in summary:
        return f"The graph is of {title('student')}, without a teacher's."
    if "student" not in summary:
        return f"The graph is of {title('teacher')}, without a student."
    told = f"The teacher's graph is of {title(summary['source'])}."
    if "match" not in summary:
        widths = f"{summary['student']['width']} and {summary['teacher']['width']}"
        told += f"\nNodes are not matched: the vectors of student and teacher have the widths {widths}."
    return told


def _networks(summary: dict[str, Any], networks: list[str]) -> str:
    columns = [["graph", *OF_LABELS, *OF_GRAPH] if "per_class" in summary else ["graph", *OF_GRAPH]]
    for name in networks:
        graph, labels = summary[name], summary["agreement"].get(f"{name}_labels")
        column = [_percent(graph["homophily"]), labels["nmi"], labels["ari"]] if labels else []
        chosen, parts = graph["in_degree"], graph["components"]
        column += [str(graph["communities"]), graph["modularity"], str(parts["count"]), str(parts["sizes"][0])]
        column += [str(chosen["largest"]), chosen["skewness"], str(chosen["orphans"]), str(graph["degenerate"])]
        columns.append([_head(name, summary), *column])
    header, *rows = zip(*columns, strict=True)
    return table(header, rows)


def _head(name: str, summary: dict[str, Any]) -> str:
    """Return a network's name above a column: "teacher" alone is the frozen teacher's own vectors."""
    return summary["source"] if name == "teacher" else name


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
    return table([f"student against {summary['source']}", ""], rows)


def _classes(summary: dict[str, Any], networks: list[str]) -> str:
    compared = len(networks) == 2
    header = ["worst classes", "images", *(["overlap %", "edge error"] if compared else [])]
    header += [f"equal labels %, {_head(name, summary)}" for name in networks]
    rows = []
    for row in summary["per_class"][:ROWS]:
        both = [100 * row["overlap"], row["relation_error"]] if compared else []
        equal = (_percent(row[f"homophily_{name}"]) for name in networks)
        rows.append([row["name"], str(row["images"]), *both, *equal])
    return table(header, rows)


def _confusion(summary: dict[str, Any], networks: list[str]) -> str:
    edges, names = summary["confusion"], {row["class"]: row["name"] for row in summary["per_class"]}
    listed = zip(edges["from"], edges["to"], *(edges[f"{name}_share"] for name in networks), strict=True)
    rows = [[f"{names[a]} -> {names[b]}", *(100 * one for one in shares)] for a, b, *shares in islice(listed, ROWS)]
    head = "edges between classes that differ most" if len(networks) == 2 else "most edges between classes"
    return table([head, *(f"{_head(name, summary)} %" for name in networks)], rows) if rows else ""


def _worst(summary: dict[str, Any]) -> str:
    rows = [["image", "class", "overlap %", "student's nearest", f"{summary['source']}'s nearest"]]
    for image in summary["worst"][:ROWS]:
        nearest = (" ".join(map(str, image[name][:ROWS])) for name in ("student", "teacher"))
        rows.append([str(image["index"]), image.get("name", "-"), f"{100 * image['overlap']:.0f}", *nearest])
    return columns(rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
