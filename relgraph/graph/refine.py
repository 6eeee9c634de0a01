"""Refinement: a small graph network moves each node by its neighbours before the two sides are matched.

Edges keep their sign. A convolution that divides by the sum of *signed* weights divides by something near 0 and
gives NaN, so messages are normalised by the sum of magnitudes, and a node without edges gets none. Graph
convolutions of PyTorch Geometric are told the weights in the form that each can take (`Convolution`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel, at_least_float32, full_precision, quotient
from relgraph.graph.search import edge_weights
from relgraph.graph.topology import Edges, Nearest, Topology


def neighbourhood(x: Tensor, weights: Tensor, topology: Topology) -> Tensor:
    """Return the signed mean of each node's neighbours, `sum_j r_ij x_j / sum_j |r_ij|`, `(N, D) -> (N, D)`.

    A node itself is left out.

    `weights` are those of the topology's edges, a matrix `(N, N)` or `(E,)`. A node without edges, or with weights
    of 0 only, gets 0.
    """
    if not isinstance(topology, Edges):
        weights = weights.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)
    elif topology.has_own:
        weights = weights.masked_fill(topology.edge_index[0] == topology.edge_index[1], 0)
    return topology.messages(x, quotient(weights, topology.sum(weights.abs())))


class Smoothing(nn.Module):
    """The refinement without parameters, `x_i' = (1 - a) x_i + a sum_j r_ij x_j / sum_j |r_ij|`, `(N, D) -> (N, D)`.

    A step of label spreading on embeddings (Zhou et al., 2003) with signed weights.

    Raises:
        RelgraphError: if `strength` (a) is outside [0, 1].
    """

    def __init__(self, dim: int, strength: float = 0.5) -> None:
        super().__init__()
        if not 0 <= strength <= 1:
            raise RelgraphError(f"the strength of smoothing must be in [0, 1], got {strength}")
        self.strength = strength

    def forward(self, x: Tensor, weights: Tensor, topology: Topology) -> Tensor:
        """Return the moved nodes, `(N, D)`."""
        return torch.lerp(x, neighbourhood(x, weights, topology), self.strength)


class SignedConv(nn.Module):
    """The learned refinement, `x_i' = W x_i + V sum_j r_ij x_j / sum_j |r_ij| + b`, `(N, D) -> (N, D)`.

    GraphConv (Morris et al., 2019, arXiv 1810.02244) with edge weights normalised by magnitude, which is safe for
    signed ones. It starts as the identity (W = 1, V = 0, b = 0), so training begins at the unrefined loss.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(dim, dim, bias=False)
        self.neighbours = nn.Linear(dim, dim)
        nn.init.eye_(self.own.weight)
        nn.init.zeros_(self.neighbours.weight)
        nn.init.zeros_(self.neighbours.bias)

    def forward(self, x: Tensor, weights: Tensor, topology: Topology) -> Tensor:
        """Return the moved nodes, `(N, D)`."""
        moved: Tensor = self.own(x) + self.neighbours(neighbourhood(x, weights, topology))
        return moved


def raw(weights: Tensor, edges: Edges) -> dict[str, Tensor]:
    """Return weights as they are, as `edge_weight`."""
    return {"edge_weight": weights}


def signed(weights: Tensor, edges: Edges) -> dict[str, Tensor]:
    """Return weights that keep their sign, divided by the sum of the magnitudes of each anchor's, as `edge_weight`."""
    return {"edge_weight": quotient(weights, edges.sum(weights.abs()))}


def magnitudes(weights: Tensor, edges: Edges) -> dict[str, Tensor]:
    """Return magnitudes as `edge_weight`, for a convolution that divides by their sum."""
    return {"edge_weight": weights.abs()}


def attributes(weights: Tensor, edges: Edges) -> dict[str, Tensor]:
    """Return signed weights as `edge_attr`, (E, 1)."""
    return {"edge_attr": weights.unsqueeze(-1)}


def unweighted(weights: Tensor, edges: Edges) -> dict[str, Tensor]:
    """Return nothing: the convolution reads the edges alone."""
    return {}


class Convolution(nn.Module):
    """A graph convolution in the form of PyTorch Geometric, `x_i' = x_i + conv(x)_i`, `(N, D) -> (N, D)`.

    The node itself is added, since a convolution starts from random weights, and both networks' nodes would be
    unrelated at first. It runs over the edges of the graph, of all pairs those of two nodes, in both directions.

    Args:
        conv: Called with nodes `(N, D)`, `edge_index` (2, E), neighbour above anchor, and by name what `form` returns.
        form: What it is told of the weights `(E,)`: `raw`, `signed`, `magnitudes`, `attributes` or `unweighted`.
        skip: Whether the node is added; without, what `conv` returns is the refined node.

    Raises:
        RelgraphError: if `conv` returns anything else than `(N, D)`.
    """

    def __init__(
        self, conv: nn.Module, form: Callable[[Tensor, Edges], Mapping[str, Tensor]], skip: bool = True
    ) -> None:
        super().__init__()
        self.conv, self.form, self.skip = conv, form, skip

    def forward(self, x: Tensor, weights: Tensor, topology: Topology) -> Tensor:
        """Return the moved nodes, `(N, D)`."""
        if not isinstance(topology, Edges):
            topology = Edges(_between_two(len(x), x.device), len(x), len(x) - 1)
            weights = topology.pick(weights)
        moved = self.conv(x, topology.edge_index, **self.form(weights, topology))
        if not isinstance(moved, Tensor) or moved.shape != x.shape:
            got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
            raise RelgraphError(f"a refinement returns nodes as it gets them, expected {tuple(x.shape)}, got {got}")
        return x + moved if self.skip else moved


