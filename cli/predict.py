"""relgraph predict."""

import re
from pathlib import Path
from typing import Any

import click

from .options import RUN, image_options, named_places, own_code_options
from .show import say, say_all, table


@click.command()
@RUN
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Number of classes of an image.")
@click.option("--format", type=click.Choice(["csv", "json"]), help="[default: by the file's suffix, else a table]")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="File to write, which must be new.")
@click.option("--masks", type=click.Path(path_type=Path), metavar="DIR",
              help="Where pixels have classes: a new folder for a PNG file of these for each image.")  # fmt: skip
@click.option("--overlay", is_flag=True, help="Write each image under the colours of its classes there as well.")
@image_options
@own_code_options
def predict(run: Path, images: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Tell the classes of IMAGES, by the student of a RUN.

    IMAGES are files, folders, whose images count at any depth, patterns such as 'new/*.jpg', or - for names on standard
    input, one a line. The probability is the softmax over all classes. Files that cannot be read are named on standard
    error and skipped; the exit status is 1 if none can be read.

    Where pixels have classes, those are told that most pixels of an image have, with their share of it. With --masks
    the map of an image, a.jpg, is DIR/a.png: of the image's size, with a palette, its values are the numbers of the
    classes, whose names and colours are in DIR/classes.json.

    \b
    Examples:
      relgraph predict runs/photos new.jpg                         a table: class and probability
      relgraph predict runs/photos new 'more/**/*.jpg' --top 3     all images of a folder, and of a pattern
      relgraph predict runs/photos new -o classes.csv              or .json
      relgraph predict runs/photos - --format json                 names on standard input, one a line
      relgraph predict runs/cells new --masks masks --overlay      the class of each pixel, as PNG files
    """
    from relgraph import api

    found = api.predict(run, [name for place in images for name in named_places(place)], out=out, **options)
    if out is not None:
        say(f"{out}: {len(found.rows)} images")
    elif options["format"] is not None:
        say_all(found.text(options["format"]).rstrip("\n"))
    else:
        header = [_titled(name) for name in found.rows[0].cells()]
        percent = ([100 * x if isinstance(x, float) else x for x in row.cells().values()] for row in found.rows)
        say_all(table(header, list(percent)))


def _titled(name: str) -> str:
    """Return the title of a column."""
    return re.sub("probability|share", r"\g<0> %", name).replace("_", " ")
