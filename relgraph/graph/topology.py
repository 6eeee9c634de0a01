"""Topologies: which entries of the matrix of all pairs are edges, and reductions over one anchor's edges.

A row of the matrix is an anchor, a column one of its candidates. PyG's `edge_index` runs from source to target, and
messages flow to the target, so an edge is `(candidate, anchor)`: node i's neighbour j is the column `(j, i)`.

A *rule* selects the edges: `AllPairs`, `Nearest`, `Given`, `Above`; `WithOwn` extends another rule by each node's edge
to itself. A rule reads the two networks' matrices (student first), or finds the same edges a block of rows at a time; a
user-defined function reads the matrices.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isnan
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel
from relgraph.graph.search import Rows, above_in_blocks, check_k, nearest_in_blocks
from relgraph.graph.segments import segment_log_softmax, segment_sum

Chooser = Literal["teacher", "student", "union", "mutual"]
# Number of edges that are summed as one row in float32: for more, sums and norms would lose digits.
ONE_ROW = 2**14
CHOOSERS: tuple[Chooser, ...] = ("teacher", "student", "union", "mutual")


class Rule:
    """Selects the pairs of nodes that are edges, the same for both networks.

    Attributes:
        dense: Whether all pairs are edges, so that weights keep the form of the matrix.
        blocked: Whether `find` finds the edges without the matrices.
        mapped: Whether `torch.vmap` maps it over a batch of graphs: the number of edges does not depend on the data.
    """

    dense: bool = False
    blocked: bool = False
    mapped: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> "Topology":
        """Return the edges among N nodes from the matrices `(N, N)` of the student and the teacher."""
        raise NotImplementedError

    def find(self, student: Rows, teacher: Rows, kernel: Kernel) -> "Topology":
        """Return the same edges from the nodes `(N, D)`, a block of rows at a time; ties may be broken differently.

        Nodes are prepared by the kernel when they are read.
        """
        raise NotImplementedError

    def with_own(self) -> "Rule":
        """Return the rule of these edges and each node's edge to itself, which most published sums include."""
        return WithOwn(self)

    def over(self, edges: "Edges") -> "Rule":
        """Return the rule that has these edges, which a batch brings, in place of those that this one would find."""
        return edges


@dataclass(frozen=True)
class OwnRule(Rule):
    """The rule of a user-defined function, `(student, teacher, kernel) -> Edges`, of the matrices `(N, N)`."""

    function: Callable[[Tensor, Tensor, Kernel], "Topology"]

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> "Topology":
        """Return the edges that the function selects."""
        edges = self.function(student, teacher, kernel)
        if not isinstance(edges, AllPairs | Edges):
            raise RelgraphError(f"a rule returns Edges(edge_index, anchors), got {type(edges).__name__}")
        if isinstance(edges, Edges):
            edges.check(len(teacher))
        return edges


