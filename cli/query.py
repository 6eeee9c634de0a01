"""relgraph query."""

from pathlib import Path
from typing import Any

import click

from .options import RUN, image_options, named_places, own_code_options
from .show import columns, say, say_all


@click.command()
@RUN
@click.option("--index", type=click.Path(path_type=Path), required=True, metavar="STORE|FILE",
              help="A store of relgraph embed, or a table FILE.npy or FILE.parquet.")  # fmt: skip
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="Number of answers to an image.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a page with thumbnails as well, which must be new.")  # fmt: skip
@click.option("--images-in", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Folder within which names of a table are paths. [default: that of the run's images]")  # fmt: skip
@image_options
@own_code_options
def query(run: Path, images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Find the images of an index that are nearest to IMAGES, by the vectors of the student of a RUN.

    The index holds the vectors of the student's teacher, in whose space the student stands once relgraph align has
    turned it, or vectors of the student itself. IMAGES are files, folders, whose images count at any depth, patterns
    such as 'new/*.jpg', or - for names on standard input, one a line. The score is the cosine of both vectors, as the
    index compares them (relgraph embed --index-transform). Answers are told by their files, or where the data are no
    files by their positions in the training split. The search is exact, by faiss where it is installed. Files that
    cannot be read are named on standard error and skipped; the exit status is 1 if none can be read.

    \b
    Examples:
      relgraph query runs/NAME photo.jpg --index embeddings/STORE     the ten nearest images of a store
      relgraph query runs/NAME new 'more/*.jpg' --index STORE --html page.html
      relgraph query runs/NAME photo.jpg --index clip.parquet --k 3 --json
    """
    from relgraph import api

    found = api.query(run, [name for place in images for name in named_places(place)], **options)
    if as_json:
        say_all(found.json().rstrip("\n"))
    else:
        rows = [
            [row.file if rank == 1 else "", str(rank), f"{answer.score:.3f}", answer.name]
            for row in found.rows
            for rank, answer in enumerate(row.answers, start=1)
        ]
        say_all(columns([["query", "rank", "score", "image"], *rows]))
    if options["html"] is not None and not as_json:
        say(f"{options['html']}: {len(found.rows)} quer{'y' if len(found.rows) == 1 else 'ies'}")
