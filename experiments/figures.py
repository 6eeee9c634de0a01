"""Draw the figures of the paper from run directories, each as PNG and SVG, with its numbers as JSON beside them.

    python experiments/figures.py curves runs/compare/* -o curves.png
    python experiments/figures.py tsne runs/compare/dense-seed0 runs/compare/cross-entropy-seed0 -o tsne.png

The paper is Embedding Graph Alignment (Ma et al., 2022, arXiv 2211.13264). `curves` groups runs by what trained them,
and draws mean and range over the seeds of a group; `tsne` draws each run's teacher, if it has one, and its student.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch

from relgraph.analysis.colours import SHAPES, TEN, class_colours, class_shapes
from relgraph.analysis.layout import tsne as plane_of
from relgraph.analysis.neighbourhoods import homophily
from relgraph.analysis.run_loading import SPLITS, TrainedRun
from relgraph.errors import RelgraphError
from relgraph.files import replacing, write_atomically
from relgraph.graph.search import nearest_in_blocks
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory

# Line and marker distinguish the curves without their colours.
STYLES = {
    "cross-entropy": (TEN[6], ":", "o"),
    "node only": (TEN[1], "--", "s"),
    "edge only": (TEN[0], "-.", "^"),
    "full": (TEN[4], "-", "D"),
}
OTHERS = ((TEN[2], (0, (5, 1)), "v"), (TEN[3], (0, (3, 1, 1, 1)), "P"), (TEN[5], (0, (1, 1)), "X"))
MARKERS = dict(zip(SHAPES, "os^DX", strict=True))
PRINT = {"font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9, "svg.hashsalt": "relgraph"}
NEIGHBOURS = 10
# What may differ between the runs of one figure: what the curves compare, and where and how often they ran.
FREE = {"method", "node_weight", "edge_weight", "seed", "device", "workers", "teacher_mode", "embeddings", "alpha",
        "gamma", "beta", "method_args", "graph", "k", "neighbours", "root", "images", "compile"}  # fmt: skip


@click.group(help=__doc__)
def main() -> None:
    """Draw figures."""


RUNS = click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
OUT = click.option("-o", "out", required=True, type=click.Path(path_type=Path), help="PNG; SVG and JSON go beside it.")


@main.command()
@RUNS
@OUT
def curves(runs: tuple[Path, ...], out: Path) -> None:
    """Draw training and test error over the epochs, a curve for each training method."""
    opened = [RunDirectory.open(path) for path in runs]
    recipes = [run.recipe() for run in opened]
    check_alike(recipes)
    groups: dict[str, list[tuple[Recipe, list[dict[str, float]]]]] = {}
    for run, recipe in zip(opened, recipes, strict=True):
        groups.setdefault(name_of(recipe), []).append((recipe, run.read_metrics()))
    split = recipes[0].measured
    columns = {"training": "train_top1", "validation" if split == "val" else split: f"{split}_top1"}
    numbers = {
        name: {
            "n": len(members),
            "seeds": [recipe.seed for recipe, _ in members],
            **{f"{what}_error": errors(members, column) for what, column in columns.items()},
        }
        for name, members in in_order(groups)
    }
    save(draw_curves(numbers, tuple(columns)), out)
    common = {key: value for key, value in asdict(recipes[0]).items() if key not in FREE}
    hidden = {"dataset", "teacher", "ss_head", "init_from"}  # paths of one machine
    facts = {"options": {key: value for key, value in common.items() if key not in hidden}, "runs": origins(opened)}
    write_json(out, {"errors_in_percent": numbers, **facts})


def draw_curves(numbers: dict[str, dict[str, Any]], splits: tuple[str, ...]) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(PRINT):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        for axes, split in zip(figure.subplots(1, len(splits), sharey=True), splits, strict=True):
            others = iter(OTHERS)
            for name, row in numbers.items():
                ink, line, marker = STYLES.get(name) or next(others, OTHERS[-1])
                error = row[f"{split}_error"]
                epochs = range(1, len(error["mean"]) + 1)
                label = f"{name} ({row['n']} seed{'s' if row['n'] > 1 else ''})"
                every = max(1, len(epochs) // 10)
                axes.plot(epochs, error["mean"], color=ink, linestyle=line, marker=marker, markersize=4.5,
                          markevery=every, linewidth=1.6, label=label)  # fmt: skip
                axes.fill_between(epochs, error["least"], error["most"], color=ink, alpha=0.15, linewidth=0)
            when = "during the epoch, augmented images" if split == "training" else "after the epoch"
            axes.set(xlabel="epoch", ylabel=f"{split} error in %", title=f"{split}, {when}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.tick_params(labelleft=True)
            axes.grid(alpha=0.3)
        told = "lines: mean of the seeds; bands: from the lowest to the highest of them"
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
                      handlelength=3, title=told, title_fontsize=9)  # fmt: skip
    return figure


@main.command()
@RUNS
@OUT
@click.option("--split", default="test", show_default=True, type=click.Choice(SPLITS))
@click.option("--classes", default=10, show_default=True, type=click.IntRange(min=2), help="Only the first so many.")
@click.option("--seed", default=0, show_default=True)
def tsne(runs: tuple[Path, ...], out: Path, split: str, classes: int, seed: int) -> None:
    """Draw the embeddings of a split in a plane, coloured by class: of each run its teacher's and its student's."""
    panels, names, numbers = [], (), []
    opened = [TrainedRun(path) for path in runs]
    for run in opened:
        names = run.data.train.classes[:classes]
        for title, x, labels in embeddings(run, split, classes):
            nearest = nearest_in_blocks(x, NEIGHBOURS)[0]
            share = round(homophily(nearest, labels), 3)
            panels.append((title, plane_of(x, seed), labels, share))
            numbers.append({"panel": title, "seed": run.recipe.seed, "images": len(x), "homophily": share})
    save(draw_planes(panels, names), out)
    facts = {"split": split, "classes": list(names), "neighbours": NEIGHBOURS, "tsne_seed": seed}
    write_json(out, {**facts, "panels": numbers, "runs": origins([run.run for run in opened])})


def embeddings(run: TrainedRun, split: str, classes: int) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return the embeddings of teacher and student of a run on the first classes: title, `(N, D)`, `(N,)`."""
    labels = run.images(split).true_labels
    chosen = ((labels >= 0) & (labels < classes)).nonzero().flatten()
    if len(chosen) <= NEIGHBOURS:
        raise RelgraphError(f"a figure needs more than {NEIGHBOURS} images, got {len(chosen)} of the split {split!r}")
    student, teacher = run.outputs(run.images(split).select(chosen))
    name = name_of(run.recipe)
    found = [(f"student, {name}", student.embedding, labels[chosen])]
    return found if teacher is None else [(f"teacher, head of {name}", teacher.embedding, labels[chosen]), *found]


