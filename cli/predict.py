"""relgraph predict."""

from pathlib import Path
from typing import Any

import click

from .options import RUN, named_places, own_code_options
from .show import say, say_all, table

EPILOG = """\b
Examples:
  relgraph predict runs/photos new.jpg                         a table: class and probability
  relgraph predict runs/photos new 'more/**/*.jpg' --top 3     all images of a folder, and of a pattern
  relgraph predict runs/photos new -o classes.csv              or .json
  relgraph predict runs/photos - --format json                 names on standard input, one a line
"""


@click.command(epilog=EPILOG)
@RUN
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Number of classes of an image.")
@click.option("--format", type=click.Choice(["csv", "json"]), help="[default: by the file's suffix, else a table]")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="File to write, which must be new.")
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(min=1), help="Images at a time.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode images. [default: one a core, to 8]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="Where to compute.")  # fmt: skip
@own_code_options
def predict(run: Path, images: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Tell the classes of IMAGES, by the student of a RUN.

    IMAGES are files, folders, whose images count at any depth, patterns such as 'new/*.jpg', or - for names on standard
    input, one a line. The probability is the softmax over all classes. Files that cannot be read are named on standard
    error and skipped; the exit status is 1 if none can be read.
    """
    from relgraph import api

    found = api.predict(run, [name for place in images for name in named_places(place)], out=out, **options)
    if out is not None:
        say(f"{out}: {len(found.rows)} images")
    elif options["format"] is not None:
        say_all(found.text(options["format"]).rstrip("\n"))
    else:
        header = [name.replace("probability", "probability %").replace("_", " ") for name in found.rows[0].cells()]
        percent = ([100 * x if isinstance(x, float) else x for x in row.cells().values()] for row in found.rows)
        say_all(table(header, list(percent)))
