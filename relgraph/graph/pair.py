"""The graph pair of a batch as a PyTorch Geometric object, the forms in which it is computed, and what reads it.

Forms are ways to compute the same comparison of two graphs, with or without their matrices.

- "matrix": the weights of all pairs, `(N, N)`, from which sparse graphs take their edges.
- "factored": products `(D, D)` in place of all pairs (`relgraph.graph.factored`).
- "blocked": a block of rows at a time, forward and backward at once; for a sparse graph the neighbours are found in
  blocks, and only the weights of the edges are computed.
- "auto": factored where that exists and is cheaper, blocked where the matrices would be large, else the matrix.

Values and gradients are the same to rounding; where neighbours of a node are equally near, such as all of one without
variance, another of them may be taken. All forms but the matrix can be differentiated once. The parts determine
which forms are available: see `Relation.forms`, and `Rule.blocked` for sparse graphs.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.blocks import learns
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.refine import Refinement
from relgraph.graph.search import Rows, degenerate_in_blocks, edge_weights, prepared
from relgraph.graph.topology import ALL_PAIRS, Edges, Graph, Rule, Topology, make_rule
from relgraph.outputs import BatchEdges
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

Pair = Any  # a HeteroData: torch_geometric takes a second to import, so only where a pair is built
EdgeType = tuple[str, str, str]
STUDENT: EdgeType = ("student", "relates", "student")
TEACHER: EdgeType = ("teacher", "relates", "teacher")
MATCHES: EdgeType = ("teacher", "matches", "student")
# Up to this number of nodes all pairs are listed as edges. The list is a constant that batches share; for more nodes it
# would be four times as large as the matrix (N = 2,896: 134 MB beside 34).
LISTED = 512
# Lists of all pairs that this module made: what tells them from lists of parts, which PyG makes, without reading them.
OWN_LISTS = WeakTensorKeyDictionary()

# What needs embeddings of one width, and how they get it.
MATCHING = "matching nodes needs embeddings of one width: project student and teacher to it"
AGAINST = (
    "relating the student's nodes to the teacher's needs embeddings of one width: project the student to the teacher's "
    "(--target-space teacher, or a linear layer)"
)


class Texts(list[str]):
    """One text for each node, of which PyG selects those of a part of the graph as it selects rows of a tensor.

    >>> Texts("abc")[torch.tensor([True, False, True])]
    ['a', 'c']
    """

    def __getitem__(self, which: Any) -> Any:
        """Return the text at a position, or those that a mask or positions in a tensor choose."""
        if not isinstance(which, Tensor):
            return super().__getitem__(which)
        chosen = which.nonzero().flatten() if which.dtype == torch.bool else which
        return Texts(map(super().__getitem__, chosen.tolist()))


Form = Literal["auto", "matrix", "factored", "blocked"]
FORMS: tuple[Form, ...] = get_args(Form)

# Size of the matrix of all pairs above which "auto" avoids it, 2,896 nodes. Blocked, at width 256 on one thread of an
# AMD EPYC, 2,048 nodes take 0.7 (PKT) to 1.2 times as long (RKD's distances), 4,096 nodes 0.5 to 0.8 times (n = 5).
LARGEST_MATRIX = 2**23


@dataclass(frozen=True)
class PairBuilder:
    """Builds the graph pair of a batch: holds the arguments of `graph_pair` except the nodes.

    Attributes:
        topology: The rule that selects the edges.
        kernel: The kernel that weighs them.
        refinement: Moves the nodes before they are matched.
        match: Whether there is a cross graph.
        within: Whether the student's nodes are related to each other.
        messages: The edges over which nodes are refined, where they are others than those that are compared.
        form: How the pair is computed; "auto" chooses one of `forms` by the number of nodes.
        forms: The forms of all pairs that the reader of the pair supports, except "auto".
        crossing: Nodes for each column of the wider network above which "auto" takes the factored form: on a CPU EGA's
            is as fast as the matrix at 2 to 3, for widths 64 and 256; that of rows divided by their norms, with twice
            the products, at 7 to 8.
    """

    topology: Rule = ALL_PAIRS
    kernel: Kernel = pearson
    refinement: Refinement | None = None
    match: bool = True
    form: Form = "auto"
    forms: tuple[Form, ...] = ("matrix",)
    crossing: int = 3
    within: bool = True
    messages: Edges | None = None

    def __call__(
        self, student: Tensor, teacher: Tensor, processes: ProcessGroup = SINGLE_PROCESS,
        edges: BatchEdges | None = None,
    ) -> Pair:  # fmt: skip
        """Return the pair of nodes `(N, D_s)` and `(N, D_t)`; in the factored form, they may be one process's rows.

        With `edges` it has these, in place of those that a sparse topology would find, and nodes are refined over
        their messages.

        Raises:
            RelgraphError: as `graph_pair`.
        """
        from relgraph.graph.pyg import HeteroData

        if edges is not None:
            given = Edges(edges.edge_index, edges.anchors, edges.degree, weights=edges.weights)
            moved = None if self.refinement is None else messages_of(edges, len(student))
            return replace(self, topology=self.topology.over(given), messages=moved)(student, teacher, processes)
        check_nodes(student, teacher, one_width=self.match, remedy=MATCHING if self.within else AGAINST)
        if student.ndim != 2:
            raise RelgraphError(f"a graph pair holds one batch (N, D), got {tuple(student.shape)}")
        pair, kernel, dense = HeteroData(), self.kernel, self.topology.dense
        pair.form = form = self.form_of(student, teacher, processes.count)
        pair.graph = "dense" if dense else "sparse"
        one, other = pair["student"], pair["teacher"]
        one["x"], other["x"] = student, teacher
        if form == "blocked" and not dense:
            self._add_edges(pair, prepared(student, kernel), prepared(teacher, kernel))
            return pair
        s, t = kernel.nodes(student, processes), kernel.nodes(teacher, processes)
        one["degenerate"], other["degenerate"] = kernel.degenerate(s), kernel.degenerate(t)
        if form == "matrix":
            self._add_matrices(pair, s, t)
            return pair
        one["prepared"], other["prepared"] = s, t
        if form == "factored":
            pair.held_by = processes
        return pair

    @cached_property
    def known_forms(self) -> tuple[Form, ...]:
        """The forms that the pair supports, except "auto"."""
        if self.refinement is not None:
            return ("matrix",)
        if self.topology.dense:
            return self.forms
        blocked = self.topology.blocked and not learns(self.kernel.product, self.kernel.finish)
        return ("matrix", "blocked") if blocked else ("matrix",)

    def form_of(self, student: Tensor, teacher: Tensor, processes: int = 1) -> Form:
        """Return the form for these nodes, never "auto"; they may be the rows of one of `processes` processes.

        Of a batch of graphs, `(B, N, D)`, it is that of each of them: matrices of all would be held at once.

        >>> small, large = torch.zeros(64, 256), torch.zeros(1024, 256)
        >>> builder = PairBuilder(forms=("matrix", "factored", "blocked"))
        >>> builder.form_of(small, small), builder.form_of(large, large)
        ('matrix', 'factored')
        """
        if self.form != "auto":
            return self.form
        known, count = self.known_forms, processes * student.shape[-2]
        if "factored" in known and count > self.crossing * max(student.shape[-1], teacher.shape[-1]):
            return "factored"
        numbers = student.shape[:-2].numel() * count**2
        return "blocked" if "blocked" in known and numbers > LARGEST_MATRIX else "matrix"

    def of_graphs(self, student: Tensor, teacher: Tensor) -> "PairBuilder":
        """Return the builder of each of a batch of graphs, `(B, N, D)`, in the form that suits all of them."""
        return replace(self, form=self.form_of(student, teacher))

    @property
    def mapped(self) -> bool:
        """Whether `torch.vmap` builds the pairs of a batch of graphs, in this form: if not, they need a loop."""
        return self.topology.dense or (self.topology.mapped and self.form == "matrix")

    def pairs(self, student: Tensor, teacher: Tensor) -> list[Pair]:
        """Return the pair of each of a batch of graphs, `(B, N, D)`: all in one form.

        Raises:
            RelgraphError: as `graph_pair`.
        """
        check_nodes(student, teacher, one_width=self.match, remedy=MATCHING if self.within else AGAINST)
        builder = self.of_graphs(student, teacher)
        return [builder(*graph) for graph in zip(student, teacher, strict=True)]

    def _add_matrices(self, pair: Pair, s: Tensor, t: Tensor) -> None:
        """Store the weights that the matrices of prepared nodes hold, and refined nodes."""
        kernel, dense = self.kernel, self.topology.dense
        edges: Topology = ALL_PAIRS
        # The student's own graph may also be needed to choose the edges.
        needed = self.within or not dense or self.refinement is not None
        student = kernel.matrix(s, s) if needed else s
        teacher = kernel.matrix(t, t)
        if not dense:
            edges = self.topology(student, teacher, kernel)
        if self.refinement is not None:
            over = edges if self.messages is None else self.messages
            self._refine(pair, self.refinement, student, teacher, over)
            s, t = kernel.nodes(pair["student"]["refined"]), kernel.nodes(pair["teacher"]["refined"])
        if not dense:  # of all pairs the matrices are the weights
            student, teacher = edges.pick(student), edges.of_teacher(edges.pick(teacher))
        found = [(STUDENT, student, edges)] if self.within else []
        found.append((TEACHER, teacher, edges))
        if self.match:
            across, joined = kernel.matrix(s, t), edges
            if not dense:
                joined = edges.with_own()
                across = joined.pick(across)
            found.append((MATCHES, across, joined))
        _store(pair, found)

    def _refine(self, pair: Pair, refinement: Refinement, student: Tensor, teacher: Tensor, over: Topology) -> None:
        """Store the nodes that are moved over a topology, from the matrices of both networks' weights."""
        one, other = pair["student"], pair["teacher"]
        one["refined"] = refinement.refine(refinement.student, one.x, over.pick(student), over)
        # Matching trains only the student's refinement: the teacher's must not be trained to make matching easier.
        with torch.no_grad():
            weights = over.of_teacher(over.pick(teacher))
            other["refined"] = refinement.refine(refinement.teacher, other.x, weights, over)

    def _add_edges(self, pair: Pair, s: Rows, t: Rows) -> None:
        """Store the edges that are found in blocks, and their weights."""
        kernel = self.kernel.of_prepared
        pair["student"].degenerate = degenerate_in_blocks(s, kernel)
        pair["teacher"].degenerate = degenerate_in_blocks(t, kernel)
        edges = self.topology.find(s, t, kernel)
        assert isinstance(edges, Edges)
        ends = [(STUDENT, s, s, edges)] if self.within else []
        ends.append((TEACHER, t, t, edges))
        if self.match:
            ends.append((MATCHES, s, t, edges.with_own()))
        found = [(kind, edge_weights(x, y, listed.edge_index, kernel), listed) for kind, x, y, listed in ends]
        _store(pair, [(k, edges.of_teacher(w) if k == TEACHER else w, listed) for k, w, listed in found])


