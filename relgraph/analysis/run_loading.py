"""A finished run, loaded again: its networks, and their outputs on a split."""

import os
import sys
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any

import torch
from torch import Tensor, nn

from relgraph.analysis.export import Side
from relgraph.analysis.node_set import Nodes, NodeSet, add_refined, check_graph, pair_of
from relgraph.analysis.retrieval import CUTS, retrieval
from relgraph.analysis.sources import Source, check_source, title
from relgraph.analysis.split_graph import SplitGraph
from relgraph.data.datasets import together
from relgraph.data.fingerprint import check_unchanged
from relgraph.data.images import SPLITS, ImageSet
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError, unknown
from relgraph.files import first_line
from relgraph.graph.pair import Pair
from relgraph.graph.refine import NodeRefinement
from relgraph.graph.topology import Chooser, Topology
from relgraph.methods import Output
from relgraph.names import is_vectors, load_student, open_student, refinement_in_file
from relgraph.networks.files import load_strictly, read_network
from relgraph.networks.heads import Head, layers_like
from relgraph.networks.plain import PlainStudent, VectorsAlone
from relgraph.networks.vectors import VectorFile, VectorTeacher
from relgraph.printing import tell
from relgraph.training.building import open_data, open_fabric, open_teacher
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.evaluation import accuracy, embed, knn_accuracy, linear_probe
from relgraph.training.feed import input_of
from relgraph.training.resuming import changed_code, check_frozen, network_of
from relgraph.training.runs import RunDirectory
from relgraph.training.tasks import Pixels, Retrieval
from relgraph.training.validation_graph import compares_features
from relgraph.training.vectors import vector_file, vectors_of

BATCH = 256
# Images whose features (of width 2,048: 64 MiB) and logits are held at once.
IMAGES_AT_ONCE = 32 * BATCH
SIDES = ("student", "teacher")
# Bytes of a network's embeddings in memory, at most: those of 1,281,167 images are in a file from width 210 on.
MEMORY_LIMIT = 2**30


