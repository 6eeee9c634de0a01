"""The commands as functions: the same names, the same options, and a `Run` for what `train` and `pretrain` make.

Where a command takes a spelling, a function takes the object itself as well: a network, a data set, a method.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, Unpack, get_args

import torch

from relgraph.analysis import layout as layouts
from relgraph.analysis.analysis import analyse, analyse_nodes, check_summary, write_summary
from relgraph.analysis.export import TABLES, check_pair, nodes_file, write_graph
from relgraph.analysis.galleries import evaluate_gallery
from relgraph.analysis.graph_tables import Side, about
from relgraph.analysis.layout import Layout, place
from relgraph.analysis.node_set import NodeSet, add_refined, check_graph, pair_of
from relgraph.analysis.nodes import check_attributes, measure
from relgraph.analysis.pictures import write_thumbnails
from relgraph.analysis.plots import learning_curve
from relgraph.analysis.report import check_page, write_report
from relgraph.analysis.run_loading import TrainedRun, check_side, chosen_side, evaluate_run
from relgraph.analysis.sources import Source, check_source
from relgraph.analysis.split_graph import SplitGraph
from relgraph.analysis.stored import stored_nodes
from relgraph.analysis.zero_shot import evaluate_zero_shot
from relgraph.deploy.aligning import Alignment, align_run, told_gain
from relgraph.deploy.index import is_index
from relgraph.deploy.predicting import Asked, Format, Predicted, format_of, no_classifier, predict_files
from relgraph.deploy.querying import Queried, queried
from relgraph.deploy.segmenting import segment_files
from relgraph.deploy.vector_table import Splits, VectorTable, is_table, write_vectors
from relgraph.errors import RelgraphError, unknown
from relgraph.files import check_empty, check_new, replacing
from relgraph.graph.pair import MATCHES, Pair, Texts
from relgraph.graph.search import chosen_k
from relgraph.graph.topology import Chooser
from relgraph.keywords import EmbedOptions, PretrainOptions, TrainOptions
from relgraph.names import load_student, own_code_of, own_spellings
from relgraph.networks.plain import PlainStudent, is_aligned, write_unaligned
from relgraph.options import check_whole
from relgraph.own_code import Own, permitting
from relgraph.printing import tell
from relgraph.processes import ProcessGroup
from relgraph.training import distillation, pretraining, stores
from relgraph.training.building import on_cuda
from relgraph.training.callbacks import Callback
from relgraph.training.caller import caller_kept
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.recipe import OBJECTS, Recipe, resolve
from relgraph.training.runs import AnyRecipe, RunDirectory, free_name

Split = Literal["train", "val", "test"]
ExportFormat = Literal["onnx", "pt2", "safetensors", "hub", "graphml", "gexf", "json", "csv", "parquet", "pt"]
STUDENT_FORMATS = ("onnx", "pt2", "safetensors", "hub")
Given = Mapping[str, Any]
AGAIN = OBJECTS | {"logger"}  # what a run that names code of one's own is given again
OF_COMMANDS = {
    "config": "read the file, and give its options",
    "devices": "torchrun --nproc-per-node N starts the script on each",
}


class Run:
    """A finished run, or a stopped one: its directory, its figures, its student, and the verbs on it.

    Args:
        path: The directory.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again by option: `student`, `teacher`, `dataset`, `method`; a spelling or the object.

    Raises:
        RelgraphError: if the directory is not a run.
    """

    def __init__(self, path: str | Path, *, allow_code: bool = False, **given: Any) -> None:
        _check_given(given)
        self._directory = RunDirectory.open(Path(path))
        self._allow_code, self._given = allow_code, given

    def __repr__(self) -> str:
        """Return the call that opens it."""
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The directory of the run."""
        return self._directory.path

    @property
    def _opened(self) -> TrainedRun:
        return TrainedRun(self.path, self._given)

    @property
    def recipe(self) -> AnyRecipe:
        """Every option of the run."""
        with _permitted(self._given, self._allow_code):
            return self._directory.stored(self._given)

    @property
    def result(self) -> dict[str, Any]:
        """The final figures, as in `result.json`.

        Raises:
            RelgraphError: if the run is not finished.
        """
        return self._directory.result()

    @property
    def metrics(self) -> list[dict[str, float]]:
        """One row of figures an epoch, by name."""
        return self._directory.read_metrics()

    @property
    def diagnostics(self) -> list[dict[str, float]]:
        """One row of measures for each step whose graphs were measured."""
        file = self._directory.diagnostics_file
        return self._directory.read_metrics(file) if file.is_file() else []

    def student(self) -> PlainStudent:
        """Return the best student, in evaluation mode: see `relgraph.load_student`."""
        own = {name: self._given.get(name) for name in ("student", "refine")}
        return load_student(self._directory.student_file, **own, allow_code=self._allow_code)

    def predict(self, images: str | Path | Sequence[str | Path], **options: Any) -> Predicted:
        """Return the most probable classes of images: see `relgraph.predict`."""
        return predict(self, images, **options)

    def evaluate(self, k: int | None = None, **options: Any) -> dict[str, Any]:
        """Return the accuracies of student and teacher: see `relgraph.evaluate`."""
        return evaluate(self, k, **options)

    def analyze(self, split: Split = "test", **options: Any) -> dict[str, Any]:
        """Return how the two networks' graphs of a split compare: see `relgraph.analyze`."""
        return analyze(self, split, **options)

    def align(self, **options: Any) -> Alignment | None:
        """Turn the student's vectors into the teacher's space: see `relgraph.align`."""
        return align(self, **options)

    def query(self, images: str | Path | Sequence[str | Path], **options: Any) -> Queried:
        """Return the images of an index that are nearest to images: see `relgraph.query`."""
        return query(self, images, **options)

    def export(self, output: str | Path, **options: Any) -> "Exported":
        """Write the student, or the graph of a split: see `relgraph.export`."""
        return export(self, output, **options)

    def report(self, output: str | Path = "report.html", **options: Any) -> Path:
        """Write a page on the run: see `relgraph.report`."""
        return report(self, output, **options)

    def resume(self, callbacks: Sequence[Callback] = ()) -> "Run":
        """Go on with a stopped run, as if it had not stopped, and return it."""
        verb = pretrain if isinstance(self.recipe, PretrainRecipe) else train
        return verb(resume=self.path, callbacks=callbacks, allow_code=self._allow_code, **self._given)


