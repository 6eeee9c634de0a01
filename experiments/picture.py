"""Draw the README's picture: the same test images, joined by the frozen teacher's own edges and by the student's.

python experiments/picture.py runs/demo/knn experiments/results/graph_pair.png
"""

from math import cos, pi, sin
from pathlib import Path
from typing import Any

import click

from relgraph import to_networkx
from relgraph.analysis.colours import TEN
from relgraph.analysis.run_loading import TrainedRun, run_pair

IMAGES = 60
NEIGHBOURS = 3
RIM = 0.91  # edges end within the circle of images, so that short ones are seen
COLOURS = (("0.6", "an edge of both graphs"), ("crimson", "an edge of this graph alone"))
TITLES = {
    "teacher": "teacher: its own vectors, trained without labels",
    "student": "student: ResNet-8, 3 labels a class",
}


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, out: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    opened = TrainedRun(run)
    sides = ("teacher", "student")
    graphs = {side: run_pair(opened, first=IMAGES, k=NEIGHBOURS, side=side) for side in sides}
    images = opened.images("test", IMAGES)
    edges = {side: to_networkx(graphs[side], side).edges for side in sides}
    pairs = {side: [(int(a[1:]), int(b[1:])) for a, b in found] for side, found in edges.items()}
    # A circle, sorted by class, for both sides: what differs is the edges alone, and edges between classes cross it.
    order = images.labels.argsort(stable=True).tolist()
    turns = [2 * pi * place / IMAGES for place in range(IMAGES)]
    position = {node: (cos(turn), sin(turn)) for node, turn in zip(order, turns, strict=True)}
    shared = set.intersection(*(set(map(frozenset, found)) for found in pairs.values()))
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 6.9), layout="constrained")
    for axis, (side, found) in zip(axes, pairs.items(), strict=True):
        draw(axis, found, position, shared, images.pixels[:, 0], images.labels)
        equal = sum(bool(images.labels[a] == images.labels[b]) for a, b in found)
        axis.set_title(f"{TITLES[side]}\n{100 * equal / len(found):.0f} % of the edges join equal digits", fontsize=13)
    lines = [Line2D([], [], color=colour, lw=2, label=label) for colour, label in COLOURS]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=12)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90, bbox_inches="tight")


def draw(
    axis: Any, edges: Any, position: dict[int, Any], shared: set[frozenset[int]], images: Any, labels: Any
) -> None:
    """Draw one side: grey edges stand in both graphs, red ones in this alone; frames are coloured by class."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for edge in edges:
        colour = COLOURS[frozenset(edge) not in shared][0]
        ends = ([RIM * place for place in position[node]] for node in edge)
        axis.plot(*zip(*ends, strict=True), color=colour, lw=1.2, zorder=1)
    for node, point in position.items():
        frame = {"edgecolor": TEN[int(labels[node])], "linewidth": 2.5}
        ink = 255 - images[node].unsqueeze(-1).expand(-1, -1, 3).numpy()
        thumbnail = OffsetImage(ink, zoom=2.1)
        axis.add_artist(AnnotationBbox(thumbnail, point, pad=0.08, bboxprops=frame))
    axis.set(xlim=(-1.07, 1.07), ylim=(-1.07, 1.07))  # of the images' centres alone, it would cut them
    axis.set_axis_off()
    axis.set_aspect("equal")


if __name__ == "__main__":
    main()
