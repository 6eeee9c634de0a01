"""The graph pair of a batch as PyTorch Geometric sees it, and what is read from it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
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

    Raises:
        RelgraphError: if the two are not (N, D) of the same N and D (to match nodes across the networks, both need a
            projection to one width), or if the topology does not fit N.

    >>> pair = graph_pair(torch.randn(4, 8), torch.randn(4, 8))
    >>> pair["teacher", "matches", "student"].adj.shape
    torch.Size([4, 4])
    """
    from torch_geometric.data import HeteroData

    check_nodes(student, teacher, one_width=match)
    if student.ndim != 2:
        raise RelgraphError(f"a graph pair holds one batch (N, D), got {tuple(student.shape)}")
    nodes = kernel.nodes(student), kernel.nodes(teacher)
    matrices = kernel.matrix(nodes[0], nodes[0]), kernel.matrix(nodes[1], nodes[1])
    edges = topology(*matrices, kernel)
    pair = HeteroData()
    for side, x, z, matrix in zip(("student", "teacher"), (student, teacher), nodes, matrices, strict=True):
        store = pair[side]
        store.x, store.degenerate = x, kernel.degenerate(z)
        if index is not None:
            store.index = index
        if y is not None:
            store.y = y
        _put(pair[side, "relates", side], matrix, edges)
    if refinement is not None:
        pair["student"].refined = refinement.refine(refinement.student, student, weights(pair, STUDENT), edges)
        # Matching trains the student's refinement alone: the teacher's must not learn to make matching easy.
        with torch.no_grad():
            pair["teacher"].refined = refinement.refine(refinement.teacher, teacher, weights(pair, TEACHER), edges)
        nodes = kernel.nodes(pair["student"].refined), kernel.nodes(pair["teacher"].refined)
    if match:
        across = kernel.matrix(*nodes)
        _put(pair[MATCHES], across, edges if isinstance(edges, AllPairs) else edges.with_own())
    return pair


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


def related(pair: "HeteroData", relation: Relation) -> Tensor:
    """Return what a relation says of the two graphs of a pair, which was built with its kernel: a scalar."""
    return relation.compare(weights(pair, STUDENT), weights(pair, TEACHER), topology_of(pair))
