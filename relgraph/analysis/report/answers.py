"""The section on answers: what student and teacher each find in an index, for the queries that differ most."""

from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from torch import Tensor

from relgraph.analysis.diagnostics import shared_neighbours
from relgraph.analysis.pictures import data_uri, thumbnails
from relgraph.analysis.report.page import fill
from relgraph.analysis.run_loading import TrainedRun
from relgraph.data.images import ImageSet
from relgraph.graph.alignment import VectorTransform
from relgraph.graph.gallery import Search, nearest_in_gallery
from relgraph.graph.kernels import cosine
from relgraph.networks.plain import in_teacher_space

QUERIES = 10  # that are shown
ANSWERS = 8  # to each
IMAGES = 10_000  # of the split, at most: each of them is a query, and an image of the index
THUMBNAIL = 64


class Answered(NamedTuple):
    """A query, and its answers by student and teacher, nearest first; all are positions among the images.

    Attributes:
        query: The image.
        overlap: Share of the answers that both have, 0 to 1.
        student: The student's answers, and the rank that the teacher gives each.
        teacher: The teacher's answers, and the rank that the student gives each.
    """

    query: int
    overlap: float
    student: list[tuple[int, int]]
    teacher: list[tuple[int, int]]


class Answers(NamedTuple):
    """The queries that differ most, in which index they were asked, and how many images that has."""

    found: list[Answered]
    shared: bool
    images: int
    k: int
    overlap: float


def answers(run: TrainedRun, images: ImageSet) -> Answers | None:
    """Return the queries of a split on whose answers student and teacher agree least; `None` without a teacher.

    A student in its teacher's space asks the teacher's index, any other its own. Vectors are taken from the mean of the
    index, or as the index does that the student's file tells, and compared by their cosine; no image is its own answer.
    """
    images = images.select(torch.arange(min(len(images), IMAGES), device=images.labels.device))
    own, teacher = run.vectors(images) if len(images) > ANSWERS + 1 else (torch.empty(0), None)
    if teacher is None:
        return None
    shared = in_teacher_space(run.plain)
    known = run.plain.index
    transform = VectorTransform.fit(teacher) if known is None or known.width != teacher.shape[1] else known.cpu()
    gallery = transform(teacher)
    queries = (transform if shared else VectorTransform.fit(own))(own)
    of_student, of_teacher = ((queries, gallery if shared else queries), (gallery, gallery))
    each = torch.arange(len(images))
    tables = [nearest_in_gallery(Search(*pair, own=each), ANSWERS)[0] for pair in (of_student, of_teacher)]
    overlap = shared_neighbours(*tables).double() / ANSWERS
    nodes = cosine.nodes(gallery)
    # How near the student's answers are for the teacher: those of many queries are none of the teacher's.
    near = torch.stack([(nodes * nodes[answer]).sum(1) for answer in tables[0].T]).sum(0)
    order = near.argsort(stable=True)
    chosen = order[overlap[order].argsort(stable=True)][:QUERIES]
    ranks = [_ranks(*pair, chosen) for pair in (of_student, of_teacher)]
    found = [
        Answered(image, float(overlap[image]), _ranked(tables[0][image], ranks[1][row]),
                 _ranked(tables[1][image], ranks[0][row]))
        for row, image in enumerate(chosen.tolist())
    ]  # fmt: skip
    return Answers(found, shared, len(images), ANSWERS, float(overlap.mean()))


def _ranks(queries: Tensor, gallery: Tensor, chosen: Tensor) -> Tensor:
    """Return the rank of each image among the answers to some queries, from 1 on, `(Q, M)`; 0 for the query itself."""
    weights = cosine.matrix(cosine.nodes(queries[chosen].double()), cosine.nodes(gallery.double())).float()
    weights[torch.arange(len(chosen)), chosen] = torch.inf
    order = weights.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())


def _ranked(positions: Tensor, ranks: Tensor) -> list[tuple[int, int]]:
    return list(zip(positions.tolist(), ranks[positions].tolist(), strict=True))


def answers_section(found: Answers, images: ImageSet, files: list[str] | None = None) -> Markup:
    """Return the queries with the answers of both networks as thumbnails, each with its rank by the other network.

    `files` are the names of all images, where known.
    """
    places = sorted({place for one in found.found for place in _places(one)})
    pictures = thumbnails(images.select(torch.tensor(places, device=images.labels.device)), THUMBNAIL)
    labels = images.true_labels.tolist()
    shown: dict[int, dict[str, Any]] = {}
    for place, picture in zip(places, pictures, strict=True):
        name = images.classes[labels[place]] if 0 <= labels[place] < len(images.classes) else ""
        file = f"number {int(images.index[place])}" if files is None else files[place]
        told = f"{name or 'image'}, {file}"
        shown[place] = {"name": name, "file": file, "told": told, "picture": data_uri(picture)}
    rows = [
        {
            "image": shown[one.query],
            "overlap": one.overlap,
            "rows": {
                side: [
                    {
                        **shown[place],
                        "rank": rank,
                        "shared": rank <= found.k,
                        "other": labels[place] != labels[one.query],
                    }
                    for place, rank in getattr(one, side)
                ]
                for side in ("student", "teacher")
            },
        }
        for one in found.found
    ]
    return fill("answers.html", found=rows, shared=found.shared, images=found.images, k=found.k, overlap=found.overlap)


def _places(one: Answered) -> list[int]:
    return [one.query, *(place for place, _ in (*one.student, *one.teacher))]
