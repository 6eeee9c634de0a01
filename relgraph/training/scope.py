"""The graph of the data set on which a run trains: found once from the teacher's own vectors, or a user's own edges."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.data.edge_files import EdgeList, read_edges, write_edges
from relgraph.data.neighbour_batches import ImageGraph, describe, neighbour_batches
from relgraph.errors import RelgraphError
from relgraph.files import digest
from relgraph.graph.search import Rows, check_finite, nearest_in_blocks
from relgraph.graph.topology import edges_of
from relgraph.methods import Method
from relgraph.methods.relational import Relational
from relgraph.training.recipe import Recipe
from relgraph.training.tasks import Task
from relgraph.training.vectors import image_key, in_original, names_of, original_size


@dataclass(frozen=True, eq=False)
class Scope:
    """The graph of the training images, and what is said and recorded of it.

    Attributes:
        graph: The graph, between positions in the training set.
        record: Its name, its fingerprint, and the figures of its batches.
        note: Lines for the user.
    """

    graph: ImageGraph
    record: dict[str, Any]
    note: str


def open_scope(recipe: Recipe, task: Task, vectors: Callable[[], Rows], fabric: Any, kept: Path | None) -> Scope:
    """Return the graph of a recipe's training images, the same on all processes.

    It is that of the recipe's file of edges, or of each image's k nearest others by Pearson correlation of the
    teacher's own `vectors`, which no label has changed. A run that goes on reads the file that it kept, if it has one.

    Raises:
        RelgraphError: if a file of edges does not fit the images, or the vectors are not finite.
    """
    data, file = task.data, kept if kept is not None and kept.is_file() else recipe.edges
    name = recipe.edges or f"{recipe.neighbours_of_each} nearest neighbours by the teacher's vectors"
    left_out = 0
    if file is None:
        rows = vectors()
        check_finite(rows, "teacher")
        near = nearest_in_blocks(rows, recipe.neighbours_of_each, progress="graph of the data set")[0]
        graph = ImageGraph.of_edges(edges_of(near.cpu()), len(data.train))
    else:
        graph, left_out = graph_of(read_edges(Path(file)), Path(file), recipe, data)
    graph = replace(fabric.broadcast(graph), hops=recipe.hops if recipe.refine else 0)  # rounding differs by machine
    labels = data.train.labels.cpu()
    drawn: Any = {"batch_size": recipe.batch_size, "labelled_share": recipe.labelled_share, "seed": recipe.seed,
                  "epoch": 0, "by_label": task.by_label, "drop_last": recipe.drop_last}  # fmt: skip
    batches, truth = neighbour_batches(graph, labels, **drawn), data.train.true_labels.cpu()
    figures = {**describe(batches, truth), "seeds_per_step": len(batches.seeds) / len(batches)}
    others = describe(epoch_batches(labels, **drawn), truth)
    parts = [graph.neighbours, graph.first, *([] if graph.weights is None else [graph.weights])]
    sha256 = digest(b"".join(part.numpy().tobytes() for part in parts))
    record = {"name": name, "fingerprint": sha256, "edges": len(graph.neighbours), **figures, "scope batch": others}
    beside = f", {left_out} edges of held-out images left out" if left_out else ""
    told = f"\ngraph of the data set: {name}, {len(graph.neighbours)} edges over {len(graph)} training images{beside}"
    return Scope(graph, record, told + _note(figures, others, graph.hops))


def save_graph(path: Path, graph: ImageGraph, index: Tensor) -> None:
    """Write a graph to a file of edges between positions in the original training split, `index` (N,) of each image."""
    write_edges(path, index.cpu()[graph.edge_index], graph.weights)


def graph_of(edges: EdgeList, path: Path, recipe: Recipe, data: DataSet) -> tuple[ImageGraph, int]:
    """Return the graph of a file's edges between training images, and how many edges to held-out images it has beside.

    Positions are those in the original training split, names those of image files, as of a teacher `vectors:FILE`.

    Raises:
        RelgraphError: if an image is not known, an edge joins an image with itself or stands twice, or none is left.
    """
    named = isinstance(edges.sources[0], str)
    known, index = _by_name(edges, path, recipe, data) if named else _by_index(edges, path, data)
    ends = torch.tensor([known(end) for end in chain(edges.sources, edges.targets)]).view(2, -1)
    own = (ends[0] == ends[1]).nonzero().flatten()
    if len(own):
        raise RelgraphError(f"{path}: expected edges between two images, edge {int(own[0])} joins "
                            f"{edges.sources[int(own[0])]} with itself")  # fmt: skip
    if (unique := torch.unique(ends, dim=1).shape[1]) < ends.shape[1]:
        raise RelgraphError(f"{path}: expected each edge once, found {ends.shape[1] - unique} again")
    ends = index[ends]
    kept = (ends >= 0).all(0)
    if not bool(kept.any()):
        raise RelgraphError(f"{path}: expected edges between training images, found none")
    weights = None if edges.weights is None else edges.weights[kept]
    return ImageGraph.of_edges(ends[:, kept], len(data.train), weights), int((~kept).sum())


Known = Callable[[Any], int]


def _by_index(edges: EdgeList, path: Path, data: DataSet) -> tuple[Known, Tensor]:
    """Return what numbers an image, here itself, and the training image `(M,)` of each number, -1 of a held-out one."""
    index = torch.full((original_size(data),), -1)
    index[data.train.index.cpu()] = torch.arange(len(data.train))
    ends: Any = chain(edges.sources, edges.targets)
    for end in ends:
        if not 0 <= end < len(index):
            told = f"expected positions from 0 to {len(index) - 1} in the training split"
            raise RelgraphError(f"{path}: {told}, found {end}")
    return int, index


def _by_name(edges: EdgeList, path: Path, recipe: Recipe, data: DataSet) -> tuple[Known, Tensor]:
    """Return the same for names: images are numbered as they are known."""
    names = [str(name) for name in dict.fromkeys(chain(edges.sources, edges.targets))]
    number, index = dict[str, int](), list[int]()
    places: list[str | Path] = []  # those of the training images first
    numbered = all(name.isdecimal() for name in names)  # in the original training split
    for images in (data.train, data.val, data.test):
        if len(images) and (not numbered or in_original(data, images)):
            files, folders = names_of(path, names, recipe, images)
            places += folders
            number |= {image_key(file): len(index) + at for at, file in enumerate(files)}
            index += range(len(files)) if images is data.train else [-1] * len(files)
    found = dict[str, int]()
    for name in names:
        keys = (image_key(str(Path(place) / name)) for place in places)
        at = next((number[key] for key in keys if key in number), None)
        if at is None:
            raise RelgraphError(f"{path}: expected names of training images, {name!r} is none")
        found[name] = at
    return found.__getitem__, torch.tensor(index)


def check_anchored(method: Method) -> None:
    """Raise RelgraphError unless all methods take edges of some images alone, and one of them reads edges."""
    parts = [(part.owner or type(part.method).__name__.lower(), part.method) for part in method.summands()]
    takes = "scope 'dataset' takes methods that are sums over images and their own edges, such as ega, sp, pkt or csd"
    for name, one in parts:
        if not one.anchored:
            raise RelgraphError(f"{takes}, or over images alone, such as kd: {name} compares a batch as a whole")
        if isinstance(one, Relational) and one.rule.dense:
            raise RelgraphError(f"{takes}, on a sparse graph: expected graph 'knn' of {name}, got all pairs")
    if not any(isinstance(one, Relational) for _, one in parts):
        raise RelgraphError(f"{takes}: {' and '.join(name for name, _ in parts)} reads no edges")


def _note(figures: dict[str, float], others: dict[str, float], hops: int) -> str:
    """Return what the batches are, beside those of scope batch, and how many epochs pass as many images."""
    size, seeds, steps = round(figures["images_per_step"]), figures["seeds_per_step"], int(figures["steps"])
    more = steps * size / (others["steps"] * others["images_per_step"])
    classes = [f"{found['classes_per_step']:.1f}" for found in (figures, others)]
    around = f", with all images within {hops} hops of them" if hops > 1 else ""
    return (
        f"\na step: {size} images of {classes[0]} classes (--scope batch: {classes[1]}), {seeds:.1f} of them seeds, "
        f"which alone have a loss{around}\nan epoch: {steps} steps, {more:.1f} times the student images of one of "
        f"--scope batch: give as many times fewer epochs to compare\neach image is seen {figures['least_visits']} to "
        f"{figures['most_visits']} times an epoch, {figures['mean_visits']:.1f} on average"
    )
