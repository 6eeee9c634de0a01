"""Topologies: which entries of the matrix of all pairs are edges, and reductions over one anchor's edges.

A row of the matrix is an anchor, a column one of its candidates. PyG's `edge_index` runs from source to target, and
messages flow to the target, so an edge is `(candidate, anchor)`: node i's neighbour j is the column `(j, i)`.

A *rule* decides on the edges when it sees the two networks' matrices (student first): `AllPairs`, `Nearest`,
`Given`, `Above`; `WithOwn` adds to one of them each node's edge to itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel
from relgraph.graph.segments import segment_log_softmax, segment_sum

Rule = Callable[[Tensor, Tensor, Kernel], "AllPairs | Edges"]
Chooser = Literal["teacher", "student", "union", "mutual"]
GRAPHS = ("dense", "knn")
CHOOSERS: tuple[Chooser, ...] = ("teacher", "student", "union", "mutual")


@dataclass(frozen=True)
class AllPairs:
    """Every entry is an edge: topology and rule in one. Weights keep the form of the matrix, `(..., N, M)`."""

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> "AllPairs":
        """Return itself."""
        return self

    def pick(self, matrix: Tensor) -> Tensor:
        """Return the matrix."""
        return matrix

    def sum(self, weights: Tensor) -> Tensor:
        """Return the sums of the rows, `(..., N, M)`."""
        return weights.sum(-1, keepdim=True).expand_as(weights)

    def log_softmax(self, weights: Tensor) -> Tensor:
        """Return the logarithm of the softmax of each row, `(..., N, M)`."""
        return weights.log_softmax(-1)

    def count(self, weights: Tensor) -> int:
        """Return the number of anchors."""
        return weights.shape[:-1].numel()


ALL_PAIRS = AllPairs()


class Table(NamedTuple):
    """The edges of each anchor side by side, `(N, M)` for anchors of up to M edges.

    Attributes:
        edges: Which edge of the list it is; any edge in an empty place.
        candidates: The edge's candidate; the anchor itself in an empty place.
        real: Whether there is an edge: an anchor of fewer than M has its empty places at the end.
    """

    edges: Tensor
    candidates: Tensor
    real: Tensor


@dataclass(frozen=True, eq=False)
class Edges:
    """The entries that a PyG `edge_index` (2, E) names: row 0 candidates, row 1 anchors. Weights are `(..., E)`.

    >>> edges = Edges(torch.tensor([[1, 2], [0, 0]]), anchors=3)
    >>> edges.pick(torch.arange(9.0).view(3, 3))
    tensor([1., 2.])
    """

    edge_index: Tensor
    anchors: int

    def pick(self, matrix: Tensor) -> Tensor:
        """Return `matrix[..., anchor, candidate]` of each edge, `(..., N, M) -> (..., E)`."""
        candidate, anchor = self.edge_index
        return matrix.flatten(-2).index_select(-1, anchor * matrix.shape[-1] + candidate)

    def sum(self, weights: Tensor) -> Tensor:
        """Return each anchor's sum at each of its edges, `(..., E)`."""
        return segment_sum(weights, self.edge_index[1], self.anchors).index_select(-1, self.edge_index[1])

    def log_softmax(self, weights: Tensor) -> Tensor:
        """Return the logarithm of the softmax over each anchor's edges, `(..., E)`."""
        return segment_log_softmax(weights, self.edge_index[1], self.anchors)

    def count(self, weights: Tensor) -> int:
        """Return the number of anchors."""
        return weights.shape[:-1].numel() * self.anchors

    def with_own(self) -> "Edges":
        """Return these edges after one of each node to itself, or in a cross graph to its counterpart, (2, N + E)."""
        node = torch.arange(self.anchors, device=self.edge_index.device)
        return Edges(torch.cat([torch.stack([node, node]), self.edge_index], dim=1), self.anchors)

    def table(self, degree: int | None = None) -> Table:
        """Return the edges of each anchor side by side, its candidates in growing order.

        `degree` is the number of edges of every anchor, where it is known (`degree_of`). Elsewhere the largest one is
        read back from the device.

        >>> Edges(torch.tensor([[2, 1, 0], [0, 0, 1]]), anchors=2).table().candidates
        tensor([[1, 2],
                [0, 1]])
        """
        candidate, anchor = self.edge_index
        order = candidate.argsort()
        order = order[anchor[order].argsort(stable=True)]
        count = anchor.new_zeros(self.anchors).index_add(0, anchor, torch.ones_like(anchor)).unsqueeze(-1)
        width = int(count.max()) if degree is None else degree
        place = torch.arange(width, device=anchor.device)
        real = place < count
        edges = order[(count.cumsum(0) - count + place).clamp_max(len(order) - 1)]
        own = torch.arange(self.anchors, device=anchor.device).unsqueeze(-1)
        return Table(edges, torch.where(real, candidate[edges], own), real)


