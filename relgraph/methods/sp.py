"""Similarity-preserving knowledge distillation (Tung, Mori, ICCV 2019, arXiv 1907.09682)."""

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import Kernel, dot, identity
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm
from relgraph.methods.base import Part, option
from relgraph.methods.relational import Relational

# Unit rows of G are scale-invariant, but squares of its numbers overflow, or vanish, without the division.
SIMILARITY = Kernel("linear", identity, dot, bounded=True)


class SP(Relational):
    """Match the teacher's pairwise similarities, each row of the similarity matrix divided by its length.

    With `G_ij = <x_i, x_j>` of the nodes of one network and each row of G divided by its length,

        L = 1 / N^2 * sum_ij (G^s_ij - G^t_ij)^2

    over all pairs, the diagonal included; over the edges of a sparse graph, rows and mean are those of its edges.
    Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0.

    Paper, official code and this one: the paper sums over pairs of layers, the code reads the last map alone, flattened
    and not normalised, as here by default (`nodes="map"`); bare vectors are read with `nodes="feature"`. A known
    third-party version divides rows by their sum of magnitudes instead. The weight 3000 is the authors'.

    Paper: Similarity-Preserving Knowledge Distillation (Tung, Mori, ICCV 2019, arXiv 1907.09682)
    Differs: the paper sums over pairs of layers; the code, and this one, read the last stage map
    Topology: all pairs

    Args:
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, or outputs without the nodes that it reads.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> round(SP(nodes="feature")(x, y).item(), 4)  # rows (1, 0), (0, 1), and (1, 1) / sqrt 2 twice
    0.2929
    """

    weight = 3000.0

    nodes: Part = option(default="map", kw_only=True)

    def make_relation(self) -> Relation:
        """Return the relation of rows of length 1."""
        return Relation(SIMILARITY, scale=by_anchor_norm, criterion=mean_square)
