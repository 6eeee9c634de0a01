"""The graph pair of a batch as PyTorch Geometric sees it, and what is read from it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.forms import Form, check_form, choose, chooses_in_blocks, edges_in_blocks, weigh_edges
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation, check_nodes
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges, Rule

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

STUDENT = ("student", "relates", "student")
TEACHER = ("teacher", "relates", "teacher")
MATCHES = ("teacher", "matches", "student")


def graph_pair(
    student: Tensor,
    teacher: Tensor,
    *,
    topology: Rule = ALL_PAIRS,
    kernel: Kernel = pearson,
    refinement: Refinement | None = None,
    index: Tensor | None = None,
    y: Tensor | None = None,
    match: bool = True,
    form: Form = "auto",
    processes: ProcessGroup = SINGLE_PROCESS,
) -> "HeteroData":
    """Return student and teacher of one batch as a `HeteroData` of two graphs and the cross graph between them.

    Node types `student` and `teacher` hold `x` (N, D), `degenerate` (N,), true where the kernel leaves nothing of a
    node (for Pearson: it has no variance), which then relates to nothing, `index` and `y` if given, and with a
    refinement `refined` (N, D), the teacher's without gradient. Edge types are `(student, relates, student)`,
    `(teacher, relates, teacher)` and `(teacher, matches, student)`. On all pairs each holds `adj` (N, N), row = source,
    column = target, as PyG's `to_dense_adj`; on sparse topologies `edge_index` (2, E) and `edge_weight` (E,), where the
    cross graph joins each student node with its own teacher node (the first N edges) and with the teacher nodes of its
    neighbours. Nothing is copied: the weights are the tensors that the loss compares, gradient included. With
    `match=False` there is no cross graph, and the widths of student and teacher may differ.

    `form` says how it is computed (`relgraph.graph.forms`), and `pair.form` how it was. Sparse graphs find their edges
    in matrices, or in blocks ("blocked"; what "auto" does for many nodes), and are the same. All pairs have matrices,
    unless "factored" or "blocked" is asked for: the pair then holds the nodes alone, with `prepared` (N, D), what the
    kernel makes of them, and no edges (`has_weights`). Nodes alone may be the rows of one of `processes`.

    Raises:
        RelgraphError: if the two are not (N, D) of the same N and D (to match nodes across the networks, both need a
            projection to one width), if the topology does not fit N, or for a form that it or a refinement has not.

    >>> pair = graph_pair(torch.randn(4, 8), torch.randn(4, 8))
    >>> pair["teacher", "matches", "student"].adj.shape
    torch.Size([4, 4])
    """
    from torch_geometric.data import HeteroData

    check_nodes(student, teacher, one_width=match)
    if student.ndim != 2:
        raise RelgraphError(f"a graph pair holds one batch (N, D), got {tuple(student.shape)}")
    form = _form(form, topology, refinement, student, teacher)
    nodes = kernel.nodes(student, processes), kernel.nodes(teacher, processes)
    pair = HeteroData()
    pair.form = form
    for side, x, z in zip(("student", "teacher"), (student, teacher), nodes, strict=True):
        store = pair[side]
        store.x, store.degenerate = x, kernel.degenerate(z)
        if index is not None:
            store.index = index
        if y is not None:
            store.y = y
    if form == "matrix":
        _add_matrices(pair, nodes, topology, kernel, refinement, match)
    elif isinstance(topology, AllPairs):
        pair["student"].prepared, pair["teacher"].prepared = nodes
    else:
        _add_edges(pair, nodes, edges_in_blocks(topology, student, teacher, kernel), kernel, match)
    return pair


def _form(form: Form, topology: Rule, refinement: Refinement | None, student: Tensor, teacher: Tensor) -> Form:
    """Return the form of a pair, never "auto"."""
    if refinement is not None:
        check_form(form, ("matrix",), "a graph pair with a refinement")
        return "matrix"
    if isinstance(topology, AllPairs):
        check_form(form, ("matrix", "factored", "blocked"), "a graph pair of all pairs")
        return "matrix" if form == "auto" else form
    known: tuple[Form, ...] = ("matrix", "blocked") if chooses_in_blocks(topology) else ("matrix",)
    check_form(form, known, "a sparse graph pair")
    return choose(form, topology, known, student, teacher, len(student))


def _add_matrices(
    pair: "HeteroData",
    nodes: tuple[Tensor, Tensor],
    topology: Rule,
    kernel: Kernel,
    refinement: Refinement | None,
    match: bool,
) -> None:
    """Store the weights that the matrices of prepared nodes hold, and refined nodes."""
    matrices = kernel.matrix(nodes[0], nodes[0]), kernel.matrix(nodes[1], nodes[1])
    edges = topology(*matrices, kernel)
    _put(pair[STUDENT], matrices[0], edges)
    _put(pair[TEACHER], matrices[1], edges)
    if refinement is not None:
        student, teacher = pair["student"], pair["teacher"]
        student.refined = refinement.refine(refinement.student, student.x, weights(pair, STUDENT), edges)
        # Matching trains the student's refinement alone: the teacher's must not learn to make matching easy.
        with torch.no_grad():
            teacher.refined = refinement.refine(refinement.teacher, teacher.x, weights(pair, TEACHER), edges)
        nodes = kernel.nodes(student.refined), kernel.nodes(teacher.refined)
    if match:
        across = kernel.matrix(*nodes)
        _put(pair[MATCHES], across, edges if isinstance(edges, AllPairs) else edges.with_own())


def _add_edges(pair: "HeteroData", nodes: tuple[Tensor, Tensor], edges: Edges, kernel: Kernel, match: bool) -> None:
    """Store the weights of given edges between prepared nodes."""
    student, teacher = nodes
    ends = [(STUDENT, student, student, edges), (TEACHER, teacher, teacher, edges)]
    if match:
        ends.append((MATCHES, student, teacher, edges.with_own()))
    for kind, anchors, candidates, joined in ends:
        pair[kind].edge_index = joined.edge_index
        pair[kind].edge_weight = weigh_edges(anchors, candidates, joined, kernel)


def _put(store: "HeteroData", matrix: Tensor, edges: AllPairs | Edges) -> None:
    """Store a matrix of anchors (rows, targets) and candidates (columns, sources)."""
    if isinstance(edges, AllPairs):
        store.adj = matrix.mT
    else:
        store.edge_index, store.edge_weight = edges.edge_index, edges.pick(matrix)


def weights(pair: "HeteroData", edge_type: tuple[str, str, str]) -> Tensor:
    """Return the weights of one edge type: with an anchor in each row, `(N, N)`, on all pairs, else `(E,)`."""
    store = pair[edge_type]
    found: Tensor = store.adj.mT if "adj" in store else store.edge_weight
    return found


def target(pair: "HeteroData") -> Tensor:
    """Return what the cross graph is compared with: 1 between a student node and its own teacher node, else 0."""
    store = pair[MATCHES]
    if "adj" in store:
        return torch.eye(len(store.adj), dtype=store.adj.dtype, device=store.adj.device)
    teacher, student = store.edge_index
    own: Tensor = (teacher == student).to(store.edge_weight.dtype)
    return own


def topology_of(pair: "HeteroData", edge_type: tuple[str, str, str] = TEACHER) -> AllPairs | Edges:
    """Return the topology of one edge type of a pair."""
    store = pair[edge_type]
    return ALL_PAIRS if "adj" in store else Edges(store.edge_index, pair[edge_type[2]].x.shape[0])


def has_weights(pair: "HeteroData") -> bool:
    """Return whether a pair holds weights, or the nodes alone, as the forms of all pairs without matrices do.

    >>> x = torch.randn(4, 8)
    >>> has_weights(graph_pair(x, x)), has_weights(graph_pair(x, x, form="factored"))
    (True, False)
    """
    return TEACHER in pair.edge_types


def weigh(pair: "HeteroData", x: Tensor, kernel: Kernel) -> Tensor:
    """Return the weights that the edges of a pair, which has some, have among other nodes, `(N, D)`."""
    edges = topology_of(pair)
    if isinstance(edges, AllPairs) or pair.form == "matrix":
        return edges.pick(kernel(x))
    z = kernel.nodes(x)
    return weigh_edges(z, z, edges, kernel)


def related(pair: "HeteroData", relation: Relation, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Return what a relation says of the two graphs of a pair, which was built with its kernel: a scalar.

    A pair of nodes alone, in the factored form, may be that of the rows of one of `processes`.
    """
    if not has_weights(pair):
        nodes = pair["student"].prepared, pair["teacher"].prepared
        return relation.compare_nodes(*nodes, pair.form, processes)
    return relation.compare(weights(pair, STUDENT), weights(pair, TEACHER), topology_of(pair))
