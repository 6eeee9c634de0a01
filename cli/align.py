"""relgraph align."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import RUN, own_code_options
from .show import say, say_all, table

if TYPE_CHECKING:
    from relgraph.deploy.aligning import Alignment


@click.command()
@RUN
@click.option("--index", type=click.Path(path_type=Path), metavar="STORE",
              help="A store of the teacher's vectors of the training images; the student then compares as it does "
              "[default: the one by which the run was trained, else the teacher is run]")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Tell what it gains and loses, and write nothing.")
@click.option("--undo", is_flag=True, help="Take the rotation out of the student's file again.")
@own_code_options
def align(run: Path, undo: bool, **options: Any) -> None:
    """Turn the vectors of a RUN's student into its teacher's space, so that they ask the teacher's index.

    A rotation, in closed form: no network learns anything. Losses that compare relations leave it open, and a student
    that was trained by them knows the neighbours, but not where they are. It is fitted to the vectors of the training
    images, and written into the student's file as a last layer, which predict, query, embed and export then have;
    vectors have the teacher's width from then on.

    The table, told before anything is written, is of validation images, each a query among the others: in the teacher's
    index, before and after, in the student's own, and the teacher itself. `overlap@10` is the share of the ten nearest
    images that the teacher finds as well, `cosine` that of a query and its own image in the index.

    \b
    Examples:
      relgraph align runs/NAME --dry-run                  what it would gain, and write nothing
      relgraph align runs/NAME                            the teacher is run on the training images
      relgraph align runs/NAME --index embeddings/STORE   or read: a store of its vectors, by relgraph embed
      relgraph align runs/NAME --undo
    """
    from relgraph import api

    found = api.align(run, undo=undo, before=_tell, **options)
    if found is None:
        say(f"{run}: the student is as it was before it was aligned")
    else:
        say(f"{run}: {'the student is aligned; --undo takes it back' if found.written else 'nothing was written'}")


def _tell(found: "Alignment") -> None:
    """Print what an alignment gains and loses."""
    columns = [*found.figures["teacher's index, after"]]
    rows = [[name, *(figures.get(column) for column in columns)] for name, figures in found.figures.items()]
    judged, split = found.judged
    header = [column if column == "cosine" else f"{column} %" for column in columns]
    say_all(table([f"{judged} {split} images", *header], rows))
    fitted = f"fitted to {found.images} training images, {found.widths[0]} -> {found.widths[1]}"
    say(f"{fitted}, as an index: {found.transform}", *found.notes)