def _check_given(given: Given) -> None:
    """Raise RelgraphError for what is no code of one's own that a run can name."""
    for name in given.keys() - AGAIN:
        told = f"unknown option {name!r}: expected one of this function"
        raise RelgraphError(f"{told}, or code of a run that is given again ({', '.join(sorted(AGAIN))})")


class Exported(NamedTuple):
    """What `export` wrote.

    Attributes:
        path: The file or folder.
        images: Number of images in a graph, or on which a student was compared.
        notes: What a user may want to know, a few words each.
        difference: The largest relative difference of a student's outputs; `None` for a graph.
    """

    path: Path
    images: int
    notes: list[str]
    difference: float | None = None


def train(
    *, out: str | Path | None = None, resume: str | Path | None = None, preset: str | None = None,
    callbacks: Sequence[Callback] = (), allow_code: bool = False, **options: Unpack[TrainOptions],
) -> Run:  # fmt: skip
    """Train a student: views -> student and teacher -> graph pair -> matching -> loss.

    Without options the offline example is trained: scikit-learn's digits, a ResNet-8, and a teacher that was trained
    without labels and comes with the package.

    Args:
        out: Directory of the run; a new one under `runs/` if not given.
        resume: Run to go on with, as if it had not stopped; beside it only its code of one's own is given again.
        preset: A named set of options, which others change (`relgraph presets`).
        callbacks: Objects that are called after steps, after epochs and at the end (`relgraph.Callback`).
        allow_code: Whether code of one's own that is named in files, such as a run that is read, may be run.
        options: Those of `relgraph train`, with underscores; a student, teacher, data set or method may be an object.

    Raises:
        RelgraphError: for options that do not fit, data or weights that cannot be read, or a loss that is not a number.
            The results of earlier epochs are kept.
    """
    beside = {**options, "preset": preset} if preset else options
    new, stored = partial(resolve, options, preset), RunDirectory.recipe
    return _trained(new, stored, beside, out, resume, callbacks, allow_code)


def pretrain(
    *, out: str | Path | None = None, resume: str | Path | None = None, callbacks: Sequence[Callback] = (),
    allow_code: bool = False, **options: Unpack[PretrainOptions],
) -> Run:  # fmt: skip
    """Train a network from images without labels, a teacher of one's own, or SSKD's head of a given teacher.

    Args:
        out: Directory of the run; a new one under `runs/` if not given.
        resume: Run to go on with, as if it had not stopped; beside it only its code of one's own is given again.
        callbacks: Objects that are called after steps, after epochs and at the end (`relgraph.Callback`).
        allow_code: Whether code of one's own that is named in files, such as a run that is read, may be run.
        options: Those of `relgraph pretrain`, with underscores; network, teacher and data set may be objects.

    Raises:
        RelgraphError: for options that do not fit, data or weights that cannot be read, or a loss that is not a number.
    """
    new, stored = partial(resolve_pretraining, options), RunDirectory.pretraining
    return _trained(new, stored, options, out, resume, callbacks, allow_code)