@lru_cache(maxsize=8)
def _between_two(count: int, device: torch.device) -> Tensor:
    """Return the edges of all pairs of two nodes, (2, N (N - 1)), anchor by anchor."""
    with torch.inference_mode(False):
        number = torch.arange(count * (count - 1), device=device)
        anchor, place = number // max(count - 1, 1), number % max(count - 1, 1)
        return torch.stack([place + (place >= anchor), anchor])


@dataclass(frozen=True)
class Refiner:
    """What builds the refinement of one network for the width of its nodes.

    Attributes:
        name: By which it is found again.
        build: From a width to a module, `(nodes (N, D), weights, topology) -> (N, D)`.
    """

    name: str
    build: Callable[[int], nn.Module]

    def __call__(self, dim: int) -> nn.Module:
        """Return a new module for nodes of a width."""
        return self.build(dim)


REFINERS = {name: Refiner(name, build) for name, build in (("smooth", Smoothing), ("conv", SignedConv))}


class Refinement(nn.Module):
    """One graph network for each side. Only the matching of nodes reads the refined nodes.

    The student's is trained by the distillation loss; the teacher's gets a detached input there and is trained, like
    the teacher's projection, by the teacher's own cross-entropy.

    Args:
        refiner: "smooth", "conv", or another that `relgraph.names.refiner` finds.
        dim: Width of the student's nodes.
        teacher_dim: Width of the teacher's, where it is another.

    Raises:
        RelgraphError: for an unknown name.
    """

    def __init__(self, refiner: str | Refiner, dim: int, teacher_dim: int | None = None) -> None:
        super().__init__()
        if isinstance(refiner, str) and refiner not in REFINERS:
            raise unknown("refinement", refiner, REFINERS)
        build = REFINERS[refiner] if isinstance(refiner, str) else refiner
        self.name, self.dim = build.name, dim
        self.teacher_dim = dim if teacher_dim is None else teacher_dim
        self.student = build(dim)
        self.teacher = build(self.teacher_dim)

    @property
    def learns(self) -> bool:
        """Whether the teacher's side has parameters."""
        return bool(list(self.teacher.parameters()))

    def refine(self, side: nn.Module, x: Tensor, weights: Tensor, topology: Topology) -> Tensor:
        """Return the nodes of one side, refined, in float32 or wider, `(N, D) -> (N, D)`.

        Raises:
            RelgraphError: if the nodes are not of the width that this refinement was built for.
        """
        dim = self.dim if side is self.student else self.teacher_dim
        if x.shape[-1] != dim:
            raise RelgraphError(f"the refinement was built for embeddings of width {dim}, got {x.shape[-1]}")
        with full_precision(x):
            refined: Tensor = side(at_least_float32(x), weights, topology)
            return refined


class Refined(NamedTuple):
    """The refinement of a method, and what it moves.

    Attributes:
        refinement: The modules of both networks.
        part: The part of an output that the nodes are.
        kernel: What weighs the edges.
    """

    refinement: Refinement
    part: Literal["embedding", "feature", "map"]
    kernel: Kernel


@dataclass(frozen=True)
class NodeRefinement:
    """The trained refinement of one network's vectors, which are moved by their neighbours among them.

    Attributes:
        module: The side of a `Refinement`.
        part: The part of an output that it moves.
        k: Neighbours of each vector, where no graph is given.
        kernel: What weighs the edges and finds neighbours.
    """

    module: nn.Module
    part: Literal["embedding", "feature"]
    k: int
    kernel: Kernel

    @torch.no_grad()
    def __call__(self, x: Tensor, topology: Topology | None = None) -> Tensor:
        """Return vectors `(N, D)` refined over a graph of them, or over the k nearest neighbours of each.

        The memory that this takes is that of a vector for each edge.
        """
        if topology is None:
            nearest = Nearest(min(self.k, len(x) - 1), "student").find(x, x, self.kernel) if len(x) > 1 else None
            topology = nearest or Edges(torch.empty(2, 0, dtype=torch.long, device=x.device), len(x))
        edges = topology.edge_index if isinstance(topology, Edges) else None
        weights = self.kernel(x) if edges is None else edge_weights(x, x, edges, self.kernel)
        refined: Tensor = self.module(at_least_float32(x), weights, topology)
        return refined
