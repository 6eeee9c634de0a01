"""The nodes of graphs: images, and the vectors that one network has of them, or student and teacher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from relgraph.analysis.export import Side
from relgraph.analysis.sources import Source
from relgraph.analysis.split_graph import SplitGraph, difference_pair, lone_pair, split_pair
from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.graph.pair import Pair, Texts, topology_of
from relgraph.graph.search import chosen_k
from relgraph.graph.topology import Chooser, Topology


class Nodes(NamedTuple):
    """The part of a network's outputs on N images that a graph of them needs.

    Attributes:
        x: Vectors, `(N, D)`, in a temporary file if they are large (see `files.empty_rows`).
        prediction: The class of the largest logit, `(N,)`; `None` where no loss trained a classifier for the classes.
        refine: From a graph of them to the vectors that the run's refinement makes, `(N, D)`; `None` where it has none.
    """

    x: Tensor
    prediction: Tensor | None = None
    refine: Callable[[Topology], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class NodeSet:
    """N images of a run's split, or of a store of embeddings, with the vectors of each network.

    Attributes:
        kind: What they are of, "run" or "store".
        path: Its path.
        dataset: Name of the data set.
        split: Name of the split; "" where a table does not tell.
        classes: Names of the classes.
        index: Each image's position in the data set's original split, or else in the table, `(N,)`.
        labels: True labels, `(N,)`, negative where unknown.
        networks: Nodes by "student" and "teacher", in this order, of which there is one at least.
        source: Whose vectors the teacher's are; "student" without a teacher.
        images: The images, where they are at hand.
        files: Paths of the images' files within the folder of the data set; `None` where they come from none.
    """

    kind: Literal["run", "store"]
    path: Path
    dataset: str
    split: str
    classes: tuple[str, ...]
    index: Tensor
    labels: Tensor
    networks: Mapping[str, Nodes]
    source: Source
    images: ImageSet | None = None
    files: list[str] | None = None


def check_graph(side: Side, graph: SplitGraph, threshold: float, first: int | None, neighbours: Chooser | None) -> None:
    """Raise RelgraphError if options of a graph do not fit, before its nodes are computed."""
    if side == "difference" and neighbours is not None:
        raise RelgraphError(f"in the difference each network chooses its own edges: expected none, got {neighbours!r}")
    if graph == "threshold" and not 0 < threshold <= 1:
        raise RelgraphError(f"the threshold of a correlation must be above 0 and at most 1, got {threshold}")
    if first is not None and first < 2:
        raise RelgraphError(f"a graph needs two images, got {first}")


def pair_of(
    nodes: NodeSet,
    side: Side,
    *,
    graph: SplitGraph = "knn",
    k: int | None = None,
    threshold: float = 0.5,
    neighbours: Chooser | None = None,
) -> Pair:
    """Return the graph pair of nodes, with what is known of them: `run_loading.run_pair` describes it.

    Of one network's nodes it is that network's graph alone.

    Raises:
        RelgraphError: if the graph does not fit the number of images, or its edges are those of nodes that are not
            there.
    """
    options: dict[str, Any] = {"graph": graph, "k": chosen_k(k, 8, len(nodes.index)), "threshold": threshold}
    name, *others = nodes.networks
    if not others:
        if neighbours not in (None, name):
            raise RelgraphError(f"there is the {name}'s graph alone, which has its own edges: got {neighbours!r}")
        pair = lone_pair(nodes.networks[name].x, name, **options)
    else:
        chooser: Chooser = neighbours or ("student" if side == "student" else "teacher")
        make = difference_pair if side == "difference" else partial(split_pair, neighbours=chooser)
        pair = make(*(part.x for part in nodes.networks.values()), **options)
    pair.source, pair.classes = nodes.source, list(nodes.classes)
    if nodes.split:
        pair.split = nodes.split
    for name, part in nodes.networks.items():
        _describe(pair[name], nodes)
        if part.prediction is not None:
            pair[name].prediction, pair[name].correct = part.prediction, part.prediction == nodes.labels
    return pair


def add_refined(pair: Pair, nodes: NodeSet) -> None:
    """Give the nodes of a pair, where its run has a refinement, `refined`: their vectors moved over its edges.

    It takes the memory of a vector for each edge.
    """
    for name, part in nodes.networks.items():
        if part.refine is not None:
            pair[name].refined = part.refine(topology_of(pair, (name, "relates", name)))


def _describe(store: Any, nodes: NodeSet) -> None:
    """Tell the nodes of a network what is known of their images."""
    store.image_id, store.y, images = nodes.index, nodes.labels, nodes.images
    if nodes.files is not None:
        store.file = Texts(nodes.files)
    if images is not None:
        store.update(images.masks)
        if bool((images.labels < 0).any()):
            store.labelled = (images.labels >= 0) & store.train_mask
