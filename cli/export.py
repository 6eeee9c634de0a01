"""relgraph export."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from relgraph.analysis.export import Side
    from relgraph.analysis.whole import WholeGraph
    from relgraph.graph.topology import Chooser

EPILOG = """\b
Examples:
  relgraph export runs/knn8 -o graph.graphml                     the pair on the test split, 8 nearest neighbours
  relgraph export runs/knn8 --side teacher --k 4 -o teacher.gexf
  relgraph export runs/knn8 --graph threshold --threshold 0.8 --first 500 -o near.json
  relgraph export runs/knn8 --split train -o pair.pt             for relgraph.read_pair in Python
"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option(
    "--format", "format_", type=click.Choice(["graphml", "gexf", "json", "pt"]), help="[default: by the file's suffix]"
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--first", type=int, metavar="N", help="Only the first N images of the split.")
@click.option("--side", type=click.Choice(["pair", "teacher", "student"]), default="pair", show_default=True,
              help="Both graphs and the cross graph between them, or one graph.")  # fmt: skip
@click.option(
    "--graph",
    type=click.Choice(["knn", "dense", "threshold"]),
    default="knn",
    show_default=True,
    help="Which pairs are edges.",
)
@click.option("--k", type=int, default=8, show_default=True, help="Neighbours of each node.")
@click.option(
    "--threshold", type=float, default=0.5, show_default=True, help="Least magnitude of an edge's correlation."
)
@click.option("--neighbours", type=click.Choice(["teacher", "student", "union", "mutual"]),
              help="Who chooses the edges. [default: the side; the teacher for the pair]")  # fmt: skip
def export(
    run: Path,
    output: Path,
    format_: str | None,
    split: str,
    first: int | None,
    side: "Side",
    graph: "WholeGraph",
    k: int,
    threshold: float,
    neighbours: "Chooser | None",
) -> None:
    """Write the graph of a RUN for networkx, Gephi or PyTorch Geometric.

    Nodes carry index, label, class name, split, prediction and whether it is correct; edges carry the correlation, its
    magnitude as `weight`, its sign, and their kind (teacher, student, match). In GEXF `label` is a node's title, so the
    number of its class is `class` there.
    """
    from relgraph.analysis.export import check_format, write_graph
    from relgraph.analysis.trained import run_pair

    name = check_format(output, format_)
    pair = run_pair(
        run, split=split, first=first, side=side, graph=graph, k=k, threshold=threshold, neighbours=neighbours
    )
    write_graph(pair, output, name, side)
    click.echo(f"{output}: {pair['student'].x.shape[0]} images, {output.stat().st_size / 1e6:.1f} MB")
