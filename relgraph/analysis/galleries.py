"""A finished run's student against an index: of the teacher's vectors, of its own, or one that is stored."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relgraph.analysis.retrieval import CUTS, figures_and_nearest, share
from relgraph.analysis.run_loading import TrainedRun, empty_rows
from relgraph.data.embeddings import EmbeddingStore, check_complete
from relgraph.data.images import SPLITS, ImageSet
from relgraph.data.index_transform import read_transform
from relgraph.data.manifest import Contents, manifest_file
from relgraph.errors import RelgraphError, unknown
from relgraph.graph.alignment import VectorTransform
from relgraph.graph.gallery import Search, nearest_in_gallery
from relgraph.graph.search import Rows, check_finite
from relgraph.names import is_vectors
from relgraph.networks.plain import in_teacher_space, is_aligned
from relgraph.networks.teachers import Teacher
from relgraph.networks.vectors import VectorFile
from relgraph.printing import tell
from relgraph.training.stores import FACTS, Wanted, facts, fitting_store
from relgraph.training.vectors import in_original, rows_of

Sides = dict[str, tuple[Rows, Rows]]
Change = Callable[[Tensor], Tensor]
TABLES = (".npy", ".parquet")
OVERLAP = 10  # neighbours of a query that both networks may share
PAIRS = ("student_teacher", "teacher_teacher", "student_student")  # whose queries and whose index


@dataclass(frozen=True, eq=False)
class Index:
    """The images among which queries are answered, M of them.

    Attributes:
        teacher: The teacher's vectors of them, in the space in which the method compared; `None` without a teacher.
        student: The student's own; `None` where the images are not at hand.
        labels: Their classes, numbered as those of the queries, -1 where unknown, `(M,)`.
        own: Position of each query's own image among them, -1 for none, `(Q,)`.
    """

    teacher: Rows | None
    student: Rows | None
    labels: Tensor
    own: Tensor


class Mapped:
    """Rows `(M, D)` behind a map of vectors, which is computed when they are read."""

    def __init__(self, rows: Rows, change: Change) -> None:
        self._rows, self._change = rows, change
        self.shape = len(rows), self[:1].shape[1]

    def __len__(self) -> int:
        """Return M."""
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return the changed rows."""
        return self._change(self._rows[index])


def compared(run: TrainedRun, teacher: Rows) -> Rows:
    """Return the teacher's own vectors in the space of the student's: behind the layers that the run learned for them.

    With target_space teacher, or a student that is aligned, they stay as they are. Queries by the teacher pass here as
    well; those of the student are what its file gives.
    """
    side = run.teacher_side

    @torch.no_grad()
    def change(rows: Tensor) -> Tensor:
        changed: Tensor = side(rows.float().to(run.device)).cpu()
        return changed

    return teacher if _has_own_vectors(run) else Mapped(teacher, change)


def _has_own_vectors(run: TrainedRun) -> bool:
    """Return whether the vectors of the teacher's index are the teacher's own."""
    return is_aligned(run.plain) or next(run.teacher_side.children(), None) is None


def _transform(run: TrainedRun, gallery: str) -> tuple[VectorTransform, str] | None:
    """Return what the index of the teacher's own vectors does with a vector, and how that is spelled.

    It is that of the store that is asked, else of the student's file, as `query_index` has it. Where no file is asked,
    it is else that of the store by which the run was trained.
    """
    if not _has_own_vectors(run):
        return None
    found = read_transform(Path(gallery)) if manifest_file(Path(gallery)).is_file() else None
    if found is None and run.plain.index is not None:
        return run.plain.index.cpu(), str(run.plain.info["align"]["transform"])
    return _of_training(run) if gallery in ("teacher", "own") else found


def _of_training(run: TrainedRun) -> tuple[VectorTransform, str] | None:
    """Return the transform of the store by which a run was trained; a line tells where that store is gone."""
    known = run.inputs.get("stored embeddings")
    if known is None:
        return None
    path = Path(known["name"])
    if manifest_file(path).is_file() and Contents.read(path).sha256 == known["fingerprint"]:
        return read_transform(path)
    told = f"{path}, the stored embeddings by which {run.run.path} was trained, are not there"
    tell(f"{told}: vectors are compared without the transform that they may have had", stream=sys.stderr)
    return None


def _transformed(run: TrainedRun, transform: VectorTransform, sides: Sides) -> Sides:
    """Return queries and galleries as an index compares them: a student in a space of its own has its own mean."""
    by = dict.fromkeys(sides, transform)
    if "student_student" in sides and not in_teacher_space(run.plain):
        by["student_student"] = VectorTransform.fit(sides["student_student"][1])
    return {name: (Mapped(queries, by[name]), Mapped(held, by[name])) for name, (queries, held) in sides.items()}