def _trained(
    new: Callable[[], AnyRecipe], stored: Callable[[RunDirectory, Given], AnyRecipe], options: Given,
    out: str | Path | None, resume: str | Path | None, callbacks: Sequence[Callback], allow_code: bool,
) -> Run:  # fmt: skip
    """Train by a new recipe, or by that of the run to resume, beside which only code of one's own is given."""
    _check_of_python(options)
    for name, path in (("out", out), ("resume", resume)):
        if not isinstance(path, (str, os.PathLike, NoneType)):
            raise RelgraphError(f"{name} must be the path of a run, got {path!r}")
    with _permitted(options, allow_code):
        others = [name for name, spec in options.items() if name not in AGAIN or not _is_own(spec)]
        if resume is not None and others:
            raise RelgraphError(f"resume keeps the recipe of the run: give no other option with it, got {others[0]}")
        recipe = new() if resume is None else stored(RunDirectory.open(Path(resume)), options)
        path = Path(resume or out or free_name(Path("runs"), recipe))
        return run_recipe(recipe, path, resume=resume is not None, callbacks=callbacks, allow_code=allow_code)


def _check_of_python(options: Given) -> None:
    for name, instead in OF_COMMANDS.items():
        if name in options:
            raise RelgraphError(f"{name} is an option of the command line alone: {instead}")


def run_recipe(
    recipe: AnyRecipe, path: Path, *, resume: bool = False, callbacks: Sequence[Callback] = (), allow_code: bool = False
) -> Run:
    """Train by a recipe in the run directory at `path`, and return the run: what `train` and `pretrain` come to.

    Raises:
        RelgraphError: for data or weights that cannot be read or do not fit, or a loss that is not a number.
    """
    with permitting(everything=allow_code), caller_kept():
        if isinstance(recipe, PretrainRecipe):
            pretraining.pretrain(recipe, path, resume=resume, callbacks=callbacks)
        else:
            distillation.train(recipe, path, resume=resume, callbacks=callbacks)
    if ProcessGroup.launched().first:
        learning_curve(path)
    own = {name: getattr(recipe, name, None) for name in AGAIN}
    run = Run(path, allow_code=allow_code, **{name: spec for name, spec in own.items() if _is_own(spec)})
    if isinstance(recipe, Recipe) and recipe.align and ProcessGroup.launched().first:
        _align_trained(run)
    return run


def _align_trained(run: Run) -> None:
    """Align the student of a run that was trained with `align`, unless it is aligned already."""
    if ProcessGroup.launched().count > 1:  # whose device and memory the others still hold
        tell(f"a run of several processes is aligned when it is over: relgraph align {run.path}")
    elif not is_aligned(run.student()):
        found = run.align()
        assert found is not None
        tell(f"aligned with the vectors of {found.teacher}; {told_gain(found)}", *found.notes)


def _is_own(spec: Any) -> bool:
    """Return whether an option is an object of one's own, or spells one."""
    if isinstance(spec, (tuple, list)):
        return any(map(_is_own, spec))
    return not isinstance(spec, (str, int, float, NoneType)) or bool(own_spellings(str(spec)))


def embed(
    *, views: int = 1, dtype: Literal["float32", "float16"] = "float32", seed: int = 0, batch_size: int = 256,
    index_transform: str | None = None, out: str | Path | None = None, split: Splits | None = None,
    allow_code: bool = False, **options: Unpack[EmbedOptions],
) -> stores.Embedded | VectorTable:  # fmt: skip
    """Store a teacher's embeddings of a training set, once for all runs that follow, or write a table of vectors.

    Args:
        views: Views of every image: the image itself, and a fixed crop and flip for each further one.
        dtype: Type of the stored numbers.
        seed: Seed of the crops and flips.
        batch_size: Images at a time.
        index_transform: With which the store answers queries, beside its rows, which stay as they are: vectors are
            brought to length 1, then `centre` (the mean is subtracted), `pca:D` (D principal directions are kept then)
            or `none`, and divided by their length. What the store has if not given, `centre` for a new one.
        out: Directory of the store; one in the folder `embeddings` if not given. Or the file of a table for other
            programs, `.parquet`, `.csv` or `.npy` (see `relgraph.deploy.vector_table.write_vectors`).
        split: Whose images are in the table; all if not given.
        allow_code: Whether code of one's own that is named in files may be run.
        options: Those of `relgraph embed`, with underscores; teacher and data set may be objects.

    Raises:
        RelgraphError: for options that do not fit, or data or weights that cannot be read.
    """
    check_whole(views=views, batch_size=batch_size)
    _check_of_python(options)
    with _permitted(options, allow_code), caller_kept():
        recipe = resolve(options)
        if is_table(out, split, views=views, dtype=dtype, seed=seed, index_transform=index_transform):
            return write_vectors(recipe, Path(str(out)), split=split or "all", batch_size=batch_size)
        path = Path(out or stores.default_path(recipe, views, dtype, seed))
        chosen: dict[str, Any] = {"views": views, "dtype": dtype, "seed": seed, "batch_size": batch_size}
        return stores.store_embeddings(recipe, path, **chosen, index=index_transform)


