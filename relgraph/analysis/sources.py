"""Whose vectors a graph is of: the frozen teacher's own, what the run learned to make of them, or the student's."""

from pathlib import Path
from typing import Literal, get_args

from relgraph.errors import RelgraphError, unknown

Source = Literal["teacher", "projection", "student"]
TITLES = {
    "teacher": "the frozen teacher's own vectors",
    "projection": "the teacher's vectors behind the run's projection",
    "student": "the student's vectors",
}


def title(source: str) -> str:
    """Return what a graph is of, for a heading or a sentence.

    - `teacher`: the frozen teacher's vectors as it gives them; no label had a part in them.
    - `projection`: those vectors behind the projection of the run, which it trained by its labels (or which is part of
      the teacher, with a head of its own); what a loss on graphs of embeddings reads, such as EGA's.
    - `student`: the student's graph, without a teacher's.

    Raises:
        RelgraphError: for an unknown source.

    >>> title("teacher")
    "the frozen teacher's own vectors"
    """
    check_source(source)
    return TITLES[source]


def check_source(source: str, stored: Path | None = None) -> None:
    """Raise RelgraphError for an unknown source, or one that a store of a teacher's vectors does not have."""
    if source not in TITLES:
        raise unknown("source", source, get_args(Source))
    if stored is not None and source != "teacher":
        raise RelgraphError(f"{stored} holds {TITLES['teacher']} alone: expected no --source, got {source}")