def evaluate_gallery(
    run: TrainedRun, gallery: str, split: str = "test", k: int | None = None, pairs: Sequence[str] = PAIRS
) -> dict[str, Any]:
    """Return how the student of a run answers queries against an index, beside the teacher and its own index.

    The queries are all images of a split. The gallery is that split, by the "teacher" or by the student itself, "own":
    an image is never its own answer. Or it is a path: a store of `relgraph embed`, whose gallery is the first view of
    all images in it, or a table of vectors, `.npy` or `.parquet`.

    Args:
        run: The run.
        gallery: "teacher", "own", or the path.
        split: Whose images are the queries.
        k: Neighbours of a query of which the overlap with the teacher's is told; 10, or as many as a smaller gallery
            has, if not given.
        pairs: Which of the rows below are computed.

    Returns:
        `queries` and `images`, their numbers, `k`, and a row of figures for each pair of networks of which vectors are
        at hand: `student_teacher` are queries by the student against the teacher's index, `teacher_teacher` by the
        teacher itself, the ceiling, `student_student` by the student against its own. Figures are those of
        `relgraph.analysis.retrieval.retrieval`, where images have labels, and `overlap@k`, in percent. `transform` is
        what the index does with vectors before it compares them: that of the store that is asked, else of the file of
        an aligned student, else, where no file is asked, of the store by which the run was trained, else "none". A
        student in a space of its own has an index about its own mean, where the teacher's is about a mean.

    Raises:
        RelgraphError: for an unknown split, if the run has no teacher where its vectors are needed, the index is of
            another teacher, width, version or of other images, or has too few of them, or there is nothing to compare
            by.
    """
    if split not in SPLITS:  # "all" has images of several, which an index would take for others
        raise unknown("split", split, SPLITS)
    images = run.images(split)
    student, own_vectors = run.vectors(images)
    teacher = None if own_vectors is None else compared(run, own_vectors)
    index = _index(run, gallery, images, student, teacher)
    for name, vectors in (("student", student), ("teacher", teacher), ("teacher", index.teacher)):
        if vectors is not None:
            check_finite(vectors, name)
    if gallery != "own":
        _check_widths(student, index, gallery)
    sides, found = _sides(student, teacher, index, gallery), _transform(run, gallery)
    if found is not None:
        sides = _transformed(run, found[0], sides)
    if k is None:
        k = min([OVERLAP, *(Search(*each, index.own).answers for each in sides.values())])
    known = bool((images.true_labels >= 0).any() and (index.labels >= 0).any())
    if not known and teacher is None:
        raise RelgraphError(f"{gallery} has no labels, and there is no teacher's ranking to compare the student's with")
    report: dict[str, Any] = {"run": str(run.run.path), "gallery": gallery, "split": split, "queries": len(images),
                              "images": len(index.labels), "labels": known, "k": k,
                              "transform": "none" if found is None else found[1]}  # fmt: skip
    judged = {name: _judged(*side, images.true_labels, index, name, k, known and name in pairs)
              for name, side in sides.items() if name in (*pairs, "teacher_teacher")}  # fmt: skip
    ranked = judged["teacher_teacher"][1] if "teacher_teacher" in judged else None
    for name in [name for name in judged if name in pairs]:
        row, near = judged[name]
        report[name] = row if ranked is None else {**row, f"overlap@{k}": share(near, ranked)}
    return report


def _sides(student: Tensor, teacher: Rows | None, index: Index, gallery: str) -> Sides:
    """Return queries and gallery of each pair of networks of which both are at hand."""
    sides: Sides = {}
    if gallery != "own" and index.teacher is not None:
        sides["student_teacher"] = student, index.teacher
    if teacher is not None and index.teacher is not None:
        sides["teacher_teacher"] = teacher, index.teacher
    if index.student is not None:
        sides["student_student"] = student, index.student
    return sides


def _judged(
    queries: Rows, held: Rows, labels: Tensor, index: Index, name: str, k: int, by_labels: bool
) -> tuple[dict[str, float], Tensor]:
    """Return the figures of queries that labels give, if they are asked for, and each query's k nearest images."""
    search = Search(queries, held, index.own, progress=name.replace("_", " in "))
    if not by_labels:
        return {}, nearest_in_gallery(search, k)[0]
    return figures_and_nearest(search, labels, index.labels, [each for each in CUTS if each <= search.answers], k)