@dataclass(frozen=True)
class AllPairs(Rule):
    """Every entry is an edge: topology and rule in one. Weights keep the form of the matrix, `(..., N, M)`.

    Attributes:
        dims: Number of dimensions of one graph's weights, before which there are those of a batch of graphs.
    """

    blocked = True
    dense = True
    mapped = True
    dims = 2

    def __call__(self, student: Rows, teacher: Rows, kernel: Kernel) -> "AllPairs":
        """Return itself."""
        return self

    find = __call__

    def with_own(self) -> "AllPairs":
        """Return itself: each node's edge to itself is already included."""
        return self

    def over(self, edges: "Edges") -> "Rule":
        """Raise RelgraphError: all pairs are no other edges."""
        raise RelgraphError("a batch with edges of its own needs a method with a sparse graph, such as graph='knn'")

    def pick(self, matrix: Tensor) -> Tensor:
        """Return the matrix."""
        return matrix

    def of_teacher(self, found: Tensor) -> Tensor:
        """Return the teacher's weights, those that were found."""
        return found

    def sum(self, weights: Tensor) -> Tensor:
        """Return the sums of the rows, `(..., N, M)`."""
        return weights.sum(-1, keepdim=True).expand_as(weights)

    def log_softmax(self, weights: Tensor) -> Tensor:
        """Return the logarithm of the softmax of each row, `(..., N, M)`."""
        return weights.log_softmax(-1)

    def each_row(self, function: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
        """Apply a function of one anchor's weights, which keeps their shape, to all rows."""
        return _of_same_shape(function, weights)

    def messages(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of each anchor's candidates among nodes, `(N, D) -> (N, D)`."""
        return weights @ x


ALL_PAIRS = AllPairs()


@dataclass(frozen=True, eq=False)
class Edges(Rule):
    """The entries that a PyG `edge_index` (2, E) names: row 0 candidates, row 1 anchors. Weights are `(..., E)`.

    As a rule, it returns these fixed edges. The first `anchors` nodes are the anchors; nodes behind them are candidates
    alone. `degree` is the number of edges of every anchor, if it is known and the same for all; `has_own` says that
    each anchor's edge to itself is among them, before the others. `weights` are the teacher's weights of the others,
    where a user gives them in place of those that a kernel finds.

    >>> edges = Edges(torch.tensor([[1, 2], [0, 0]]), anchors=3)
    >>> edges.pick(torch.arange(9.0).view(3, 3))
    tensor([1., 2.])
    """

    edge_index: Tensor
    anchors: int
    degree: int | None = None
    has_own: bool = False
    weights: Tensor | None = None
    blocked = True
    mapped = True
    dims = 1

    def __call__(self, student: Rows, teacher: Rows, kernel: Kernel) -> "Edges":
        """Return itself."""
        return self

    find = __call__

    def check(self, count: int) -> None:
        """Raise RelgraphError unless each edge joins two of `count` nodes, to an anchor; edges are read back for it."""
        if self.edge_index.numel() == 0:
            return
        (lowest, highest), anchor = self.edge_index.aminmax(), int(self.edge_index[1].max())
        if int(lowest) < 0 or int(highest) >= count:
            raise RelgraphError(f"edges must join nodes 0 to {count - 1}, got {int(lowest)} to {int(highest)}")
        if anchor >= self.anchors:
            raise RelgraphError(f"edges must lead to anchors 0 to {self.anchors - 1}, got {anchor}")

    def pick(self, matrix: Tensor) -> Tensor:
        """Return `matrix[..., anchor, candidate]` of each edge, `(..., N, M) -> (..., E)`."""
        candidate, anchor = self.edge_index
        return matrix.flatten(-2).index_select(-1, anchor * matrix.shape[-1] + candidate)

    def of_teacher(self, found: Tensor) -> Tensor:
        """Return the teacher's weights of the edges, `(E,)`: those found, or behind the own edges those given."""
        if self.weights is None:
            return found
        return torch.cat([found[: len(found) - len(self.weights)], self.weights.to(found)])

    def sum(self, weights: Tensor) -> Tensor:
        """Return each anchor's sum at each of its edges, `(..., E)`."""
        return segment_sum(weights, self.edge_index[1], self.anchors).index_select(-1, self.edge_index[1])

    def log_softmax(self, weights: Tensor) -> Tensor:
        """Return the logarithm of the softmax over each anchor's edges, `(..., E)`."""
        return segment_log_softmax(weights, self.edge_index[1], self.anchors)

    def with_own(self) -> "Edges":
        """Return these edges after one of each anchor to itself, or in a cross graph to its counterpart, (2, A + E).

        Edges that have it already are returned as they are.
        """
        if self.has_own:
            return self
        node = torch.arange(self.anchors, device=self.edge_index.device)
        degree = None if self.degree is None else self.degree + 1
        index = torch.cat([torch.stack([node, node]), self.edge_index], dim=1)
        return Edges(index, self.anchors, degree, True, self.weights)

    def each_row(self, function: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
        """Apply a function of one anchor's weights, which keeps their shape, to each anchor's edges."""
        found = torch.empty_like(weights)
        for _, places in self.groups():
            found = found.index_copy(-1, places.flatten(), _of_same_shape(function, weights[..., places]).flatten(-2))
        return found

    def messages(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of each anchor's candidates among nodes, `(N, D) -> (N, D)`, by PyG's `scatter`."""
        from relgraph.graph.pyg import scatter

        candidate, anchor = self.edge_index
        found: Tensor = scatter(weights.unsqueeze(-1) * x.index_select(0, candidate), anchor, dim_size=self.anchors)
        return found

    def rows(self, row: Callable[..., Tensor], student: Tensor, teacher: Tensor, additive: bool = False) -> Tensor:
        """Apply a function of one anchor's weights, `(..., M) x (..., M) -> (...)`, to all anchors and return `(R,)`.

        If it is `additive`, all edges may form one row, or each edge a row of its own. Else anchors with equally many
        edges are grouped (`groups`).
        """
        if additive and student.shape[-1] <= ONE_ROW:
            return row(student, teacher)
        if additive:
            return row(student.unsqueeze(-1), teacher.unsqueeze(-1))
        found = [row(student[..., places], teacher[..., places]).flatten() for _, places in self.groups()]
        return torch.cat(found) if found else (student + teacher)[..., :0]

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the anchors `(A,)` that have equally many edges, and these `(A, M)`, their candidates in growing order.

        If `degree` is not known, the numbers of edges of the anchors are read back from the device.

        >>> edges = Edges(torch.tensor([[2, 1, 0], [0, 0, 1]]), anchors=3)
        >>> [(anchors.tolist(), places.tolist()) for anchors, places in edges.groups()]
        [([1], [[2]]), ([0], [[1, 0]])]
        """
        candidate, anchor = self.edge_index
        order = candidate.argsort()
        order = order[anchor[order].argsort(stable=True)]
        if self.degree is not None:
            yield torch.arange(self.anchors, device=anchor.device), order.view(self.anchors, self.degree)
            return
        count = anchor.bincount(minlength=self.anchors)
        first = count.cumsum(0) - count
        for degree in torch.unique(count[count > 0]).tolist():
            (anchors,) = (count == degree).nonzero(as_tuple=True)
            yield anchors, order[first[anchors].unsqueeze(-1) + torch.arange(degree, device=anchor.device)]


def _of_same_shape(function: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    found = function(weights)
    if found.shape != weights.shape:
        shapes = f"expected {tuple(weights.shape)}, got {tuple(found.shape)}"
        raise RelgraphError(f"a scale keeps the shape of the weights: {shapes}")
    return found


Topology = AllPairs | Edges


def joined(lists: list[Tensor], count: int, by: Chooser) -> Tensor:
    """Return the edges among `count` nodes that one of two lists (2, E) holds (`by` "union"), or both ("mutual").

    One list alone is returned as it is. The edges of two are in the order of their anchors.

    >>> joined([torch.tensor([[1, 0], [0, 1]]), torch.tensor([[2, 0], [0, 1]])], 3, "union")
    tensor([[1, 2, 0],
            [0, 0, 1]])
    """
    if len(lists) == 1:
        return lists[0]
    places = torch.cat([anchor * count + candidate for candidate, anchor in lists])
    places, votes = torch.unique(places, return_counts=True)
    chosen = places[votes >= (1 if by == "union" else 2)]
    return torch.stack([chosen % count, chosen // count])


class Choosing(Rule):
    """A rule that reads the graph of one network, or joins the edges of both.

    `by` names the network whose weights select the edges: the teacher's, the student's, their union, or their mutual
    part (edges that both select). The number of edges of the last two depends on the data, so they read it back from
    the device once a call.

    Raises:
        RelgraphError: if `by` is unknown.
    """

    by: Chooser
    degree: int | None = None  # the number of edges of every anchor, where it does not depend on the data
    blocked = True

    def __post_init__(self) -> None:
        """Check the arguments that can be checked without data."""
        if self.by not in CHOOSERS:
            raise unknown("choice of neighbours", self.by, CHOOSERS)

    def chosen(self, edges: Callable[[Any], Tensor], student: Any, teacher: Any) -> Edges:
        """Return the edges that one or both networks select, by a function of the matrix, or the nodes, of one."""
        if len(teacher.shape) != 2:
            raise RelgraphError(f"edges are chosen in one graph, a matrix (N, N), got {tuple(teacher.shape)}")
        choosers = {"teacher": [teacher], "student": [student]}.get(self.by, [student, teacher])
        return Edges(joined([edges(one) for one in choosers], len(teacher), self.by), len(teacher), self.degree)


@dataclass
class Nearest(Choosing):
    """The rule of the k nearest neighbours, a node itself left out; `by` names the network (see `Choosing`).

    With k = N - 1 this is all pairs without the diagonal. A relation whose diagonal is 0 in both networks, or equal,
    then has the same value as on all pairs (EGA); where the diagonal counts (PKT, SP, the mean of RKD) this holds with
    `WithOwn`, whose edges are then all N^2.

    Raises:
        RelgraphError: if `k` is no whole number in 1..N-1, or `by` is unknown.

    >>> from relgraph.graph.kernels import euclidean
    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> Nearest(1).find(x, x, euclidean).edge_index.tolist()
    [[1, 0, 1], [0, 1, 2]]
    """

    k: int
    by: Chooser = "teacher"

    def __post_init__(self) -> None:
        """Check the arguments that can be checked without data."""
        super().__post_init__()
        if not isinstance(self.k, Integral) or isinstance(self.k, bool):
            raise RelgraphError(f"k must be a whole number, got {self.k!r}")
        if self.k < 1:
            raise RelgraphError(f"k must be at least 1, got {self.k}")
        if self.by in ("teacher", "student"):
            self.degree, self.mapped = self.k, True

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
        """Return each node's edges from its k nearest, nearest first, from the matrices `(N, N)`."""
        return self.chosen(lambda matrix: edges_of(nearest(matrix, self.k, kernel)), student, teacher)

    def find(self, student: Rows, teacher: Rows, kernel: Kernel) -> Edges:
        """Return the same edges from the nodes `(N, D)`, a block of rows at a time."""
        return self.chosen(lambda nodes: edges_of(nearest_in_blocks(nodes, self.k, kernel)[0]), student, teacher)


def edges_of(neighbours: Tensor) -> Tensor:
    """Return the edges of a table of neighbours, `(N, k) -> (2, N k)`, in the order of the anchors.

    >>> edges_of(torch.tensor([[1], [0]]))
    tensor([[1, 0],
            [0, 1]])
    """
    count, k = neighbours.shape
    anchors = torch.arange(count, device=neighbours.device).repeat_interleave(k, output_size=count * k)
    return torch.stack([neighbours.flatten(), anchors])


@dataclass
class Above(Choosing):
    """The rule of all pairs whose weight has at least this magnitude, a node itself left out; `by` names the network.

    The number of edges depends on the data, so it is read back from the device once a call. If they are found a block
    at a time, at most `limit` edges are allowed.

    Raises:
        RelgraphError: if the threshold is no number, or `by` is unknown.
    """

    threshold: float
    by: Chooser = "teacher"
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments that can be checked without data."""
        super().__post_init__()
        if not isinstance(self.threshold, Real) or isnan(self.threshold):
            raise RelgraphError(f"the threshold must be a number, got {self.threshold!r}")

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
        """Return the edges of the pairs above the threshold, from the matrices `(N, N)`."""

        def above(matrix: Tensor) -> Tensor:
            itself = torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
            anchor, candidate = ((matrix.detach().abs() >= self.threshold) & ~itself).nonzero(as_tuple=True)
            return torch.stack([candidate, anchor])

        return self.chosen(above, student, teacher)

    def find(self, student: Rows, teacher: Rows, kernel: Kernel) -> Edges:
        """Return the same edges from the nodes `(N, D)`, a block of rows at a time.

        Raises:
            RelgraphError: if there are more than `limit`.
        """
        limit = len(teacher) ** 2 if self.limit is None else self.limit
        return self.chosen(lambda x: above_in_blocks(x, self.threshold, kernel, limit=limit), student, teacher)


@dataclass(eq=False)
class Given(Rule):
    """The rule of a user's `edge_index` (2, E) over nodes 0..N-1: row 0 the neighbours, row 1 the anchors.

    Raises:
        RelgraphError: if `edge_index` is no tensor (2, E) of integers, is empty, names a node outside 0..N-1 or an edge
            twice, or joins a node with itself.
    """

    edge_index: Tensor
    highest: int = field(init=False)
    blocked = True
    mapped = True

    def __post_init__(self) -> None:
        """Check the edges once, here, so that no call reads values back from the device."""
        edges = self.edge_index
        if not isinstance(edges, Tensor):
            raise RelgraphError(f"edge_index must be a tensor (2, E) of integers, got {type(edges).__name__}")
        whole = not (edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool)
        if edges.ndim != 2 or edges.shape[0] != 2 or not whole:
            raise RelgraphError(f"edge_index must be (2, E) of integers, got {tuple(edges.shape)} of {edges.dtype}")
        if edges.numel() == 0:
            raise RelgraphError("edge_index must hold at least one edge, got (2, 0)")
        if int(edges.min()) < 0:
            raise RelgraphError(f"edge_index must name nodes from 0 on, got {int(edges.min())}")
        if torch.unique(edges, dim=1).shape[1] < edges.shape[1]:
            raise RelgraphError("edge_index must name each edge once")
        if bool((edges[0] == edges[1]).any()):
            reason = "the cross graph adds each node's own counterpart"
            raise RelgraphError(f"edge_index must not join a node with itself: {reason}")
        self.highest = int(edges.max())

    def __call__(self, student: Rows, teacher: Rows, kernel: Kernel) -> Edges:
        """Return these edges, after a check that they fit N nodes."""
        if self.highest >= len(teacher):
            raise RelgraphError(f"edge_index must name nodes 0 to {len(teacher) - 1}, got {self.highest}")
        self.edge_index = self.edge_index.to(teacher[:0].device, torch.long)  # stored: each copy waits for the device
        return Edges(self.edge_index, len(teacher))

    find = __call__


@dataclass
class WithOwn(Rule):
    """The rule of another rule's edges and each node's edge to itself, which most published sums over pairs include."""

    rule: Rule

    def __post_init__(self) -> None:
        """Copy the attributes of the other rule."""
        self.dense, self.blocked, self.mapped = self.rule.dense, self.rule.blocked, self.rule.mapped

    def __call__(self, student: Tensor, teacher: Tensor, kernel: Kernel) -> Topology:
        """Return the edges among N nodes from the matrices `(N, N)` of the student and the teacher."""
        return self.rule(student, teacher, kernel).with_own()

    def find(self, student: Rows, teacher: Rows, kernel: Kernel) -> Topology:
        """Return the same edges from the nodes `(N, D)`, a block of rows at a time."""
        return self.rule.find(student, teacher, kernel).with_own()

    def over(self, edges: Edges) -> Rule:
        """Return the rule of other edges and each anchor's edge to itself."""
        return edges.with_own()


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


Graph = str | Tensor | Rule | Callable[[Tensor, Tensor, Kernel], Topology]


def make_rule(graph: Graph, k: int | None = None, neighbours: Chooser = "teacher") -> Rule:
    """Return the rule of a graph: `dense` (all pairs), `knn` (8 nearest neighbours, or k), an `edge_index`, or a rule.

    A function of the two networks' matrices and the kernel is a user-defined rule.

    Raises:
        RelgraphError: for an unknown name, `k` or `neighbours` for a graph without them, a wrong `edge_index`, or what
            is no graph.
    """
    if isinstance(graph, str) and graph == "knn":
        return Nearest(8 if k is None else k, neighbours)
    if isinstance(graph, str) and graph != "dense":
        raise unknown("graph", graph, ("dense", "knn"))
    if k is not None or neighbours != "teacher":
        raise RelgraphError(f"k and neighbours belong to the graph 'knn', got k = {k} and neighbours = {neighbours!r}")
    if isinstance(graph, str):
        return ALL_PAIRS
    if isinstance(graph, Tensor):
        return Given(graph)
    if not callable(graph) or isinstance(graph, type):
        known = "'dense', 'knn', an edge_index (a tensor), a Rule such as Nearest(8), or a function"
        raise RelgraphError(f"the graph of a batch is {known}, got {type(graph).__name__}")
    return graph if isinstance(graph, Rule) else OwnRule(graph)
