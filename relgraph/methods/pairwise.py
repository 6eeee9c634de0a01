"""Pair-wise similarities of positions (Liu, Chen, Liu, Qin, Luo, Wang, CVPR 2019, arXiv 1903.04197)."""

from typing import Literal

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import Kernel, dot, nearly_unit
from relgraph.graph.relation import Relation
from relgraph.methods.base import Part, option
from relgraph.methods.relational import FixedParts

EPSILON = 1e-8


class Pairwise(FixedParts):
    """Match the teacher's cosines between the positions of each image, the pair-wise term of structured distillation.

    With x_i the C channels at position i of the last stage map, pooled, and P positions,

        a_ij = <x_i, x_j> / (|x_i| |x_j|)        L = 1 / (B P^2) * sum_b sum_ij (a^s_ij - a^t_ij)^2

    over the B images of the batch, the diagonal included. Called with outputs that hold maps `(B, C_s, H, W)` and `(B,
    C_t, h, w)`; returns a scalar in [0, 4]. The teacher receives no gradient.

    Paper, official code and this one: the code divides by the lengths plus 1e-8 as by constants, so that its gradient
    also changes the lengths of vectors, as here by default; `constant_norm=False` is the true gradient. It pools maps
    by their largest number over windows of half of the map (`pool=0.5`, which leaves 2 x 2 positions, 3 x 3 of an odd
    side), where the paper averages windows of 2 x 2 positions (`pooling="mean"` and the share 2 / H as the pool). The
    weight is 0.5 in the code's script, 10 in the paper.

    Paper: Structured Knowledge Distillation for Semantic Segmentation (Liu et al., CVPR 2019, arXiv 1903.04197)
    Differs: the code pools to 2 x 2 positions by the largest number and holds the lengths constant, as here; the paper
        averages over windows of 2 x 2; its weight is 10, the code's 0.5
    Topology: positions of one image

    Args:
        constant_norm: Whether the lengths are constants for the gradient.
        pooling: How a window becomes one position: the "max" of each channel, or its "mean".
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        pool: See `Relational`; half of the map if not given, 1 / H leaves it as it is.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, or outputs without the maps that it reads.

    >>> import torch
    >>> from relgraph.methods import Output
    >>> student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)
    >>> loss = Pairwise()(Output(student, maps=(student,)), Output(teacher, maps=(teacher,)))
    >>> bool(0 < loss < 4)
    True
    """

    weight = 0.5

    constant_norm: bool = option(default=True, kw_only=True)
    pooling: Literal["max", "mean"] = option(default="max", kw_only=True)  # type: ignore[misc]
    nodes: Part = option(default="positions", kw_only=True)
    pool: float | None = option(default=0.5, above=0, most=1, kw_only=True)

    def make_relation(self) -> Relation:
        """Return the relation of the cosines."""
        return Relation(Kernel("cosine", nearly_unit(EPSILON, self.constant_norm), dot), criterion=mean_square)