def _check_widths(student: Tensor, index: Index, gallery: str) -> None:
    width = student.shape[1] if index.teacher is None else index.teacher.shape[1]
    if width != student.shape[1]:
        told = f"the student's vectors have the width {student.shape[1]}, those of the gallery {gallery} {width}"
        raise RelgraphError(f"{told}: relgraph align turns them into the teacher's space, --target-space teacher trains"
                            " them there")  # fmt: skip


def _index(run: TrainedRun, gallery: str, images: ImageSet, student: Tensor, teacher: Rows | None) -> Index:
    if gallery in ("teacher", "own"):
        if gallery == "teacher" and teacher is None:
            raise _no_teacher(run, images)
        return Index(teacher, student, images.true_labels.cpu(), torch.arange(len(images)))
    path = Path(gallery)
    if not path.exists():
        raise RelgraphError(f"a gallery is teacher, own, or the path of a store or a table of vectors, got {gallery}")
    return _of_table(run, path, images) if path.suffix.lower() in TABLES else _of_store(run, path, images)


def _no_teacher(run: TrainedRun, images: ImageSet) -> RelgraphError:
    if is_vectors(run.recipe.teacher) and run.recipe.uses_teacher:
        told = f"{run.recipe.teacher} has no vectors of the {images.split} images: expected --split train"
        return RelgraphError(f"{told}, --gallery own, a run with --holdout-classes, or a file that names them too")
    return RelgraphError(f"{run.run.path} was trained without a teacher: expected --gallery own")


def _of_store(run: TrainedRun, path: Path, images: ImageSet) -> Index:
    """Return the index of all images of a store; those of the run's own data set have labels."""
    contents = Contents.read(path)
    check_complete(path, contents)
    if run.teacher is None:
        raise RelgraphError(f"{path} is by the network {contents.teacher}, and {run.run.path} has none to compare with")
    _check_teacher(run, run.teacher, path, contents)
    store = EmbeddingStore(path, run.device)
    labels, own = torch.full((contents.images,), -1), torch.full((len(images),), -1)
    if contents.dataset != str(run.recipe.dataset):
        return Index(compared(run, store.view()), None, labels, own)
    parts = [part for part in run.splits() if in_original(run.data, part)]
    for part in parts:
        recipe, data = replace(run.recipe, views="independent"), replace(run.data, train=part)
        fitting_store(Wanted(recipe, data, run.teacher, run.device), path, contents)
        labels[part.index.cpu()] = _numbered(part, images)
    if in_original(run.data, images):
        own = images.index.cpu()
    whole = sum(map(len, parts)) == contents.images
    return Index(compared(run, store.view()), _student_rows(run, parts) if whole else None, labels, own)


def _check_teacher(run: TrainedRun, teacher: Teacher, path: Path, contents: Contents) -> None:
    """Raise RelgraphError if a store is of another teacher than the run's, or of one that reads images otherwise."""
    here = facts(run.recipe, run.data, teacher)
    for name in ("width", "fingerprint", "input_size", "mean", "std", "arguments"):
        if getattr(contents, name) != here[name]:
            there, own = (str(value)[:12] for value in (getattr(contents, name), here[name]))
            told = f"{FACTS[name]} is {there} in it, {own} in {run.run.path}"
            raise RelgraphError(f"{path} is an index of another teacher, {contents.teacher}: {told}")


def _student_rows(run: TrainedRun, parts: list[ImageSet]) -> Tensor:
    """Return the student's vectors of all images of the original training split, in its order."""
    rows = None
    for part in parts:
        vectors = run.vectors(part, teacher=False)[0]
        rows = empty_rows(sum(map(len, parts)), vectors.shape[1]) if rows is None else rows
        rows[part.index.cpu()] = vectors
    assert rows is not None
    return rows


def _numbered(part: ImageSet, images: ImageSet) -> Tensor:
    """Return the true labels of a split, numbered as the classes of the queries: -1 for classes of which none is."""
    numbers = {name: number for number, name in enumerate(images.classes)}
    table = torch.tensor([*(numbers.get(name, -1) for name in part.classes), -1])
    return table[part.true_labels.cpu()]


def _of_table(run: TrainedRun, path: Path, images: ImageSet) -> Index:
    """Return the index of a table of the teacher's vectors: images that it names, or all in their order, are known."""
    file = VectorFile.read(path)
    labels, own = torch.full((len(file.rows),), -1), torch.full((len(images),), -1)
    table = torch.from_numpy(file.rows)
    for part in run.splits():
        row = rows_of(file, run.recipe, run.data, part)
        labels[row[row >= 0]] = _numbered(part, images)[row >= 0]
        own = row if part.split == images.split else own
    return Index(compared(run, table), None, labels, own)
