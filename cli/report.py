"""relgraph report."""

from pathlib import Path
from typing import Any

import click

from .options import FIRST, SPLITS, own_code_options, source_option
from .show import say


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="report.html",
              show_default=True, help="File to write: a new one, or a report of before.")  # fmt: skip
@click.option("--split", type=SPLITS, help="[default: test, or train where there are no test images]")
@FIRST
@click.option("--k", type=int, help="Neighbours of each image. [default: 8, or as many as there are]")
@source_option("teacher")
@own_code_options
def report(runs: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Write one HTML page on one RUN or several, which opens offline and loads nothing else.

    It lists what was run, overlays learning curves and compares figures and graphs, over seeds as mean and deviation.
    A RUN that is not finished is shown as far as it is, what is damaged left out with a line. The first RUN that
    trained a student is shown in detail: edge matrices, maps, the graph to explore, and the images on whose
    neighbours student and teacher agree least.

    \b
    Examples:
      relgraph report runs/knn8                              report.html, which opens from disk
      relgraph report runs/knn8 runs/dense -o compare.html   the curves overlaid, a table of both, the first in detail
      relgraph report runs/knn8 --split train --first 1000
    """
    from relgraph import api

    size = api.report(runs, output, **options).stat().st_size
    say(f"{output}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {size / 1e6:.1f} MB")
