"""Refinement: a small graph network moves each node by its neighbours before the two sides are matched.

Edges keep their sign. A convolution that divides by the sum of *signed* weights divides by something near 0 and
gives NaN, so messages are normalised by the sum of magnitudes, and a node without edges keeps its embedding.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import at_least_float32, full_precision, quotient
from relgraph.graph.topology import Topology


def neighbourhood(x: Tensor, weights: Tensor, topology: Topology) -> Tensor:
    """Return the signed mean of each node's neighbours, `sum_j r_ij x_j / sum_j |r_ij|`, `(N, D) -> (N, D)`.

    A node itself is left out.

    `weights` are those of the topology's edges, a matrix `(N, N)` or `(E,)`. A node without edges, or with weights
    of 0 only, gets 0.
    """
    if topology.dense:
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        weights = weights.masked_fill(itself, 0)
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


REFINERS: dict[str, Callable[[int], nn.Module]] = {"smooth": Smoothing, "conv": SignedConv}


class Refinement(nn.Module):
    """One graph network for each side. Only the matching of nodes reads the refined nodes.

    The student's is trained by the distillation loss; the teacher's gets a detached input there and is trained, like
    the teacher's projection, by the teacher's own cross-entropy.

    Args:
        name: "smooth" or "conv".
        dim: Width of the student's nodes.
        teacher_dim: Width of the teacher's, where it is another.

    Raises:
        RelgraphError: for an unknown name.
    """

    def __init__(self, name: str, dim: int, teacher_dim: int | None = None) -> None:
        super().__init__()
        if name not in REFINERS:
            raise unknown("refinement", name, REFINERS)
        self.dim = dim
        self.teacher_dim = dim if teacher_dim is None else teacher_dim
        self.student = REFINERS[name](dim)
        self.teacher = REFINERS[name](self.teacher_dim)

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
