"""The group of commands, and the format of their errors."""

import logging
import os
import sys
from typing import Any

import click

from relgraph.errors import RelgraphError
from relgraph.printing import printable

from .align import align
from .analyze import analyze
from .data import data
from .embed import embed
from .evaluate import evaluate
from .export import export
from .launch import LOST, launched, leave_alone, lost_the_others
from .memory import keep_memory
from .methods import methods
from .names import students
from .predict import predict
from .presets import presets
from .pretrain import pretrain
from .query import query
from .report import report
from .teachers import teachers
from .train import train


class Lost(click.ClickException):
    """The end of a process that has lost the others."""

    exit_code = LOST


class Commands(click.Group):
    """A group whose commands end an expected error in one line and exit status 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and end the program; nothing is left to do where it has ended."""
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            if isinstance(end.code, int):
                leave_alone(end.code)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; only those that take long can use several processes."""
        name, command, rest = super().resolve_command(ctx, args)
        if command not in (train, pretrain, embed) and launched() and os.environ["WORLD_SIZE"] != "1":
            told = f"relgraph {name} runs in one process, got {os.environ['WORLD_SIZE']}"
            raise click.ClickException(f"{told}: train, pretrain and embed take several")
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        # Lightning logs the precision, GPU and processes that it was given, and advises on its own trainer.
        for name in ("rank_zero", "distributed"):
            logging.getLogger(f"lightning_fabric.utilities.{name}").setLevel(logging.WARNING)
        try:
            return super().invoke(ctx)
        except RelgraphError as error:
            raise click.ClickException(printable(str(error), sys.stderr)) from error
        except click.UsageError as error:  # names what was given, as a shell may have found it: `relgraph report *`
            raise click.UsageError(printable(error.format_message(), sys.stderr), error.ctx) from error
        except RuntimeError as error:
            if not lost_the_others(error):
                raise
            raise Lost("another process has stopped, or cannot be reached") from error
        except BrokenPipeError:
            raise  # whoever read the output has enough, as in `| head`: click ends without a word
        except OSError as error:
            told = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
            raise click.ClickException(printable(told, sys.stderr)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="relgraph")
def main() -> None:
    """Distil a teacher's relations between images into a small student.

    \b
    relgraph train --graph dense              offline example: digits, a self-supervised teacher, 20 epochs
    relgraph train --graph knn --k 8          the same on a sparse graph
    relgraph evaluate runs/NAME               accuracy, k-NN and linear probe of student and teacher
    relgraph analyze runs/NAME                neighbours, communities, confusions: where the two networks differ
    relgraph report runs/NAME runs/OTHER      all of it as one HTML file, with the graph to explore
    relgraph export runs/NAME -o graph.gexf   the graph for Gephi or networkx
    relgraph predict runs/NAME photos         the classes of new images, with their probabilities
    relgraph pretrain                         a teacher of your own, from images without labels
    relgraph embed --views 4                  run the teacher once, instead of in every step
    relgraph align runs/NAME                  turn the student's vectors into the teacher's space
    relgraph query runs/NAME x.jpg --index S  the nearest images of an index, by the student's vectors
    relgraph methods                          how to distil: the published methods, any of them on any graph
    relgraph presets                          published protocols by name, and what differs from them
    relgraph teachers dinov2                  what can teach; students and data list the rest

    `relgraph COMMAND --help` describes a command in full.
    """
    keep_memory()


for command in (
    train, pretrain, evaluate, analyze, report, export, predict, embed, align, query, data, teachers, students, methods,
    presets,
):  # fmt: skip
    main.add_command(command)
