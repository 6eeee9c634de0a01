"""Retrieval: queries by one network against a gallery of another's vectors, or of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from relgraph.analysis.diagnostics import shared_neighbours
from relgraph.errors import RelgraphError
from relgraph.graph.gallery import Search, nearest_in_gallery, ranks_of_positives
from relgraph.graph.search import Rows

CUTS = (1, 5, 10)  # recall is told at these


def retrieval(
    queries: Rows,
    gallery: Rows,
    query_labels: Tensor,
    gallery_labels: Tensor,
    own: Tensor | None = None,
    k: Sequence[int] = CUTS,
    block: int | None = None,
    *,
    junk: Tensor | None = None,
    progress: str | None = None,
) -> dict[str, float]:
    """Return how well queries `(Q, D)` find images of their label in a gallery `(M, D)` by cosine, in percent.

    With `r_1 < r_2 < ... < r_R` the ranks of a query's positives, all images of its label in the gallery,

        recall@k = 1[r_1 <= k]      AP = 1/R * sum_j j / r_j      AP@R = 1/R * sum_{j: r_j <= R} j / r_j

    and the mean of each over the queries that have a positive: the others leave it. `mAP` and `mAP@R` are those of
    pytorch-metric-learning (Musgrave, Belongie, Lim, 2020, arXiv 2003.08505), recall@k is its precision at 1 and the
    CMC of re-identification; AP of ROxford is another, the trapezoid below the curve. Of equally near images the one
    at the lower position of the gallery comes first; the libraries leave that order open. Exact, and in blocks: the
    gallery may be larger than memory.

    Args:
        queries: Vectors of the queries, which need no unit length.
        gallery: Those of the gallery.
        query_labels: `(Q,)`; a negative one is unknown.
        gallery_labels: `(M,)`, alike.
        own: Position of each query's own image in the gallery, -1 for none: it is never an answer.
        k: Where recall is told.
        block: Queries, and images of the gallery, that are compared at a time.
        junk: What else is no answer, neither right nor wrong, `(Q, M)` bool, such as images of one person by one
            camera.
        progress: Title of a progress bar on a terminal; `None` disables it.

    Raises:
        RelgraphError: if shapes disagree, a `k` is larger than the number of answers, or no query has a positive.

    >>> vectors, labels = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]]), torch.tensor([0, 1, 1, 0])
    >>> found = retrieval(vectors, vectors, labels, labels, own=torch.arange(4), k=(1, 2))
    >>> {name: round(value, 1) for name, value in found.items()}
    {'recall@1': 0.0, 'recall@2': 75.0, 'mAP': 45.8, 'mAP@R': 0.0}
    """
    return figures_and_nearest(Search(queries, gallery, own, junk, block, progress), query_labels, gallery_labels, k)[0]


def figures_and_nearest(
    search: Search, query_labels: Tensor, gallery_labels: Tensor, k: Sequence[int] = CUTS, nearest: int = 0
) -> tuple[dict[str, float], Tensor]:
    """Return the figures of `retrieval`, and so many nearest images of each query, `(Q, nearest)`.

    Both are of the same similarities, which are computed once where those of a block of queries fit into memory.

    Raises:
        RelgraphError: as `retrieval` does, or if there are fewer answers than `nearest`.
    """
    for each in k:
        search.check_k(each)
    parts = [(_of_queries(found.ranks, found.found, k), found.nearest)
             for found in ranks_of_positives(search, query_labels, gallery_labels, nearest)]  # fmt: skip
    rows, neighbours = (torch.cat(each) for each in zip(*parts, strict=True))
    if len(rows) == 0:
        raise RelgraphError(f"none of {len(query_labels)} queries has an image of its label in the gallery")
    names = [*(f"recall@{each}" for each in k), "mAP", "mAP@R"]
    return dict(zip(names, (100 * rows.mean(0)).tolist(), strict=True)), neighbours


def _of_queries(ranks: Tensor, count: Tensor, k: Sequence[int]) -> Tensor:
    """Return recall at each k, AP and AP@R of the queries that have positives, 0 to 1, `(B, len(k) + 2)`."""
    ranks, count = ranks[count > 0], count[count > 0].double()
    if len(ranks) == 0:
        return ranks.new_empty(0, len(k) + 2)
    precision = torch.arange(1, ranks.shape[1] + 1, device=ranks.device) / ranks  # 0 behind the last one
    first = precision.where(ranks <= count[:, None], 0)
    recall = [(ranks[:, 0] <= each).double() for each in k]
    return torch.stack([*recall, precision.sum(1) / count, first.sum(1) / count], dim=1)


def overlap(
    student_queries: Rows,
    teacher_queries: Rows,
    gallery: Rows,
    teacher_gallery: Rows | None = None,
    *,
    own: Tensor | None = None,
    k: int = 10,
    block: int | None = None,
    progress: str | None = None,
) -> float:
    """Return how many of each query's k nearest images student and teacher share, in percent: `|A_i & B_i| / k`.

    A are the images of `gallery` that are nearest to the student's vector of the query, B those of `teacher_gallery`,
    or of the same gallery if it is not given, that are nearest to the teacher's. Both galleries are of the same images,
    in one order.

    Raises:
        RelgraphError: if shapes disagree, or `k` is larger than the number of answers.

    >>> student, teacher = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 1.0]])
    >>> overlap(student, teacher, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), k=2)
    50.0
    """
    other = gallery if teacher_gallery is None else teacher_gallery
    if len(student_queries) != len(teacher_queries) or len(gallery) != len(other):
        counts = f"{len(student_queries)} and {len(teacher_queries)}, {len(gallery)} and {len(other)}"
        raise RelgraphError(f"both networks' queries and galleries must be of the same images, got {counts}")
    one = nearest_in_gallery(Search(student_queries, gallery, own, None, block, progress), k)[0]
    two = nearest_in_gallery(Search(teacher_queries, other, own, None, block, progress), k)[0]
    return share(one, two)


def share(one: Tensor, other: Tensor) -> float:
    """Return how many of each query's nearest images two tables of them have in common, `(Q, k)`, in percent."""
    return 100 * float(shared_neighbours(one, other).double().mean()) / one.shape[1]
