"""The images of an index that are nearest to image files, by a student's vectors."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relgraph.analysis.pictures import data_uri
from relgraph.analysis.report.page import FORBIDDEN, STYLES, asset, fill
from relgraph.data.file_sources import FileSource
from relgraph.deploy.index import Index, open_index, picture_of
from relgraph.deploy.predicting import Asked
from relgraph.errors import RelgraphError
from relgraph.files import replacing
from relgraph.graph.alignment import VectorTransform
from relgraph.names import dataset
from relgraph.networks.checkpoint_source import embedding_network
from relgraph.networks.plain import PlainStudent, in_teacher_space
from relgraph.networks.teachers import fingerprint_of_network
from relgraph.printing import tell
from relgraph.training.recipe import Recipe

THUMBNAIL = 96  # pixels


class Answer(NamedTuple):
    """An image of an index that is near to a query.

    Attributes:
        name: Path of its file, or its position where it is none.
        position: Its row in the index.
        score: The cosine of both vectors, as the index compares them.
    """

    name: str
    position: int
    score: float


class Query(NamedTuple):
    """A query and its answers, the nearest first."""

    file: str
    answers: tuple[Answer, ...]


class Queried(NamedTuple):
    """The answers to queries, in the order in which these were named.

    Attributes:
        rows: Of each image that could be read.
        skipped: Why others could not, by what was named.
    """

    rows: list[Query]
    skipped: dict[str, str]

    def json(self) -> str:
        """Return the rows as JSON."""
        rows = [{"file": row.file, "answers": [answer._asdict() for answer in row.answers]} for row in self.rows]
        return json.dumps(rows, indent=2) + "\n"


def query_index(student: PlainStudent, index: Index, asked: Asked, *, k: int, run: Mapping[str, Any]) -> Queried:
    """Return the k nearest images of an index to each image file; a line on standard error names what cannot be read.

    Both vectors pass through the transform of the index, or of the student's file where the index has none, and are
    compared by their cosine.

    Args:
        student: The student.
        index: The index.
        asked: The image files.
        k: Number of answers.
        run: What the student's run was made of, as `inputs.json` has it; empty where that is not known.

    Raises:
        RelgraphError: if the index is not of the student's space, has another width or fewer than k images, or no image
            can be read.
    """
    index.check_k(k)
    doubts = check_space(student, index, run)
    transform = _transform(student, index)
    files, vectors = list[str](), list[Tensor]()
    for named, found, _ in asked.outputs(student):
        if found.shape[1] != index.rows.shape[1]:
            told = (
                f"the vectors of the student have width {found.shape[1]}, those of {index.path} {index.rows.shape[1]}"
            )
            raise RelgraphError(f"{told}: relgraph align RUN turns a student's into its teacher's space")
        if not files:  # not before the widths are known: of what is refused there is nothing to doubt
            tell(*doubts, stream=sys.stderr)
        files += named
        vectors.append(found.float().cpu())
    found = torch.cat(vectors)
    positions, scores = index.nearest(transform(found), k, transform)
    places = sorted(set(positions.flatten().tolist()))
    names = dict(zip(places, index.names(places), strict=True))
    rows = [
        Query(file, tuple(Answer(names[place], place, score) for place, score in zip(*each, strict=True)))
        for file, *each in zip(files, positions.tolist(), scores.tolist(), strict=True)
    ]
    return Queried(rows, asked.skipped)


def _transform(student: PlainStudent, index: Index) -> VectorTransform:
    """Return what is done with vectors before they are compared: by default nothing but their length."""
    own = student.index if student.index is not None and student.index.width == index.rows.shape[1] else None
    plain = VectorTransform(torch.zeros(index.rows.shape[1]))
    return (index.transform or own or plain).cpu()


def _is_of(student: PlainStudent, index: Index) -> bool:
    """Return whether the vectors of an index are known to be the student's own."""
    return index.network is not None and index.network[1] == fingerprint_of_network(embedding_network(student))