class TrainedRun:
    """The best student of a run, its teacher and the teacher's head as they were in that epoch, and the run's data.

    Args:
        path: The directory of the run.
        given: Code of one's own that the run names, given again by option: a spelling, or the object.

    Raises:
        RelgraphError: if `path` is not a run, or a file of it is missing, truncated or does not fit the others; for
            code of one's own that was neither given again nor permitted.
    """

    def __init__(self, path: Path, given: Mapping[str, Any] | None = None) -> None:
        self.run, self._given = RunDirectory.open(path), given or {}
        self.recipe = self.run.recipe(given)
        self.data = open_data(self.recipe)
        self.device = open_fabric(self.recipe).device
        self.student, self.description = open_student(self.run.student_file, student=(given or {}).get("student"))
        self.student.to(self.device)
        if tuple(self.description["classes"]) != self.data.train.classes:
            counts = f"expected {len(self.description['classes'])}, got {len(self.data.train.classes)}"
            told = f"the classes of {self.recipe.dataset} are no longer those of the student in {path}"
            raise RelgraphError(f"{told}: {counts} or other names")
        best = load_checkpoint(self.run.best)
        self.epoch, weights = len(best["progress"]["rows"]), best["objective"]  # from 1
        if any(name.startswith("method.") and not name.startswith("method.parts.") for name in weights):
            raise RelgraphError(f"{self.run.best} is of a version of relgraph whose runs this one cannot read")
        self.inputs, self.checked = self.run.inputs(), set[str]()
        tell(*changed_code(self.inputs, self.recipe, str(path)), stream=sys.stderr)
        self.teacher = self.head = None
        head = {n.removeprefix("teacher_head."): t for n, t in weights.items() if n.startswith("teacher_head.")}
        self._rows = dict[str, VectorTeacher | None]()  # of a file of vectors, by split
        self._told = set[str]()  # splits of which it was told that the teacher's vectors are not known
        if head:
            width = None
            if not is_vectors(self.recipe.teacher):
                self.teacher = open_teacher(self.recipe).to(self.device)
                check_frozen(self.inputs, {"teacher": network_of(self.teacher)}, str(self.run.path))
                width = self.teacher.width
            self.head = load_strictly(Head.like(head, width), head, self.run.best).to(self.device)
        self.contrast_head = self._contrast_head(weights)
        self._projects = "project.weight" in head and self.contrast_head is None

    def _contrast_head(self, weights: Mapping[str, Tensor]) -> nn.Module | None:
        """Return the layers behind which a method compared the student's features with the teacher's own.

        Such a run trains no projection, so the nodes of its graphs are the vectors that its loss compared.
        `None` for others.
        """
        if not compares_features(self.recipe):
            return None
        own = {name.split(".projector.")[1]: t for name, t in weights.items() if ".projector." in name}
        head = layers_like(own) or nn.Identity()
        load_strictly(head, own, self.run.best)
        return head.to(self.device).eval()

    @cached_property
    def plain(self) -> PlainStudent:
        """The student as its file has it, which makes vectors in the space in which its method compared them.

        Aligned, they are in the teacher's own.

        Raises:
            RelgraphError: if it was aligned with another teacher.
        """
        student, refine = (self._given.get(name) for name in ("student", "refine"))
        found = load_student(self.run.student_file, student=student, refine=refine).to(self.device)
        aligned, known = found.info.get("align"), self.inputs.get("teacher", {}).get("fingerprint")
        if aligned is not None and aligned["fingerprint"] != known:
            told = f"{self.run.student_file} was aligned with another teacher than the run's, {aligned['teacher']}"
            raise RelgraphError(f"{told}: undo that by relgraph align {self.run.path} --undo")
        return found

    @cached_property
    def refinements(self) -> dict[str, NodeRefinement]:
        """What moves the vectors of "student" and "teacher" by their neighbours; empty where nodes were not refined."""
        tensors, info = read_network(self.run.student_file)
        if "refine" not in info:
            return {}
        build, found = refinement_in_file(self.run.student_file, self._given.get("refine")), {}
        for side, part, width in zip(SIDES, ("refine.", "teacher.refine."), info["refine"]["widths"], strict=True):
            own = {name.removeprefix(part): x for name, x in tensors.items() if name.startswith(part)}
            found[side] = build(info["refine"], own, width)
        return found

    def _refine(self, side: str, x: Tensor, of: str, images: ImageSet, topology: Topology) -> Tensor:
        """Return a network's vectors of images refined over a graph; `x` are the part `of` its outputs."""
        refinement, blocks = self.refinements[side], [x]
        if refinement.part != of:
            blocks = []
            for positions in torch.split(torch.arange(len(images)), IMAGES_AT_ONCE):
                output = self.outputs(images.select(positions), teacher=side == "teacher")[SIDES.index(side)]
                blocks.append(getattr(output, refinement.part))
        return refinement(torch.cat(blocks), topology)

    @cached_property
    def teacher_side(self) -> nn.Module:
        """The layers that the run learned on the teacher's own vectors `(N, D_t)`, to those that its method compared.

        With target_space teacher it is the identity.
        """
        tensors, info = read_network(self.run.student_file)
        head, own = (
            {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
            for part in ("teacher.head.", "teacher.projector.")
        )
        layers = nn.Sequential()
        if info["vectors"] == "embedding" and "project.weight" in head:
            layers.append(load_strictly(Head.like(head), head, self.run.student_file).project)
        projector = layers_like(own)
        if projector is not None:
            layers.append(load_strictly(projector, own, self.run.student_file))
        return layers.to(self.device).eval()

    @torch.no_grad()
    def vectors(self, images: ImageSet, *, teacher: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return the student's vectors of images, and the teacher's own ones, on the CPU; `None` without a teacher.

        The student's are those of its file, in the space in which its method compared; the teacher's become such by
        `teacher_side`. Of a teacher `vectors:FILE` they are known of images of the original training split, and of a
        split all of whose images it names. Without `teacher` it is not asked.
        """
        student = self._embedded(VectorsAlone(self.plain), self._prepare, images, "student")
        return student, self._teachers_own(images) if teacher else None

    @property
    def _prepare(self) -> Normalise:
        return Normalise(self.description["mean"], self.description["std"])

    def _embedded(self, network: nn.Module, prepare: Normalise, images: ImageSet, progress: str) -> Tensor:
        return embed(network, images, prepare, BATCH, self.device, progress, self.recipe.processes)

    def _teachers_own(self, images: ImageSet) -> Tensor | None:
        """Return the frozen teacher's own vectors of images, as far as they are known."""
        if self.teacher is not None:
            return self._embedded(self.teacher, input_of(self.teacher), images, "teacher")
        if not self.knows_teacher(images):
            return None
        found = torch.empty(len(images), self._vector_file.rows.shape[1])
        for split, own in zip(SPLITS, images.masks.values(), strict=True):
            if own.any():
                matched, index = self._rows[split], getattr(self.data, split).index
                assert matched is not None
                found[own] = matched.rows(torch.searchsorted(index, images.index[own]))
        return found

    def knows_teacher(self, images: ImageSet) -> bool:
        """Return whether the teacher's vectors of images can be had: by its network, or from a file of vectors."""
        if self.teacher is not None or not is_vectors(self.recipe.teacher):
            return self.teacher is not None
        found = (self._matched(split) for split, own in zip(SPLITS, images.masks.values(), strict=True) if own.any())
        return all(part is not None for part in found)

    def _matched(self, split: str) -> VectorTeacher | None:
        """Return a split's rows of the file of vectors, matched once, since all files are listed for their names."""
        if split not in self._rows:
            found = vectors_of(self.recipe, self.data, getattr(self.data, split), self._vector_file)
            if found is not None:
                check_frozen(self.inputs, {"teacher": network_of(found)}, str(self.run.path))
            self._rows[split] = found
        return self._rows[split]

    @cached_property
    def _vector_file(self) -> VectorFile:
        return vector_file(self.recipe)

    def split(self, name: str) -> ImageSet:
        """Return a split of the data by name, with the images that the run had.

        Raises:
            RelgraphError: for an unknown one, or if it has other images now.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        images: ImageSet = getattr(self.data, name)
        if name not in self.checked:
            told = check_unchanged(images, self.inputs["data"][name], str(self.run.path))
            if told is not None:
                tell(told, stream=sys.stderr)
            self.checked.add(name)
        return images

    def splits(self) -> list[ImageSet]:
        """Return the splits that have images."""
        return [self.split(name) for name in SPLITS if len(getattr(self.data, name))]

    def images(self, split: str, first: int | None = None) -> ImageSet:
        """Return the images of a split, or `first` of them drawn evenly over its classes (see `ImageSet.evenly`).

        Their `true_labels`, `(N,)`, are also those that were hidden from the run's training, or changed there. The
        split "all" has the images of the three.

        Raises:
            RelgraphError: for an unknown split, one without images, or one that has other images now than the run had.
        """
        images = together(self.splits()) if split == "all" else self.split(split)
        if len(images) == 0:
            raise RelgraphError(f"the split {split!r} of {self.recipe.dataset} has no images: expected another --split")
        return images if first is None else images.evenly(first)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels, and images to test by which networks can be judged."""
        known = self.data.of_pixels or bool((self.data.train.true_labels >= 0).any())
        return known and len(self.data.test) > 0

    def has_trained_classifier(self, network: str) -> bool:
        """Return whether a loss trained the classifier of "student" or "teacher" for images: else it says nothing."""
        if self.data.of_pixels:
            return False
        if network == "student":
            return self.recipe.learns_labels
        return self.recipe.reads_teacher_classifier and bool((self.data.train.labels >= 0).any())

    def source_of_teacher(self, source: Source) -> Source:
        """Return whose vectors the teacher's graph is of: where the loss read no projection, they are its own.

        Raises:
            RelgraphError: for an unknown source.
        """
        check_source(source)
        return source if self._projects or source == "student" else "teacher"

    @torch.no_grad()
    def outputs(self, images: ImageSet, *, teacher: bool = True) -> tuple[Output, Output | None]:
        """Return the outputs of student and teacher on images, on the CPU.

        The teacher's are `None` in a run without one, where its vectors are not known (see `vectors`), and without
        `teacher`. Embeddings are projected ones; in a contrastive run without labels, which trains no projection, they
        are the student's behind the method's head and the teacher's feature, which its loss compared.
        """
        own = self._embedded(self.student.backbone, self._prepare, images, "student")
        student = self._output(self.student.head, own, self.contrast_head)
        if self.head is None or not teacher:
            return student, None
        known = self._teachers_own(images)
        if known is None:
            if images.split not in self._told:
                told = f"has no network, and no vectors of the {images.split} images: the teacher is left out"
                tell(f"{self.recipe.teacher} {told}", stream=sys.stderr)
                self._told.add(images.split)
            return student, None
        return student, self._output(self.head, known, None if self.contrast_head is None else nn.Identity())

    def _output(self, head: Head, feature: Tensor, contrasted: nn.Module | None) -> Output:
        """Return the outputs for features; `contrasted` are layers behind which a method compared these."""
        embedding, logits = head(feature.to(self.device))
        if contrasted is not None:  # in place of projections
            embedding = contrasted(feature.to(self.device))
        return Output(embedding.cpu(), logits.cpu(), feature)

    @torch.no_grad()
    def dense_outputs(self, pixels: Tensor, *, teacher: bool = False) -> Output:
        """Return the student's outputs for uint8 images `(B, C, H, W)` with labels of pixels, or those of its teacher.

        Logits are of positions, where a loss trained them, and stage maps are there.
        """
        pixels = pixels.to(self.device)
        if not teacher:
            found: Output = self.student(self._prepare(pixels))
            return found if self.recipe.learns_labels else found._replace(logits=None)
        assert self.teacher is not None
        return self.teacher.features(input_of(self.teacher)(pixels))

    def node_set(self, images: ImageSet, source: Source = "teacher") -> NodeSet:
        """Return the `nodes` of student and teacher, with what is known of the images.

        Raises:
            RelgraphError: as `nodes`.
        """
        found = {n: one for n, one in zip(("student", "teacher"), self.nodes(images, source), strict=True) if one}
        seen = images.classes == self.data.train.classes  # those of unseen classes are never right
        networks = {
            name: one if seen and self.has_trained_classifier(name) else one._replace(prediction=None)
            for name, one in found.items()
        }
        of_teacher = self.source_of_teacher(source)
        for side in self.refinements.keys() & networks.keys():
            of = "feature" if (side, of_teacher) == ("teacher", "teacher") else "embedding"
            refine = partial(self._refine, side, networks[side].x, of, images)
            networks[side] = networks[side]._replace(refine=refine)
        return NodeSet(
            "run", self.run.path, str(self.recipe.dataset), images.split, tuple(images.classes), images.index,
            images.true_labels, networks, of_teacher if "teacher" in found else "student",
            images, self.data.file_names(images),
        )  # fmt: skip

    def nodes(self, images: ImageSet, source: Source = "teacher") -> tuple[Nodes, Nodes | None]:
        """Return the nodes of student and teacher, with the arg max of their logits.

        The student's are the embeddings of `outputs`. The teacher's are its own vectors or, with the source
        "projection", the embeddings of `outputs` as well; `None` with the source "student", and where `outputs` has
        none. Images go through both networks 8,192 at a time, and features and logits of no more are held.

        Raises:
            RelgraphError: if there are no images, for an unknown source, or if the temporary file cannot be written.
        """
        source, found = self.source_of_teacher(source), dict[int, tuple[Tensor, Tensor]]()
        for positions in torch.split(torch.arange(len(images)), IMAGES_AT_ONCE):
            part = images if len(positions) == len(images) else images.select(positions)
            for place, output in enumerate(self.outputs(part, teacher=source != "student")):
                if output is not None:
                    x = output.feature if place == 1 and source == "teacher" else output.embedding
                    assert x is not None and output.logits is not None
                    if place not in found:
                        rows = empty_rows(len(images), x.shape[1])
                        found[place] = rows, torch.empty(len(images), dtype=torch.long)
                    for whole, values in zip(found[place], (x.float(), output.logits.argmax(-1)), strict=True):
                        whole[positions] = values
        return Nodes(*found[0]), Nodes(*found[1]) if 1 in found else None


def evaluate_run(run: TrainedRun | Path, k: int = 20) -> dict[str, Any]:
    """Return the accuracies of student and teacher of a run on its test split, in percent.

    For each network: `top1` and `top5` of its head; k-NN (cosine, majority) and linear probe on its pooled features,
    from the images of the training split, with all their labels (`knn`, `linear`) and, where the run was given
    fewer of two classes or more, with those alone (`linear_few`, and `knn_few` with no more votes than a class has
    labels). Where the test images are of unseen classes, each is a query among all others by the network's vectors in
    the space that the method compared: `recall@1`, `recall@5`, `recall@10`, `mAP` and `mAP@R`; no figure where there
    are no two test classes, or no two images of one. Where pixels have classes, the figures of the scores of student
    and teacher: `miou`, `pixel_accuracy` and `iou_NAME` of each class.

    Raises:
        RelgraphError: if the run cannot be opened.
    """
    opened = run if isinstance(run, TrainedRun) else TrainedRun(run)
    if opened.data.of_pixels:
        return _pixel_figures(opened)
    if opened.data.unseen:
        return _unseen_figures(opened)
    train, test = opened.split("train"), opened.split("test")
    few, every = train.labels, train.true_labels
    if not opened.has_labels:
        raise RelgraphError(f"{opened.recipe.dataset} has no labels, by which networks could be judged")
    # Wrong labels can leave a single class of few, from which no probe learns.
    hidden = bool(((few < 0) & (every >= 0)).any()) and int(few[few >= 0].bincount().count_nonzero()) > 1
    # With 3 labels a class, 20 votes would be cast for wrong classes.
    fewest = int(few[few >= 0].bincount().clamp_min(1).min())
    counts = {"train": len(train), "labelled": int((few >= 0).sum()), "test": len(test)}
    voting = {"neighbours": min(k, int((every >= 0).sum())), "neighbours_few": min(k, fewest)}
    report: dict[str, Any] = {"run": str(opened.run.path), "images": counts, **voting}
    chosen = [("", every, k), *([("_few", few, min(k, fewest))] if hidden else [])]
    for name, known, asked in zip(("student", "teacher"), opened.outputs(train), opened.outputs(test), strict=True):
        if known is not None and asked is not None:
            assert known.feature is not None and asked.feature is not None and asked.logits is not None
            row = report[name] = accuracy(asked.logits, test.labels) if opened.has_trained_classifier(name) else {}
            for suffix, labels, votes in chosen:
                row[f"knn{suffix}"] = knn_accuracy(known.feature, labels, asked.feature, test.labels, k=votes)
                row[f"linear{suffix}"] = linear_probe(known.feature, labels, asked.feature, test.labels)
    return report


def _pixel_figures(run: TrainedRun) -> dict[str, Any]:
    train, test, teacher = run.split("train"), run.split("test"), run.teacher
    counts = {"train": len(train), "labelled": int((train.labels >= 0).sum()), "test": len(test)}
    report: dict[str, Any] = {"run": str(run.run.path), "images": counts}
    if run.recipe.learns_labels:
        task = Pixels(run.data, run._prepare, run.device, run.recipe.processes)
        report["student"] = task.measure(run.student, test)
    if teacher is not None and teacher.scores(test.classes, test.images.shape[-2:]):
        task = Pixels(run.data, input_of(teacher), run.device, run.recipe.processes)
        report["teacher"] = task.measure(teacher.features, test)
    return report


@torch.no_grad()
def _unseen_figures(run: TrainedRun) -> dict[str, Any]:
    test = run.images("test")
    labels, own = test.true_labels, torch.arange(len(test))
    counts = {"train": len(run.split("train")), "labelled": int((run.data.train.labels >= 0).sum()), "test": len(test)}
    report: dict[str, Any] = {"run": str(run.run.path), "images": counts, "held_out": run.data.held_out}
    scored = Retrieval(run.data, run._prepare, run.device, run.recipe.processes).scores(test)
    for name, vectors in zip(("student", "teacher"), run.vectors(test), strict=True):
        if vectors is not None and not scored:
            report[name] = {}
        elif vectors is not None:
            found = vectors if name == "student" else run.teacher_side(vectors.to(run.device)).cpu()
            report[name] = retrieval(found, found, labels, labels, own, [k for k in CUTS if k < len(test)])
    return report


def run_pair(
    path: Path | TrainedRun,
    *,
    split: str = "test",
    first: int | None = None,
    side: Side | None = None,
    source: Source | None = None,
    graph: SplitGraph = "knn",
    k: int | None = None,
    threshold: float = 0.5,
    neighbours: Chooser | None = None,
) -> Pair:
    """Return the graph pair of a split of a run, or of `first` of its images, with labels and predictions.

    Nodes are those of `TrainedRun.nodes`, unrefined, in the order of the split, and edges their correlations, whatever
    relations the run's method compares; `image_id` is an image's position in the data set's original split, `file` its
    path in the data set's folder, if it has one, and `train_mask`, `val_mask` and `test_mask` say of which split it is.
    Of a run with a refinement `refined` are the vectors that its method refined, moved over the edges of this graph.
    A network whose classifier no loss trained has no predictions. The teacher's nodes are its own vectors, or of the
    side "pair", which matches them with the student's, the run's projection, unless `source` says otherwise;
    `pair.source` is which. Where their width is not the student's, there is no cross graph. The source "student" gives
    its graph alone, and so does a run without a teacher.
    Edges are chosen by the side that is asked for, the teacher for the pair, unless `neighbours` names another; the
    side "difference" is the `difference_pair`, for which each network chooses its own. `path` is the run's, or the run
    that is open already.

    Raises:
        RelgraphError: if the run cannot be opened, has no teacher where one is asked for, its nodes have no one width
            by which they could be matched, or the graph does not fit the number of images.
    """
    side, source = chosen_side(side, source)
    check_graph(side, graph, threshold, first, neighbours)
    opened = path if isinstance(path, TrainedRun) else TrainedRun(path)
    nodes = opened.node_set(opened.images(split, first), source)
    check_side(opened, nodes, side)
    pair = pair_of(nodes, side, graph=graph, k=k, threshold=threshold, neighbours=neighbours)
    if side != "difference":
        add_refined(pair, nodes)
    return pair


def check_side(run: TrainedRun, nodes: NodeSet, side: Side) -> None:
    """Raise RelgraphError if the nodes of a run lack the teacher's, or one width, where a side of a pair needs it."""
    if "teacher" not in nodes.networks:
        if side != "student":
            told = "has no teacher's network" if is_vectors(run.recipe.teacher) else "was trained without a teacher"
            raise RelgraphError(f"{run.run.path} {told}: export its student's graph (--side student)")
        return
    own, width = (part.x.shape[1] for part in nodes.networks.values())
    if side == "pair" and own != width:
        told = f"the cross graph of a pair needs vectors of one width, got {own} of the student and {width} of"
        linear = run.recipe.head == "linear"
        if nodes.source == "teacher" and not linear:
            raise RelgraphError(f"{told} {title('teacher')}: take --source projection, or one graph, --side teacher")
        whose = f"the teacher's {'features' if linear else 'own head'} in {run.run.path}"
        raise RelgraphError(f"{told} {whose}: train with {'--head projection' if linear else f'--dim {width}'}")


def chosen_side(side: Side | None, source: Source | None) -> tuple[Side, Source]:
    """Return which side of a pair is asked for, and whose vectors it is of, each by default as the other wants it.

    Raises:
        RelgraphError: if they do not fit.

    >>> chosen_side("teacher", None), chosen_side(None, None), chosen_side(None, "student")
    (('teacher', 'teacher'), ('pair', 'projection'), ('student', 'student'))
    """
    side = side or ("student" if source == "student" else "pair")
    if source == "student" and side != "student":
        raise RelgraphError(f"the source student gives its graph alone: expected no --side, got {side}")
    return side, source or ("projection" if side == "pair" else "teacher")


def empty_rows(count: int, width: int) -> Tensor:
    """Return rows `(N, D)` float32 to be filled, in memory or, where that is too much, in a file.

    The file is in the folder of temporary files (`TMPDIR`), which is best none that itself lies in memory, and is
    mapped: the system keeps in memory what there is room for. It has no name any more once it is mapped, and is gone
    with the tensor.

    Raises:
        RelgraphError: if the temporary file cannot be opened, or the disk has no room for it.

    >>> empty_rows(3, 2).shape
    torch.Size([3, 2])
    """
    if 4 * count * width <= MEMORY_LIMIT:
        return torch.empty(count, width)
    try:
        with NamedTemporaryFile(prefix="relgraph-") as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be noticed by a signal that ends the program
                os.posix_fallocate(file.fileno(), 0, 4 * count * width)
            return torch.from_file(file.name, shared=True, size=count * width).view(count, width)
    except OSError as error:
        raise RelgraphError(f"a temporary file in {gettempdir()} cannot be written: {first_line(error)}") from error