@dataclass(frozen=True)
class Nearest:
    """The rule of the k nearest neighbours, a node itself left out.

    `by` says whose matrix chooses: the teacher's, the student's, their union, or their mutual part (edges that both
    choose). The number of edges of the last two depends on the data, so they read it back from the device once a
    call; the first two do not.

    With k = N - 1 this is all pairs without the diagonal. A relation whose diagonal is 0 in both networks, or equal,
    then has the same value as on all pairs (EGA); where the diagonal counts (PKT, SP, the mean of RKD) it has with
    `WithOwn`, whose edges are then all N^2.

    Raises:
        RelgraphError: if `k` is not in 1..N-1, or `by` is unknown.
    """

    k: int
    by: Chooser = "teacher"

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.by not in CHOOSERS:
            raise unknown("choice of neighbours", self.by, CHOOSERS)
        if self.k < 1:
            raise RelgraphError(f"k must be at least 1, got {self.k}")

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
        """Return the edges among N nodes from the matrices `(N, N)` of the student and the teacher."""
        _check_one_graph(teacher)
        return self.edges(*(nearest(matrix, self.k, kernel) for matrix in self.choosers(student, teacher)))

    def choosers(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
        """Return those of two networks' matrices, or nodes, that choose."""
        return {"teacher": (teacher,), "student": (student,)}.get(self.by, (student, teacher))

    def edges(self, *candidates: Tensor) -> Edges:
        """Return the edges from the choosers' nearest candidates of each of N nodes, `(N, k)` each.

        >>> Nearest(1, "mutual").edges(torch.tensor([[1], [0]]), torch.tensor([[1], [0]])).edge_index.tolist()
        [[1, 0], [0, 1]]
        """
        count = len(candidates[0])
        anchors = torch.arange(count, device=candidates[0].device).repeat_interleave(self.k, output_size=count * self.k)
        if len(candidates) == 1:
            return Edges(torch.stack([candidates[0].flatten(), anchors]), count)
        places = torch.cat([anchors * count + each.flatten() for each in candidates])
        places, votes = torch.unique(places, return_counts=True)
        chosen = places[votes >= (1 if self.by == "union" else 2)]
        return Edges(torch.stack([chosen % count, chosen // count]), count)


@dataclass(frozen=True, eq=False)
class Given:
    """The rule of a user's `edge_index` (2, E) over nodes 0..N-1: row 0 the neighbours, row 1 the anchors.

    Raises:
        RelgraphError: if `edge_index` is not (2, E) of integers, is empty, names a node outside 0..N-1 or an edge
            twice, or joins a node with itself.
    """

    edge_index: Tensor
    highest: int = field(init=False)
    placed: dict[torch.device, Tensor] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check once, here, so that no call reads anything back from the device."""
        edges = self.edge_index
        if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
            raise RelgraphError(f"edge_index must be (2, E) of integers, got {tuple(edges.shape)} of {edges.dtype}")
        if edges.numel() == 0:
            raise RelgraphError("edge_index must hold at least one edge, got (2, 0)")
        if int(edges.min()) < 0:
            raise RelgraphError(f"edge_index must name nodes from 0 on, got {int(edges.min())}")
        if torch.unique(edges, dim=1).shape[1] < edges.shape[1]:
            raise RelgraphError("edge_index must name each edge once")
        if bool((edges[0] == edges[1]).any()):
            raise RelgraphError(
                "edge_index must not join a node with itself: the cross graph adds each node's own counterpart"
            )
        object.__setattr__(self, "highest", int(edges.max()))

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
        """Return these edges, once they are known to fit N nodes."""
        return self.edges(teacher.shape[-1], teacher.device)

    def edges(self, count: int, device: torch.device) -> Edges:
        """Return these edges, once they are known to fit `count` nodes."""
        if self.highest >= count:
            raise RelgraphError(f"edge_index must name nodes 0 to {count - 1}, got {self.highest}")
        if device not in self.placed:  # a copy waits for the device: once, not every step
            self.placed[device] = self.edge_index.to(device, torch.long)
        return Edges(self.placed[device], count)


@dataclass(frozen=True)
class Above:
    """The rule of all pairs whose weight has at least this magnitude, a node itself left out.

    The number of edges depends on the data, so it is read back from the device once a call. `by` is the side that
    chooses.
    """

    threshold: float
    by: Literal["teacher", "student"] = "teacher"

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
        """Return the edges among N nodes from the matrices `(N, N)` of the student and the teacher."""
        matrix = (teacher if self.by == "teacher" else student).detach()
        _check_one_graph(matrix)
        itself = torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
        anchor, candidate = ((matrix.abs() >= self.threshold) & ~itself).nonzero(as_tuple=True)
        return Edges(torch.stack([candidate, anchor]), matrix.shape[-1])


@dataclass(frozen=True)
class WithOwn:
    """The rule of another one's edges and each node's edge to itself, which most published sums over pairs include."""

    rule: Rule

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> AllPairs | Edges:
        """Return the edges among N nodes from the matrices `(N, N)` of the student and the teacher."""
        edges = self.rule(student, teacher, kernel)
        return edges if isinstance(edges, AllPairs) else edges.with_own()


def degree_of(rule: Rule) -> int | None:
    """Return how many edges each anchor has by a rule, `None` where that depends on the data or on the batch.

    >>> degree_of(WithOwn(Nearest(8))), degree_of(Nearest(8, "mutual"))
    (9, None)
    """
    if isinstance(rule, WithOwn):
        others = degree_of(rule.rule)
        return None if others is None else others + 1
    return rule.k if isinstance(rule, Nearest) and rule.by in ("teacher", "student") else None


def _check_one_graph(matrix: Tensor) -> None:
    if matrix.ndim != 2:
        raise RelgraphError(f"edges are chosen in one graph, a matrix (N, N), got {tuple(matrix.shape)}")


def nearest(matrix: Tensor, k: int, kernel: Kernel) -> Tensor:
    """Return each row's k nearest others, nearest first, `(N, N) -> (N, k)`.

    Raises:
        RelgraphError: if `k` is not in 1..N-1.

    >>> from relgraph.graph.kernels import euclidean
    >>> nearest(euclidean(torch.tensor([[0.0], [1.0], [3.0]])), 1, euclidean).flatten()
    tensor([1, 0, 1])
    """
    count = matrix.shape[-1]
    check_k(k, count)
    farthest = float("-inf") if kernel.nearest_is_largest else float("inf")
    itself = torch.eye(count, dtype=torch.bool, device=matrix.device)
    others = matrix.detach().masked_fill(itself, farthest)
    return others.topk(k, dim=-1, largest=kernel.nearest_is_largest).indices


def check_k(k: int, count: int) -> None:
    """Raise RelgraphError unless each of `count` nodes has k others."""
    if not 1 <= k <= count - 1:
        raise RelgraphError(f"k must be between 1 and the number of nodes less one, {count - 1}, got {k}")


def make_rule(graph: str | Tensor | Rule, k: int | None = None, neighbours: Chooser = "teacher") -> Rule:
    """Return the rule of a graph: `dense` (all pairs), `knn` (8 nearest neighbours, or k), an `edge_index`, or a rule.

    Raises:
        RelgraphError: for an unknown name, `k` or `neighbours` for a graph without them, or a wrong `edge_index`.
    """
    if isinstance(graph, str) and graph == "knn":
        return Nearest(8 if k is None else k, neighbours)
    if isinstance(graph, str) and graph != "dense":
        raise unknown("graph", graph, GRAPHS)
    if k is not None or neighbours != "teacher":
        raise RelgraphError(f"k and neighbours belong to the graph 'knn', got k = {k} and neighbours = {neighbours!r}")
    if isinstance(graph, Tensor):
        return Given(graph)
    return ALL_PAIRS if isinstance(graph, str) else graph