def check_space(student: PlainStudent, index: Index, run: Mapping[str, Any]) -> list[str]:
    """Check that the vectors of an index are in the space of a student's, as far as that is known.

    They are of the student itself, of the teacher that it was aligned with, or of the teacher that its run had.

    Returns:
        A line where that is not known, or the student was not aligned with that teacher.

    Raises:
        RelgraphError: if they are of another network.
    """
    if index.network is None or index.network[0].startswith("vectors:"):
        known = student.info.get("align", {}).get("fingerprint")
        if index.network is None or known != index.network[1]:
            return []  # a table of any network's vectors: its width is all that is known
    name, fingerprint = index.network
    aligned = student.info.get("align")
    if _is_of(student, index):
        return []
    expected = aligned or run.get("teacher")
    if expected is None:
        return [f"whether {index.path} is of this student's teacher is not known: it is of {name}"]
    if fingerprint != expected["fingerprint"]:
        teacher = expected["teacher"] if aligned else expected["name"]
        told = "the teacher with which the student was aligned" if aligned else "the student's teacher"
        raise RelgraphError(
            f"{index.path} is an index of {name}, or of other weights of it: expected {told}, {teacher}"
        )
    if in_teacher_space(student):
        return []
    return [f"the student is not aligned with {index.path}, its answers mean little: relgraph align"]


def queried(
    student: PlainStudent, path: Path, asked: Asked, k: int, html: Path | None, recipe: Recipe | None = None,
    inputs: Mapping[str, Any] | None = None, images_in: str | Path | None = None,
) -> Queried:  # fmt: skip
    """Return what `query_index` finds in the index at a path, and write the page if one is asked for.

    Args:
        student: The student.
        path: The index.
        asked: The image files.
        k: Number of answers.
        html: The page, written whole or not at all.
        recipe: That of the student's run, where it is known.
        inputs: What that run was made of.
        images_in: Folder within which the names of a table are paths.

    Raises:
        RelgraphError: if the index cannot be read, `images_in` is no folder, the page cannot be written, or as
            `query_index`.
    """
    if images_in is not None and not Path(images_in).is_dir():
        raise RelgraphError(f"images_in must be a folder, got {images_in}")
    index = open_index(path, recipe, [Path(images_in)] if images_in else _folders(recipe))
    if html is None:
        return query_index(student, index, asked, k=k, run=inputs or {})
    with replacing(html) as part:
        found = query_index(student, index, asked, k=k, run=inputs or {})
        part.write_text(page(found, index, f"Answers to {len(found.rows)} images"), encoding="utf-8")
    return found


def _folders(recipe: Recipe | None) -> list[Path]:
    """Return the folders in which the images of a run may be."""
    source = None if recipe is None else dataset(recipe.dataset)
    if not isinstance(source, FileSource):
        return []
    path = source.path.expanduser()
    return [path if path.is_dir() else path.parent]


def page(found: Queried, index: Index, title: str) -> str:
    """Return the answers as one HTML page that loads nothing else: queries to the left, their answers to the right."""
    places = sorted({answer.position for row in found.rows for answer in row.answers})
    pictures = dict(zip(places, map(_uri, index.pictures(places, THUMBNAIL)), strict=True))
    rows = [
        {
            "file": row.file,
            "picture": _uri(picture_of(Path(row.file), THUMBNAIL)),
            "answers": [{**answer._asdict(), "picture": pictures[answer.position]} for answer in row.answers],
        }
        for row in found.rows
    ]
    styles = [asset(name) for name in (STYLES[0], "query.css")]
    text = fill("query.html", title=title, index=str(index.path), rows=rows, skipped=found.skipped, styles=styles)
    return FORBIDDEN.sub("\ufffd", text)


def _uri(picture: Any) -> str | None:
    return None if picture is None else data_uri(picture)