def draw_planes(panels: list[tuple[str, torch.Tensor, torch.Tensor, float]], names: tuple[str, ...]) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    colours, shapes = class_colours(len(names)), class_shapes(len(names))
    with rc_context(PRINT):
        figure = Figure(figsize=(2.9 * columns, 3.0 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (title, plane, labels, share) in zip(grid, panels, strict=False):
            for label, name in enumerate(names):
                x, y = plane[labels == label].T.tolist()
                axes.scatter(x, y, s=11, color=[colours[label]], marker=MARKERS[shapes[label]], linewidths=0,
                             alpha=0.85, label=name if len(names) <= 20 else None, rasterized=True)  # fmt: skip
            axes.set(title=f"{title}\n{100 * share:.0f} % of neighbours of its class", xticks=[], yticks=[])
            axes.set_box_aspect(1)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if len(names) <= 20:
            marks = grid[0].get_legend_handles_labels()
            figure.legend(*marks, loc="outside lower center", ncols=5, frameon=False, markerscale=2)
    return figure


def name_of(recipe: Recipe) -> str:
    """Return what trained a student, in the words of the paper where it is one of its four."""
    if recipe.method == "none":
        return "cross-entropy"
    if recipe.method != "ega":
        return recipe.method
    if recipe.edge_weight == 0:
        return "node only"
    name = "edge only" if recipe.node_weight == 0 else "full"
    return name if recipe.graph in ("dense", None) else f"{name}, {recipe.graph}"


def check_alike(recipes: list[Recipe]) -> None:
    """Raise RelgraphError if the runs differ in more than the figure compares, or if some are the same."""
    first = asdict(recipes[0])
    for recipe in recipes[1:]:
        for name, value in asdict(recipe).items():
            if name not in FREE and value != first[name]:
                raise RelgraphError(f"runs of one figure must have one {name}, got {first[name]} and {value}")
    repeats = [(name_of(recipe), recipe.seed) for recipe in recipes]
    for name, seed in repeats:
        if repeats.count((name, seed)) > 1:
            raise RelgraphError(f"runs of one group must have different seeds, got two of {name} with seed {seed}")


def in_order(groups: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return the groups, the paper's four first."""
    known = list(STYLES)
    return sorted(groups.items(), key=lambda item: known.index(item[0]) if item[0] in known else len(known))


def errors(members: list[tuple[Recipe, list[dict[str, float]]]], column: str) -> dict[str, Any]:
    """Return the error in percent of each epoch that all runs of a group finished."""
    each = {str(recipe.seed): [round(100 - row[column], 2) for row in rows] for recipe, rows in members}
    epochs = list(zip(*each.values(), strict=False))
    spread = {"mean": [round(mean(e), 2) for e in epochs], "least": [min(e) for e in epochs]}
    return {**spread, "most": [max(e) for e in epochs], "by_seed": each}


def origins(runs: Iterable[RunDirectory]) -> list[dict[str, Any]]:
    """Return when, of which commit and on what hardware each run was made."""
    found = []
    for run in runs:
        known = json.loads(run.environment_file.read_text())
        kept = {key: known[key] for key in ("started", "commit", "hardware")}
        found.append({"run": run.path.name, **kept, "torch": known["versions"]["torch"]})
    return found


def save(figure: Any, out: Path) -> None:
    """Write a figure as PNG and SVG, the text of the SVG as text."""
    from matplotlib import rc_context

    with rc_context({**PRINT, "svg.fonttype": "none"}):
        for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
            with replacing(out.with_suffix(suffix)) as part:
                figure.savefig(part, format=suffix[1:], dpi=160, metadata=metadata)
    click.echo(f"{out.with_suffix('.png')} and {out.with_suffix('.svg')}")


def write_json(out: Path, content: dict[str, Any]) -> None:
    write_atomically(out.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    try:
        main()
    except RelgraphError as error:
        raise SystemExit(f"Error: {error}") from None
