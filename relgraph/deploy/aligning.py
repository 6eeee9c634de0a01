"""The rotation of a student into its teacher's space: fitted in closed form, judged, and written into its file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from relgraph.analysis.retrieval import figures_and_nearest, share
from relgraph.analysis.run_loading import IMAGES_AT_ONCE, TrainedRun
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.images import ImageSet
from relgraph.data.index_transform import read_transform
from relgraph.deploy.neighbours import neighbours_among
from relgraph.errors import RelgraphError
from relgraph.graph.alignment import DirectionRotation, Moments, VectorTransform, rotation
from relgraph.graph.gallery import Search, nearest_in_gallery
from relgraph.names import is_vectors
from relgraph.networks.plain import PlainStudent, check_unaligned, write_aligned
from relgraph.printing import no_bar
from relgraph.training.vectors import in_original

LEAST = 3  # images, among which neighbours can be compared
JUDGED = 10_000  # images at most, evenly over the classes, each of which is a query among the others
HELD_OUT = 10  # every so many training images are judged where there are no validation images


class Alignment(NamedTuple):
    """What an alignment gains and loses, on images that it was not fitted to.

    Each figure of `figures` is of queries among the judged images, their own image left out: `recall@1` and `mAP` where
    there are labels, `overlap@10`, the share of the ten nearest images that teacher queries find as well, or of all but
    one where there are fewer (all in percent), and of student queries in the teacher's index `cosine`, the mean of a
    query and its own image there.

    Attributes:
        teacher: Name of the teacher.
        images: Number of training images that the rotation was fitted to.
        widths: Of the student's vectors before, and of the teacher's.
        transform: What the teacher's index does with a vector, as it was spelled.
        judged: Number of images that were judged, and of which split.
        figures: By what is asked: "teacher's index, before" (where the widths are equal) and "teacher's index, after",
            "own index, before" and "own index, after", "teacher itself".
        notes: What a user may want to know, a few words each.
        written: Whether the rotation is in the student's file.
    """

    teacher: str
    images: int
    widths: tuple[int, int]
    transform: str
    judged: tuple[int, str]
    figures: dict[str, dict[str, float]]
    notes: list[str]
    written: bool


class _Pair(NamedTuple):
    """The vectors of some images by student and teacher."""

    student: Tensor
    teacher: Tensor


class _Source:
    """The vectors of a run's images: the student's, and the teacher's from a store, its file of vectors or itself."""

    def __init__(self, run: TrainedRun, store: EmbeddingStore | None) -> None:
        self.run, self.store = run, store

    def knows(self, images: ImageSet) -> bool:
        """Return whether the teacher's vectors of a split can be had."""
        return in_original(self.run.data, images) or self.run.knows_teacher(images)

    def blocks(self, images: ImageSet, progress: str) -> Iterator[_Pair]:
        """Yield the vectors of images, some thousands at a time."""
        parts = torch.split(torch.arange(len(images)), IMAGES_AT_ONCE)
        for part in tqdm(parts, progress, leave=False, disable=no_bar(shown=len(parts) > 1)):
            yield self._of(images.select(part.to(images.labels.device)))

    def _of(self, images: ImageSet) -> _Pair:
        if self.store is not None and in_original(self.run.data, images):
            student, _ = self.run.vectors(images, teacher=False)
            return _Pair(student, self.store.view(0)[images.index.cpu()])
        student, teacher = self.run.vectors(images)
        assert teacher is not None
        return _Pair(student, teacher)