def predict(
    run: Run | str | Path, images: str | Path | Sequence[str | Path], *, top: int = 1, out: str | Path | None = None,
    format: Format | None = None, masks: str | Path | None = None, overlay: bool = False, batch_size: int = 256,
    workers: int | None = None, device: Literal["auto", "cpu", "cuda"] = "auto", allow_code: bool = False, **given: Any,
) -> Predicted:  # fmt: skip
    """Return the most probable classes of images by the student of a run, or the classes of their pixels.

    A line on standard error names each file that cannot be read.

    Args:
        run: The run, its directory, or its `student.safetensors`.
        images: Files, folders, at any depth, and patterns such as `photos/*.jpg`.
        top: Number of classes of each image.
        out: File that they are written to as well, which must be new.
        format: By the file's suffix if not given.
        masks: New or empty folder for a map of the classes of each image's pixels, a PNG file of the image's size whose
            values are the classes' numbers, and `classes.json`, their names and colours.
        overlay: Whether each image is written there under the colours of its classes as well.
        batch_size: Images at a time; where pixels have classes, it is one.
        workers: Processes that decode images; if not given one a core, up to 8.
        device: Where to compute.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again: `student`, `teacher`, `dataset`, `method`.

    Raises:
        RelgraphError: if the run has no student or its classifier was not trained, no image can be read, an option does
            not fit, or a file cannot be written.
    """
    path = None if out is None else Path(out)
    form = format_of(path, format)
    check_whole(top=top, batch_size=batch_size)
    if path is not None:
        check_new(path)
    student = _student(run, allow_code, given)
    asked = _asked("predict", images, batch_size, workers, device)
    if (masks is not None and not student.of_pixels) or (overlay and masks is None):
        told = "an overlay is written beside masks" if masks is None else "this student gives a class to a whole image"
        raise RelgraphError(f"{told}: expected {'a folder for these' if masks is None else 'no folder for masks'}")
    with nullcontext() if path is None else replacing(path) as part:
        if student.of_pixels:
            found = segment_files(student, asked, top, None if masks is None else Path(masks), overlay)
        else:
            found = predict_files(student, asked, top)
        if part is not None and form is not None:
            part.write_text(found.text(form), encoding="utf-8", errors="surrogateescape")
    return found


def _asked(
    verb: str, images: str | Path | Sequence[str | Path], batch_size: int, workers: int | None, device: str
) -> Asked:
    target = torch.device("cuda" if on_cuda(device) else "cpu")
    named = dict.fromkeys(map(str, [images] if isinstance(images, (str, Path)) else images))
    return Asked([*named], verb, batch_size, Recipe(workers=workers).processes, target)


def _student(run: Run | str | Path, allow_code: bool, given: Given) -> PlainStudent:
    """Return the student of a run, which has a classifier."""
    _check_given(given)
    path = run.path if isinstance(run, Run) else Path(run)
    if isinstance(run, Run):
        given, allow_code = {**run._given, **given}, allow_code or run._allow_code
    pretrained = (path / "network.safetensors").is_file()
    student = None if pretrained else load_student(path, student=given.get("student"), allow_code=allow_code)
    if student is None or not student.classes:
        raise no_classifier(path)
    return student


def align(
    run: Run | str | Path, *, index: str | Path | None = None, dry_run: bool = False, undo: bool = False,
    before: Callable[[Alignment], object] | None = None, allow_code: bool = False, **given: Any,
) -> Alignment | None:  # fmt: skip
    """Turn the vectors of a run's student into its teacher's space, so that they ask the teacher's index.

    A rotation in closed form, fitted to the vectors of the training images and written into the student's file as a
    last layer (see `relgraph.deploy.aligning.align_run`). What it gains and loses is returned.

    Args:
        run: The run, or its directory.
        index: A store of the teacher's vectors of the training images; that which the run trained by, if not given,
            else the teacher is run on the images.
        dry_run: Whether nothing is written.
        undo: Whether the rotation is taken out of the file again, and nothing else done; `None` is returned.
        before: Called with what is gained and lost before anything is written; where it raises, nothing is.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again: `student`, `teacher`, `dataset`, `method`.

    Raises:
        RelgraphError: if the run cannot be opened or has no teacher, its student is aligned already, or not where that
            shall be undone, the store is of another teacher, width or images, or the file cannot be written.
    """
    with _reopened(run, allow_code, given) as again:
        if undo:
            if index is not None or dry_run:
                raise RelgraphError("undo takes an alignment back: expected neither index nor dry_run with it")
            with again._directory.locked():
                write_unaligned(again._directory.student_file)
            return None
        place = None if index is None else Path(index)
        return align_run(again._opened, index=place, dry_run=dry_run, before=before)


