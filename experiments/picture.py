"""Draw the README's picture: the same test images, joined by the teacher's edges and by the student's.

python experiments/picture.py runs/demo/knn experiments/results/graph_pair.png
"""

from math import cos, pi, sin
from pathlib import Path
from typing import Any

import click

from relgraph import to_networkx
from relgraph.analysis.run_loading import TrainedRun, run_pair

IMAGES = 60
NEIGHBOURS = 3


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, out: Path) -> None:
    from matplotlib import pyplot

    own = {side: run_pair(run, first=IMAGES, k=NEIGHBOURS, neighbours=side) for side in ("teacher", "student")}
    graphs = {side: to_networkx(own[side], side) for side in ("teacher", "student")}
    thumbnails = TrainedRun(run).data.test.images[:IMAGES, 0]
    # A circle, sorted by class, for both sides: what differs is the edges alone, and edges between classes cross it.
    order = own["teacher"]["teacher"].y.argsort(stable=True).tolist()
    turns = [2 * pi * place / IMAGES for place in range(IMAGES)]
    position = {node: (cos(turn), sin(turn)) for node, turn in zip(order, turns, strict=True)}
    shared = {frozenset((int(a[1:]), int(b[1:]))) for a, b in graphs["teacher"].edges} & {
        frozenset((int(a[1:]), int(b[1:]))) for a, b in graphs["student"].edges
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 6.4), layout="constrained")
    for axis, (side, graph) in zip(axes, graphs.items(), strict=True):
        draw(axis, graph, position, shared, thumbnails, own["teacher"]["teacher"].y)
        title = "teacher: self-supervised" if side == "teacher" else "student: ResNet-8, 3 labels a class"
        axis.set_title(f"{title}, {NEIGHBOURS} nearest neighbours", fontsize=13)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def draw(
    axis: Any, graph: Any, position: dict[int, Any], shared: set[frozenset[int]], images: Any, labels: Any
) -> None:
    """Draw one side: grey edges stand in both graphs, red ones in this alone; frames are coloured by class."""
    from matplotlib import colormaps
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for source, target in graph.edges:
        a, b = int(source[1:]), int(target[1:])
        both = frozenset((a, b)) in shared
        axis.plot(*zip(position[a], position[b], strict=True), color="0.6" if both else "crimson", lw=1.2, zorder=1)
    for node, point in position.items():
        frame = {"edgecolor": colormaps["tab10"](int(labels[node])), "linewidth": 2.5}
        ink = 255 - images[node].unsqueeze(-1).expand(-1, -1, 3).numpy()
        thumbnail = OffsetImage(ink, zoom=2.1)
        axis.add_artist(AnnotationBbox(thumbnail, point, pad=0.08, bboxprops=frame))
    axis.set_axis_off()
    axis.set_aspect("equal")


if __name__ == "__main__":
    main()
