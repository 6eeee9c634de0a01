"""Probabilistic knowledge transfer (Passalis, Tefas, ECCV 2018, arXiv 1803.10837)."""

from torch import Tensor

from relgraph.graph.criteria import kl
from relgraph.graph.kernels import Kernel, dot, nearly_unit
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_sum
from relgraph.methods.relational import Relational


def _half(cosine: Tensor) -> Tensor:
    # Rounding can make the cosine of opposite nodes less than -1, and the logarithm of a negative number is NaN.
    return (cosine + 1).clamp_min(0) / 2


def _directions(x: Tensor) -> Tensor:
    # Rows are divided by their length plus 1e-7, as in the official code: it changes the ninth digit, and makes
    # similarities of opposite rows about 1e-7, as the 1e-7 in the logarithm, where float32 would round them to 6e-8.
    return nearly_unit(1e-7)(x.double())


SIMILARITY = Kernel("(cosine + 1) / 2", _directions, dot, _half)


class PKT(Relational):
    """Match the teacher's distribution of each image over the others: their probabilities as its neighbours.

    With `K_ij = (cos(x_i, x_j) + 1) / 2` and `p_ij = K_ij / sum_k K_ik` of the nodes of one network,

        L = 1 / N^2 * sum_ij p^t_ij log((p^t_ij + 1e-7) / (p^s_ij + 1e-7))

    over all pairs, the diagonal included; over the edges of a sparse graph, sums and mean are those of its edges.
    Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar.

    Paper, official code and this one: the code and this one keep the image itself in its distribution, which the paper,
    from memory and not verified, leaves out. The code takes the mean over all N^2 entries where a sum over each row is
    meant, hence the benchmark's weight of 30,000; its label term, which no benchmark uses, is not here. EGA's code
    reads the projected embeddings with weight 1 (`nodes="embedding"`).

    Paper: Learning Deep Representations with Probabilistic Knowledge Transfer (Passalis, Tefas, ECCV 2018, arXiv
        1803.10837)
    Differs: the code, as here, keeps the image itself in its distribution and divides by N^2, hence the weight
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
    >>> x = torch.randn(8, 4)
    >>> PKT()(x, 3 * x).abs().item() < 1e-8  # it does not see lengths
    True
    """

    weight = 30000.0

    def make_relation(self) -> Relation:
        """Return the relation of probabilities."""
        return Relation(SIMILARITY, scale=by_anchor_sum, criterion=kl)