def query(
    run: Run | str | Path, images: str | Path | Sequence[str | Path], *, index: str | Path, k: int = 10,
    html: str | Path | None = None, images_in: str | Path | None = None, batch_size: int = 256,
    workers: int | None = None, device: Literal["auto", "cpu", "cuda"] = "auto", allow_code: bool = False, **given: Any,
) -> Queried:  # fmt: skip
    """Return the images of an index that are nearest to images, by the vectors of the student of a run.

    A line on standard error names each file that cannot be read.

    Args:
        run: The run, its directory, or its `student.safetensors`.
        images: Files, folders, at any depth, and patterns such as `photos/*.jpg`.
        index: A store of `relgraph.embed`, or a table `.npy` or `.parquet`, of vectors in the student's space.
        k: Number of answers to an image.
        html: File for a page with thumbnails, which must be new.
        images_in: Folder within which the names of a table are paths; that of the run's images if not given.
        batch_size: Images at a time.
        workers: Processes that decode images; if not given one a core, up to 8.
        device: Where to compute.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again: `student`, `teacher`, `dataset`, `method`.

    Raises:
        RelgraphError: if the run has no student, the index is of another space or width or has fewer than k images, no
            image can be read, or the page cannot be written.
    """
    path = None if html is None else Path(html)
    check_whole(k=k, batch_size=batch_size)
    if path is not None:
        check_new(path)
    asked = _asked("query", images, batch_size, workers, device)
    place = run.path if isinstance(run, Run) else Path(run)
    if (place / "recipe.yaml").is_file():
        with _reopened(run, allow_code, given) as again:
            recipe, inputs = again._directory.recipe(again._given), again._directory.inputs()
            return queried(again.student(), Path(index), asked, k, path, recipe, inputs, images_in)
    _check_given(given)
    student = load_student(place, student=given.get("student"), allow_code=allow_code)
    return queried(student, Path(index), asked, k, path)