def align_run(
    run: TrainedRun, *, index: Path | None = None, dry_run: bool = False,
    before: Callable[[Alignment], object] | None = None,
) -> Alignment:  # fmt: skip
    """Fit the rotation of a run's student into its teacher's space, judge it, and write it into the student's file.

    `W = argmin |S W - T|_F` over matrices of orthonormal rows or columns, of the vectors of the training images about
    their means, each of length 1, as an index compares them, with a scale (`relgraph.graph.alignment.procrustes`, which
    tells what W is of a student that is wider than its teacher). Images are read once, and only products of vectors are
    held. From then on the student's vectors have the teacher's width. Neither network learns anything.

    Args:
        run: The run, opened.
        index: A store of the teacher's vectors of the training images, whose transform is then the student's as well.
            That which the run trained by, if not given; else the teacher is run on the images.
        dry_run: Whether nothing is written.
        before: Called with the figures before anything is written; where it raises, nothing is.

    Raises:
        RelgraphError: if the run has no teacher, its student is aligned already, the store is of another teacher, width
            or images, or a file cannot be written.
    """
    check_unaligned(run.run.student_file, run.plain.info)
    if "teacher" not in run.inputs:
        raise RelgraphError(
            f"{run.run.path} was trained without a teacher, with whose vectors its own could be aligned"
        )
    store = _store(run, index)
    known = None if store is None else read_transform(store.path)
    source = _Source(run, store)
    fitted, judged = _splits(run, source)
    moments = None
    for pair in source.blocks(fitted, "align"):
        moments = moments or Moments(pair.student.shape[1], pair.teacher.shape[1])
        moments.add(*(normalize(vectors, dim=-1) for vectors in pair))
    assert moments is not None
    mean = moments.means[1].float()
    found = DirectionRotation.like({**rotation(moments, scaled=True).state_dict(), "mean": mean})
    pairs = list(source.blocks(judged, "judge"))
    pair = _Pair(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    transform, spelling = known or (VectorTransform(mean), "centre")
    figures = _figures(pair, judged.true_labels.cpu(), found, transform)
    teacher = run.inputs["teacher"]
    told = {
        "teacher": teacher["name"], "fingerprint": teacher["fingerprint"], "width": moments.products.shape[1],
        "images": moments.count, "transform": spelling,
    }  # fmt: skip
    widths = moments.products.shape[0], moments.products.shape[1]
    alignment = Alignment(
        teacher["name"], moments.count, widths, spelling, (len(judged), judged.split), figures,
        _notes(run.plain, transform), False,
    )  # fmt: skip
    if before is not None:
        before(alignment)
    if not dry_run:
        with run.run.locked():
            write_aligned(run.run.student_file, found, transform, told)
    return alignment._replace(written=not dry_run)


def _store(run: TrainedRun, given: Path | None) -> EmbeddingStore | None:
    """Return the store of the teacher's vectors that is given, or by which the run was trained, if it is there."""
    stored = Path(run.recipe.embeddings) if run.recipe.teacher_mode == "stored" else None
    if given is None and (stored is None or is_vectors(run.recipe.teacher) or not stored.is_dir()):
        return None
    path = given or stored
    assert path is not None
    store, expected = EmbeddingStore(path), run.inputs["teacher"]
    if store.contents.fingerprint != expected["fingerprint"]:
        told = f"{path} is an index of {store.contents.teacher}, or of other weights of it"
        raise RelgraphError(f"{told}: expected the teacher of {run.run.path}, {expected['name']}")
    train = run.split("train")
    if int(train.index.max()) >= store.contents.images or (changed := store.first_changed(train)) is not None:
        image = store.contents.images if int(train.index.max()) >= store.contents.images else int(train.index[changed])
        told = f"{path} does not know the training images of {run.run.path}"
        raise RelgraphError(f"{told}: image {image} of the training split is not there, or another one")
    return store


def _splits(run: TrainedRun, source: _Source) -> tuple[ImageSet, ImageSet]:
    """Return the images that the rotation is fitted to, and those on which it is judged."""
    train, val = run.split("train"), run.split("val")
    if len(val) >= LEAST and source.knows(val):
        return train, val.evenly(JUDGED)
    held = torch.arange(len(train)) % HELD_OUT == 0
    if int(held.sum()) < LEAST:
        told = f"{LEAST} validation images or {LEAST * HELD_OUT} training images"
        raise RelgraphError(f"an alignment is judged on images that it was not fitted to: expected {told}")
    return train.select(~held), train.select(held.nonzero().flatten()).evenly(JUDGED)


def _figures(
    pair: _Pair, labels: Tensor, align: DirectionRotation, transform: VectorTransform
) -> dict[str, dict[str, float]]:
    gallery = transform(pair.teacher)
    after = transform(align(pair.student))
    asked = {"teacher's index, after": after, "own index, before": VectorTransform.fit(pair.student)(pair.student)}
    if pair.student.shape == pair.teacher.shape:
        asked = {"teacher's index, before": transform(pair.student), **asked}
    asked |= {"own index, after": after, "teacher itself": gallery}
    k = neighbours_among(len(gallery))
    judged = {name: _judged(queries, queries if name.startswith("own") else gallery, labels, k)
              for name, queries in asked.items()}  # fmt: skip
    ranked, found = judged["teacher itself"][1], {}
    for name, (figures, near) in judged.items():
        found[name] = {**figures, f"overlap@{k}": share(near, ranked)}
        if name.startswith("teacher's"):
            found[name]["cosine"] = float(torch.cosine_similarity(asked[name], gallery).mean())
    return found


def _judged(queries: Tensor, gallery: Tensor, labels: Tensor, k: int) -> tuple[dict[str, float], Tensor]:
    """Return how well queries find images of their label, nothing where no two have one, and the k nearest of each."""
    search = Search(queries, gallery, torch.arange(len(queries)))
    if not bool((labels[labels >= 0].bincount() > 1).any()):
        return {}, nearest_in_gallery(search, k)[0]
    found, near = figures_and_nearest(search, labels, labels, [1], k)
    return {name: found[name] for name in ("recall@1", "mAP")}, near


def _notes(student: PlainStudent, transform: VectorTransform) -> list[str]:
    """Return a warning where the student's backbone is narrower than the index."""
    width, dimensions = student.backbone.width, transform.dimensions
    if width >= dimensions:
        return []
    told = f"the student's backbone has {width} features, the index {dimensions} dimensions: its vectors lie in {width}"
    return [f"{told} of them, which costs precision; a wider student, or an index of pca:{width}, has no such gap"]


def told_gain(found: Alignment) -> str:
    """Return in a few words what an alignment gained: its first figure, of queries in the teacher's index.

    >>> told_gain(Alignment("t", 9, (4, 4), "centre", (20, "val"), {"teacher's index, after": {"mAP": 8.2}}, [], True))
    "mAP in the teacher's index 8.20 % on 20 val images"
    """
    after, before = (found.figures.get(f"teacher's index, {when}", {}) for when in ("after", "before"))
    name = "mAP" if "mAP" in after else next(name for name in after if name.startswith("overlap"))
    earlier = f"{before[name]:.2f} -> " if name in before else ""
    return f"{name} in the teacher's index {earlier}{after[name]:.2f} % on {found.judged[0]} {found.judged[1]} images"