def messages_of(edges: BatchEdges, count: int) -> Edges:
    """Return the edges over which a batch of `count` images is refined: every image receives what is sent to it."""
    given = edges if edges.messages is None else edges.messages
    return Edges(given.edge_index, count, weights=given.weights)


def check_form(form: str, known: tuple[Form, ...], what: str) -> None:
    """Raise RelgraphError for an unknown form, or one that `what` does not support.

    >>> check_form("factored", ("matrix", "blocked"), "PKT")
    Traceback (most recent call last):
    relgraph.errors.RelgraphError: PKT has the forms auto, matrix, blocked, got 'factored'
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    if form != "auto" and form not in known:
        raise RelgraphError(f"{what} has the forms {', '.join(('auto', *known))}, got {form!r}")


def graph_pair(
    student: Tensor,
    teacher: Tensor,
    *,
    topology: Graph = ALL_PAIRS,
    kernel: Kernel = pearson,
    refinement: Refinement | None = None,
    image_id: Tensor | Sequence[int] | None = None,
    y: Tensor | Sequence[int] | None = None,
    match: bool = True,
    form: Form = "auto",
) -> Pair:
    """Return student and teacher of one batch as a `HeteroData` of two graphs and the cross graph between them.

    Node types `student` and `teacher` hold `x` (N, D), `degenerate` (N,), true where the prepared node is zero (for
    Pearson: it has no variance) and so has weight 0 to every node, `image_id` and `y` if given, and with a refinement
    `refined` (N, D), the teacher's without gradient. Edge types are `(student, relates, student)`, `(teacher, relates,
    teacher)` and `(teacher, matches, student)`. Each holds `edge_index` (2, E), sources (candidates) above targets
    (anchors), and `edge_weight` (E,); on sparse topologies the cross graph joins each student node with its own teacher
    node (the first N edges) and with the teacher nodes of its neighbours. On all pairs `edge_index` holds N^2 edges,
    one list for all edge types, and the weights are a view of the matrix (see `adjacency`); of more than 512 nodes,
    where the list would be four times the matrix, each edge type holds `adj` (N, N) instead, row = source, column =
    target, as PyG's `to_dense_adj`, PyG counts no edges, and `with_edges` lists them on request. Nothing is copied: the
    weights are the tensors that the loss compares, gradient included. With `match=False` there is no cross graph, and
    the widths of student and teacher may differ.

    `form` selects how it is computed (`relgraph.graph.pair`), and `pair.form` is the form that was used; `pair.graph`
    is "dense" or "sparse". The edges of sparse graphs are found in matrices, or in blocks ("blocked", which "auto"
    selects for many nodes), with the same result but for ties. All pairs have matrices, unless "factored" or "blocked"
    is requested: the pair then holds only the nodes, with `prepared` (N, D), the nodes as prepared by the kernel, and
    no edges (`has_weights`).

    Of a batch of graphs, `(B, N, D)`, such as those of the positions of B images, it is a `torch_geometric.data.Batch`
    of their pairs, joined in new tensors; `y` and `image_id` are then `(B, N)`.

    Raises:
        RelgraphError: if the two are not (N, D), or (B, N, D), of the same N and D (to match nodes across the networks,
            both need a projection to one width), for a kernel or a topology that is none, if the topology does not fit
            N, `y` or `image_id` do not fit the nodes, or for a form that the topology or a refinement does not
            support.

    >>> pair = graph_pair(torch.randn(4, 8), torch.randn(4, 8))
    >>> pair.num_edges, pair["teacher", "matches", "student"].edge_weight.shape
    (48, torch.Size([16]))
    >>> images = graph_pair(torch.randn(2, 9, 8), torch.randn(2, 9, 8))  # nine positions of each of two
    >>> images.num_graphs, images["student"].batch.bincount(), images[1]["student"].x.shape
    (2, tensor([9, 9]), torch.Size([9, 8]))
    """
    if not isinstance(kernel, Kernel):
        raise RelgraphError(f"the kernel of a graph pair is a Kernel, such as pearson or gaussian(0.4), got {kernel!r}")
    rule = make_rule(topology)
    form_of_pair: Form = "matrix" if form == "auto" and rule.dense else form
    builder = PairBuilder(rule, kernel, refinement, match, form_of_pair, ("matrix", "factored", "blocked"))
    kind = "a graph pair of all pairs" if rule.dense else "a sparse graph pair"
    check_form(form, builder.known_forms, kind if refinement is None else "a graph pair with a refinement")
    check_nodes(student, teacher)
    batched = student.ndim == 3
    pairs = builder.pairs(student, teacher) if batched else [builder(student, teacher)]
    for name, values in (("image_id", image_id), ("y", y)):
        if values is not None:
            values, shape = _numbers(name, values), student.shape[:-1]
            if values.shape[: len(shape)] != shape:
                expected = f"{name} of a batch of graphs must be (B, N)" if batched else f"{name} must be (N,)"
                raise RelgraphError(f"{expected} = {tuple(shape)}, got {tuple(values.shape)}")
            for pair, own in zip(pairs, values if batched else (values,), strict=True):
                pair["student"][name] = pair["teacher"][name] = own
    return batch_of(pairs) if batched else _with_own_list(pairs[0])


def _numbers(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        raise RelgraphError(f"{name} must hold numbers, got {type(values).__name__}") from error


def _with_own_list(pair: Pair) -> Pair:
    """Give a pair of all pairs a list of its edges that it shares with no other, so that it may be changed in place."""
    listed = [pair[kind] for kind in pair.edge_types if "edge_index" in pair[kind]]
    if listed and pair.graph == "dense":
        own = _noted(listed[0]["edge_index"].clone())
        for store in listed:
            store["edge_index"] = own
    return pair


def batch_of(pairs: list[Pair]) -> Pair:
    """Return pairs as one `torch_geometric.data.Batch`, whose item i, or `get_example(i)`, is pair i."""
    from relgraph.graph.pyg import GraphBatch

    return GraphBatch.from_data_list(pairs)


@lru_cache(maxsize=8)
def _all_edges(count: int, device: torch.device) -> Tensor:
    """Return the list of all pairs, `(2, N^2)`, anchor by anchor."""
    with torch.inference_mode(False):
        node = torch.arange(count, device=device)
        return _noted(torch.stack([node.repeat(count), node.repeat_interleave(count, output_size=count * count)]))


def _noted(edges: Tensor) -> Tensor:
    """Return a list of all pairs, anchor by anchor, noted as one that this module made."""
    OWN_LISTS[edges] = True
    return edges


def _store(pair: Pair, found: Sequence[tuple[EdgeType, Tensor, Topology]]) -> None:
    """Store the weights of edges by their types: those of all pairs with anchors (targets) in the rows."""
    # Set by keys: setting attributes of a store takes three times as long, which matters for a batch of 64.
    for kind, weights, edges in found:
        store = pair[kind]
        if isinstance(edges, Edges):
            store["edge_index"], store["edge_weight"], store["degree"] = edges.edge_index, weights, edges.degree
            if edges.anchors < len(pair[kind[2]]["x"]):
                store["anchors"] = edges.anchors
        elif len(weights) <= LISTED:
            store["edge_index"] = _all_edges(len(weights), weights.device)
            store["edge_weight"] = weights.flatten()
        else:
            store["adj"] = weights.mT


def with_edges(pair: Pair) -> Pair:
    """Return the pair with all edges listed, `edge_index` (2, E) and `edge_weight` (E,), in place of any `adj`.

    A copy that shares the tensors; the lists of N nodes take 16 N^2 bytes. Of a batch of pairs it is that of its pairs,
    joined in new tensors.

    >>> pair = graph_pair(torch.randn(600, 8), torch.randn(600, 8))
    >>> "adj" in pair["student", "relates", "student"], with_edges(pair).num_edges
    (True, 1080000)
    """
    if isinstance(pair.graph, list):
        return batch_of([with_edges(one) for one in pair.to_data_list()])
    pair = copy(pair)
    for kind in pair.edge_types:
        if "adj" in pair[kind]:
            matrix = weights(pair, kind)
            pair[kind].edge_index = _all_edges.__wrapped__(len(matrix), matrix.device)
            pair[kind].edge_weight = matrix.flatten()
            del pair[kind].adj
    return pair


def weights(pair: Pair, kind: EdgeType) -> Tensor:
    """Return the weights of one edge type: with an anchor in each row, `(N, N)`, on all pairs, else `(E,)`."""
    return relations(pair, kind)[0]


def relations(pair: Pair, *kinds: EdgeType) -> list[Tensor]:
    """Return the `weights` of some edge types, by default those of the student's graph and of the teacher's.

    Raises:
        RelgraphError: for a batch of pairs, or a part of all pairs that lacks edges or has the matrix of the whole.
    """
    found, kinds = [], kinds or (STUDENT, TEACHER)
    if pair.graph != "dense":
        check_one(pair)
        return [pair[kind]["edge_weight"].view(-1) for kind in kinds]
    for kind in kinds:
        store, shape = pair[kind], (len(pair[kind[2]]["x"]), len(pair[kind[0]]["x"]))
        if "adj" in store and store["adj"].shape == shape[::-1]:
            found.append(store["adj"].mT)
        elif "adj" not in store and store["edge_index"] in OWN_LISTS:
            found.append(store["edge_weight"].view(shape))
        else:  # a list that another program made or changed, which is read back
            found.append(_matrix(store, shape))
    return found


def _matrix(store: Any, shape: tuple[int, int]) -> Tensor:
    """Return the weights of all pairs as a matrix, from edges in any order, such as those of a part of a pair."""
    told = f"a graph of all pairs has an edge for each of {shape[0]} x {shape[1]} pairs of nodes"
    if "adj" in store:
        advice = "parts of it are taken once with_edges has listed its edges"
        raise RelgraphError(f"{told}, got a matrix of {tuple(store['adj'].shape)}: {advice}")
    (source, target), found = store["edge_index"], store["edge_weight"]
    place = target * shape[1] + source
    order = place.argsort()
    if not torch.equal(place[order], torch.arange(shape[0] * shape[1], device=place.device)):
        raise RelgraphError(f"{told}, got other edges, {len(place)} of them")
    in_order: Tensor = found[order].view(shape)
    return in_order


def student_weights(pair: Pair) -> Tensor:
    """Return the student's weights of the edges that the teacher's graph has: within its own graph, or to the teacher.

    Of a pair whose student has no graph of its own, they are those of the cross graph, which on sparse topologies has
    each node's edge to its own counterpart as well.
    """
    if STUDENT in pair.edge_types:
        return weights(pair, STUDENT)
    return across(pair)


def across(pair: Pair) -> Tensor:
    """Return the weights of the cross graph on the teacher's edges, `(N, N)` or `(E,)`.

    >>> from relgraph.graph.topology import Nearest
    >>> pair = graph_pair(torch.randn(4, 8), torch.randn(4, 8), topology=Nearest(2))
    >>> weights(pair, MATCHES).shape, across(pair).shape
    (torch.Size([12]), torch.Size([8]))
    """
    (found,) = relations(pair, MATCHES)
    return found if pair.graph == "dense" else found[len(found) - len(pair[TEACHER]["edge_weight"]) :]


def adjacency(pair: Pair, kind: EdgeType = TEACHER) -> Tensor:
    """Return the matrix of one edge type of all pairs, `(N, N)`, row = source, column = target, as `to_dense_adj`.

    It shares the memory of the pair's weights.

    >>> x = torch.randn(4, 8)
    >>> adjacency(graph_pair(x, x)).diagonal()
    tensor([1., 1., 1., 1.])
    """
    return weights(pair, kind).mT


def topology_of(pair: Pair, kind: EdgeType = TEACHER) -> Topology:
    """Return the topology of one edge type of a pair.

    Raises:
        RelgraphError: for a batch of pairs.
    """
    if pair.graph == "dense":
        return ALL_PAIRS
    check_one(pair)
    store = pair[kind]
    anchors, degree = store.get("anchors", len(pair[kind[2]].x)), store.get("degree")
    degree = None if degree is None else int(degree)  # PyG makes a tensor of a number in a batch of pairs
    if degree is not None and degree * anchors != store.edge_index.shape[1]:
        degree = None  # of the whole graph, of which this is a part (`subgraph`)
    return Edges(store.edge_index, anchors, degree)


def check_one(pair: Pair) -> None:
    """Raise RelgraphError for a batch of pairs, where one is read."""
    if isinstance(pair.graph, list):
        raise RelgraphError(f"one graph pair is read at a time: expected pair[i], got a batch of {len(pair.graph)}")


def anchors_of(pair: Pair) -> int:
    """Return how many nodes, the first ones, are anchors: all, but where a batch brings edges to some alone.

    >>> anchors_of(graph_pair(torch.randn(4, 8), torch.randn(4, 8)))
    4
    """
    edges = topology_of(pair) if pair.edge_types else ALL_PAIRS
    return edges.anchors if isinstance(edges, Edges) else len(pair["student"].x)


def has_weights(pair: Pair) -> bool:
    """Return whether a pair holds weights; a pair in a form without matrices holds only the nodes.

    >>> x = torch.randn(4, 8)
    >>> has_weights(graph_pair(x, x)), has_weights(graph_pair(x, x, form="factored"))
    (True, False)
    """
    return TEACHER in pair.edge_types


def check_nodes(student: Tensor, teacher: Tensor, one_width: bool = False, remedy: str = MATCHING) -> None:
    """Raise RelgraphError unless both have as many rows (and columns, if asked), floating point, one device.

    `remedy` says what needs one width, and how they get it.
    """
    if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
        raise RelgraphError(f"embeddings must be tensors, got {type(student).__name__} and {type(teacher).__name__}")
    if student.ndim < 2 or teacher.ndim < 2 or student.shape[:-1] != teacher.shape[:-1]:
        expected = "embeddings must be (N, D), student and teacher of the same N images"
        raise RelgraphError(f"{expected}, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    if student.numel() == 0 or teacher.numel() == 0:
        raise RelgraphError(f"embeddings must not be empty, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    if one_width and student.shape[-1] != teacher.shape[-1]:
        raise RelgraphError(f"{remedy}, got {student.shape[-1]} and {teacher.shape[-1]}")
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise RelgraphError(f"embeddings must be of floating point, got {student.dtype} and {teacher.dtype}")
    if student.device != teacher.device:
        raise RelgraphError(f"student and teacher must lie on one device, got {student.device} and {teacher.device}")