def evaluate(
    run: Run | str | Path, k: int | None = None, *, gallery: str | Path | None = None, split: Split = "test",
    zero_shot: str | Path | None = None, cost: bool = False, allow_code: bool = False, **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the accuracies of student and teacher of a run on its test split, in percent.

    With a `gallery` it is instead, as `retrieval`, how the student answers queries against that index, and with
    `zero_shot` classes, of the same name, the accuracy by vectors of their names.

    Args:
        run: The run, or its directory.
        k: Neighbours that vote in the k-NN accuracy, 20 if not given; with a gallery those of which the overlap with
            the teacher's is told, 10 or as many as a smaller gallery has.
        gallery: "teacher" or "own", the images of the split by that network, or the path of a store of `relgraph embed`
            or of a table of vectors (see `relgraph.analysis.galleries.evaluate_gallery`).
        split: Whose images are queries of a gallery, or are classified by `zero_shot`.
        zero_shot: File with a class a line, `NAME` or `NAME: words` (see `relgraph.analysis.zero_shot`).
        cost: Whether what they cost to run is measured as well, see `relgraph.deploy.cost.run_cost`.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again: `student`, `teacher`, `dataset`, `method`.

    Raises:
        RelgraphError: if the run cannot be opened, or has no labels; without labels the cost alone is no error.
    """
    check_whole(k=k)
    with _reopened(run, allow_code, given) as again:
        opened = again._opened
        report: dict[str, Any] = {"run": str(again.path)}
        if gallery is not None:
            report["retrieval"] = evaluate_gallery(opened, str(gallery), split, k)
        if zero_shot is not None:
            report["zero_shot"] = evaluate_zero_shot(opened, Path(zero_shot), split)
        if gallery is zero_shot is None and split != "test":
            raise RelgraphError(f"a split is that of a gallery or of zero-shot classes: expected test, got {split}")
        if gallery is zero_shot is None and (opened.has_labels or not cost):
            report = evaluate_run(opened, 20 if k is None else k)
        if cost:
            from relgraph.deploy.cost import run_cost

            report["cost"] = run_cost(opened, again.student())
        return report


def analyze(
    run: Run | str | Path, split: Split | None = None, *, k: int | None = None, first: int | None = None, seed: int = 0,
    search: Literal["blocks", "faiss"] | None = None, source: Source = "teacher", out: str | Path | None = None,
    allow_code: bool = False, **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return how the k-NN graphs of student and teacher on a split compare, as `Analysis.summary` describes it.

    Args:
        run: The run, or its directory; or a store of `relgraph.embed`, or a table of vectors, `.npy` or `.parquet`,
            whose graph is analysed alone, the teacher's.
        split: Split of a run's data set, "test" if not given.
        k: Neighbours of each image; 10, or as many as fewer images have, if not given.
        first: Only so many images of the split, drawn evenly over its classes; the same ones each time.
        seed: Of the search for communities.
        search: How neighbours are found, both exact; faiss if it is installed and nothing is given.
        source: Whose vectors the teacher's graph is of: the frozen teacher's own, or the run's projection; with
            "student" there is the student's graph alone.
        out: JSON file that the figures are written to as well: a new one, or one of before.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again: `student`, `teacher`, `dataset`, `method`; with a store or a table `dataset`, the
            data set of its images, which gives them labels.

    Raises:
        RelgraphError: if the run or the store cannot be opened, there are too few images, or the file is another's.
    """
    check_whole(k=k, first=first)
    if out is not None:
        check_summary(Path(out))
    if (stored := _stored(run)) is not None:
        with _permitted(given, allow_code):
            summary = analyse_nodes(_stored_nodes(stored, split, first, source, given), k, seed, search).summary()
    else:
        with _reopened(run, allow_code, given) as again:
            summary = analyse(again._opened, split or "test", k, first, seed, search, source).summary()
    if out is not None:
        write_summary(summary, Path(out))
    return summary


def _stored(run: Run | str | Path) -> Path | None:
    """Return the path of a store of embeddings, or of a table of vectors; `None` for a run."""
    path = run.path if isinstance(run, Run) else Path(run)
    return path if is_index(path) else None


def _stored_nodes(path: Path, split: str | None, first: int | None, source: Source | None, given: Given) -> NodeSet:
    """Return the nodes of a store or a table, to which few options of a run apply."""
    check_source(source or "teacher", path)
    others = {"split": split, **{name: spec for name, spec in given.items() if name != "dataset"}}
    for name, value in others.items():
        if value is not None:
            raise RelgraphError(f"{path} is no run: expected no {name}, got {value}")
    return stored_nodes(path, given.get("dataset"), first)


def export(
    run: Run | str | Path, output: str | Path, *, format: ExportFormat | None = None, with_preprocessing: bool = False,
    int8: bool = False, licence: str | None = None,
    split: Splits | None = None, first: int | None = None, side: Side | None = None, source: Source | None = None,
    graph: SplitGraph = "knn", k: int | None = None, threshold: float = 0.5, neighbours: Chooser | None = None,
    attributes: Sequence[str] | None = None, layout: Layout | None = None, thumbnails: bool = False,
    allow_code: bool = False, **given: Any,
) -> Exported:  # fmt: skip
    """Write the student of a run for other programs, or its graph on a split for networkx, Gephi or PyTorch Geometric.

    A student is compared with what was written in the runtime of that format, on 64 test images of the run or as many
    as there are; where they differ by more than 1e-4 (relative), nothing is left.

    Args:
        run: The run, or its directory; or a store of `relgraph.embed`, or a table of vectors, `.npy` or `.parquet`,
            whose graph is written, the teacher's.
        output: File to write, which must be new; its ending is the format. A name that ends with `/` is a folder, the
            format `hub`.
        format: Of a student `onnx`, `pt2` (`torch.export`), `safetensors` (weights by the names of timm or torchvision,
            and `config.json`) or `hub` (a folder for the Hugging Face Hub); of a graph `graphml`, `gexf`, `json`, `pt`,
            or `csv` or `parquet`, a table of the edges with one of the nodes beside it: `nodes.csv` beside `edges.csv`,
            `graph_nodes.csv` beside `graph.csv`.
        with_preprocessing: Of a student: whether `onnx` and `pt2` read uint8 images of any size, RGB.
        int8: Of a student: whether weights and activations of `onnx` are in 8 bits, calibrated on 256 training images.
            It is not compared; `notes` have accuracy, neighbours and speed before and after.
        licence: Of a student: what the model card of `hub` says, an identifier of the Hub such as `mit`.
        split: Of a graph, like all that follow: split of a run's data set, or "all" three as one graph; "test" if not
            given.
        first: Only so many of its images, drawn evenly over the classes; the same ones each time.
        side: Both graphs and the cross graph between them ("pair", if not given), one graph, or their difference.
        source: Whose vectors the teacher's graph is of: the frozen teacher's own, or, of a pair if not given, which
            matches nodes of one width, the run's projection; with "student" there is the student's graph alone.
        graph: Which pairs are edges.
        k: Neighbours of each node; 8, or as many as fewer images have, if not given.
        threshold: Least magnitude of an edge's correlation.
        neighbours: Who chooses the edges; the side if not given, the teacher for the pair.
        attributes: What nodes carry (see `relgraph.to_networkx`).
        layout: Where nodes stand; t-SNE in GraphML and GEXF of up to 5,000 images if not given.
        thumbnails: Whether each image is written into the folder OUTPUT_thumbnails/, new or empty, as well.
        allow_code: Whether code of one's own that the run names may be run.
        given: Such code, given again: `student`, `teacher`, `dataset`, `method`; with a store or a table `dataset`, the
            data set of its images, which gives them labels.

    Raises:
        RelgraphError: if the run cannot be opened, an option does not fit, the student cannot be exported or is not the
            same in what was written, or that cannot be written.
    """
    check_whole(k=k, first=first)
    name = _format(output, format)
    of_graph: dict[str, Any] = {
        "split": split, "first": first, "side": side, "source": source, "graph": graph, "k": k, "threshold": threshold,
        "neighbours": neighbours, "attributes": attributes, "layout": layout, "thumbnails": thumbnails,
    }  # fmt: skip
    of_student: dict[str, Any] = {"with_preprocessing": with_preprocessing, "int8": int8, "licence": licence}
    known = signature(export).parameters
    kind, others = ("student", of_graph) if name in STUDENT_FORMATS else ("graph", of_student)
    for option, value in others.items():
        if value != known[option].default:
            raise RelgraphError(f"{output} is the {kind} of a run, for which there is no option {option}, got {value}")
    if kind == "graph":
        check_attributes(attributes or ())
        _check_targets(Path(output), name, thumbnails)
        nodes, of_graph["side"] = _nodes(run, of_graph, allow_code, given)
        return _export_graph(nodes, Path(output), name, **of_graph)
    if name != "hub":  # a folder must be new or empty anyway
        check_new(Path(output))
    if of_student.pop("int8"):
        return _export_int8(run, Path(output), name, **of_student, allow_code=allow_code, given=given)
    from relgraph.deploy.exporting import export_student

    with _reopened(run, allow_code, given) as again:
        worst, count = export_student(again._directory, Path(output), name, **of_student, given=again._given)
    return Exported(Path(output), count, [f"largest relative difference {worst:.1e}"], worst)


def _export_int8(
    run: Run | str | Path, output: Path, name: str, *, with_preprocessing: bool, licence: str | None, allow_code: bool,
    given: Given,
) -> Exported:  # fmt: skip
    from relgraph.deploy.quantised import export_int8, told_int8

    if name != "onnx":
        raise RelgraphError(f"int8 is of the format onnx, got {name}")
    if licence is not None:
        raise RelgraphError(f"a licence is of the format hub, got {licence} for onnx")
    with _reopened(run, allow_code, given) as again:
        found = export_int8(again._opened, again.student(), output, with_preprocessing=with_preprocessing)
    return Exported(output, found["images"], told_int8(found))


def _format(output: str | Path, format: str | None) -> str:
    """Return the format of what is written, by its name if none is given.

    Raises:
        RelgraphError: for an unknown one.
    """
    folder = str(output).endswith(("/", os.sep))
    name = format or ("hub" if folder else Path(output).suffix.removeprefix(".").lower())
    if name not in get_args(ExportFormat):
        raise unknown("format to export", name, get_args(ExportFormat))
    return name


def _check_targets(output: Path, name: str, thumbnails: bool) -> None:
    """Check that nothing is where a graph shall be: a table of before may hold edges that a user took away."""
    check_new(output, *([nodes_file(output)] if name in TABLES else []))
    if thumbnails:
        check_empty(_thumbnails(output))


def _thumbnails(output: Path) -> Path:
    return output.with_name(f"{output.stem}_thumbnails")


def _nodes(run: Run | str | Path, options: dict[str, Any], allow_code: bool, given: Given) -> tuple[NodeSet, Side]:
    """Return the nodes of the graph to export, and its side; the options by which they are chosen are taken out."""
    split, first, side, source = (options.pop(name) for name in ("split", "first", "side", "source"))
    stored = _stored(run)
    if stored is None:
        side, source = chosen_side(side, source)
    check_graph(side, options["graph"], options["threshold"], first, options["neighbours"])
    if stored is not None:
        if side not in (None, "teacher"):
            raise RelgraphError(f"{stored} has the teacher's graph alone: expected no --side, got {side}")
        with _permitted(given, allow_code):
            return _stored_nodes(stored, split, first, source, given), "teacher"
    with _reopened(run, allow_code, given) as again:
        opened = again._opened
        nodes = opened.node_set(opened.images(split or "test", first), source)
        check_side(opened, nodes, side)
        return nodes, side


def _export_graph(
    nodes: NodeSet, output: Path, name: str, *, side: Side, graph: SplitGraph, k: int | None, threshold: float,
    neighbours: Chooser | None, attributes: Sequence[str] | None, layout: Layout | None, thumbnails: bool,
) -> Exported:  # fmt: skip
    k = chosen_k(k, 8, len(nodes.index))
    pair = pair_of(nodes, side, graph=graph, k=k, threshold=threshold, neighbours=neighbours)
    measure(pair, attributes or (), k)
    if name != "pt":
        check_pair(pair, side, attributes, name)
    elif side != "difference":
        add_refined(pair, nodes)
    notes = [f"of {about(pair, side)['name']}", *_place(pair, layout, name, side)]
    if name == "pt" and len(pair.node_types) > 1 and side != "difference" and MATCHES not in pair.edge_types:
        notes.append("no cross graph, since student and teacher differ in width")
    count = len(nodes.index)
    if thumbnails:
        if nodes.images is None:
            raise RelgraphError(f"the images of {nodes.path} are not at hand: expected no thumbnails")
        folder = _thumbnails(output)
        paths = write_thumbnails(nodes.images, folder)
        for kind in pair.node_types:
            pair[kind].image = Texts(paths)
        notes.append(f"thumbnails in {folder}")
    write_graph(pair, output, name, side, attributes)
    return Exported(output, count, [*notes, *([f"nodes in {nodes_file(output)}"] if name in TABLES else [])])


def _place(pair: Pair, layout: Layout | None, name: str, side: Side) -> list[str]:
    """Give nodes their positions, and return a note on them for the user."""
    if layout is None and name in ("graphml", "gexf"):
        if len(pair[pair.node_types[0]].x) > layouts.TSNE_NODES:
            return [f"no positions (more than {layouts.TSNE_NODES:,} images: --layout tsne takes minutes)"]
        layout = "tsne"
    place(pair, layout or "none", side)
    return []


def report(
    runs: Run | str | Path | Sequence[Run | str | Path], output: str | Path = "report.html", *,
    split: Split | None = None, first: int | None = None, k: int | None = None, source: Source = "teacher",
    allow_code: bool = False, **given: Any,
) -> Path:  # fmt: skip
    """Write one HTML page on one run or several, which opens offline and loads nothing else, and return its path.

    Args:
        runs: Runs, or their directories.
        output: File to write: a new one, or a report of before.
        split: Split of the first run that trained a student; "test", or "train" where there are no test images.
        first: Only so many of its images, drawn evenly over its classes; the same ones each time.
        k: Neighbours of each image; 8, or as many as fewer images have, if not given.
        source: Whose vectors the teacher's graph is of: the frozen teacher's own, or the run's projection; with
            "student" there is the student's graph alone.
        allow_code: Whether code of one's own that the runs name may be run.
        given: Such code of the runs, given again: `student`, `teacher`, `dataset`, `method`.

    Raises:
        RelgraphError: if one is not a run, none can be read, or the file cannot be written or is another's.
    """
    check_whole(k=k, first=first)
    check_page(Path(output))
    several = [runs] if isinstance(runs, (Run, str, Path)) else list(runs)
    opened = [_again(run, allow_code, given) for run in several]
    named = list[str]()
    for run in opened:
        with suppress(RelgraphError):  # of one that cannot be read the report tells
            named += own_code_of(run.recipe)  # each by its own permission
    with permitting(named, everything=all(run._allow_code for run in opened)):
        known = {run.path: run._given for run in opened}
        places = [run.path for run in opened]
        write_report(places, Path(output), split=split, first=first, k=k, source=source, given=known)
    return Path(output)


@contextmanager
def _reopened(run: Run | str | Path, allow_code: bool, given: Given) -> Iterator[Run]:
    """Return a run with the code of one's own that was given again, which is permitted within."""
    again = _again(run, allow_code, given)
    with _permitted(again._given, again._allow_code):
        yield again


def _again(run: Run | str | Path, allow_code: bool, given: Given) -> Run:
    """Return a run with the code of one's own that is given again, besides what it was opened with."""
    known = run if isinstance(run, Run) else Run(run)
    return Run(known.path, allow_code=allow_code or known._allow_code, **{**known._given, **given})


@contextmanager
def _permitted(given: Given, allow_code: bool) -> Iterator[None]:
    """Permit that files name the code of one's own that is spelled here, or any."""
    several = {
        name: spec if name == "logger" and isinstance(spec, (tuple, list)) else [spec] for name, spec in given.items()
    }
    specs = [Own.of(spec, name) for name, parts in several.items() for spec in parts]
    texts = [text for spec in specs for text in own_spellings(str(spec))]
    with permitting(texts, everything=allow_code):
        yield
