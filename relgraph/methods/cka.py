"""Centred kernel alignment (Kornblith et al., ICML 2019, arXiv 1905.00414) as a distillation loss."""

from dataclasses import replace

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import sum_square
from relgraph.graph.kernels import Kernel, centred, dot, unit
from relgraph.graph.pair import Pair
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale, by_norm
from relgraph.graph.topology import AllPairs, Topology
from relgraph.methods.base import Batch, Output, Terms, option
from relgraph.methods.relational import FixedParts, related

# Independent of the nodes' scale, and in float64, where the mean of rows that lie far from the origin leaves digits.
SIMILARITY = Kernel("linear", Tensor.double, dot, bounded=True)


def _anchor_unit(x: Tensor, y: Tensor) -> Tensor:
    return unit(x) @ y.mT


def _half(total: Tensor, anchors: int, edges: int) -> Tensor:
    return total / 2


def unbiased(weights: Tensor, topology: Topology) -> Tensor:
    """Return a matrix of all pairs `(N, N)` with 0 in the diagonal, whose rows and columns have the sum 0.

    `K_ij - r_i / (n - 2) - c_j / (n - 2) + total / ((n - 1)(n - 2))` for i != j, r and c the sums of rows and columns
    without the diagonal: the inner product of two such matrices is n (n - 3) times the unbiased estimate HSIC_1 (Song
    et al., JMLR 2012). Of fewer than four nodes it is 0.
    """
    assert isinstance(topology, AllPairs)
    n, own = weights.shape[-1], torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    if n < 4:
        return 0 * weights
    others = weights.masked_fill(own, 0)
    rows, columns = others.sum(-1, keepdim=True), others.sum(-2, keepdim=True)
    total = rows.sum(-2, keepdim=True) / (n - 1)
    found = (others - (rows + columns - total) / (n - 2)).masked_fill(own, 0)
    # What rounding leaves of a matrix of equal numbers is no graph, though its norm would make one of it.
    rounding = 4 * n * torch.finfo(weights.dtype).eps * others.detach().norm()
    return torch.where(found.detach().norm() > rounding, found, 0 * found)


# With a divisor of the whole graph it has no blocked form: the sums of columns need all rows.
UNBIASED = Scale("unbiased norm", unbiased, divisor=by_norm.divisor)
HALF_SQUARE = replace(sum_square, finish=_half, name="half sum of squares")


class CKA(FixedParts):
    """Align the student's graph of dot products as a whole with the teacher's, whatever rotates or scales the nodes.

    With X of the nodes of each network, `(N, D)`, `H = I - 1 1' / N`, `K = H X^s X^s' H` and L of the teacher,

        CKA = <K, L> / (|K| |L|)        L = 1 - CKA = 1/2 * || K / |K| - L / |L| ||^2

    in Frobenius norms: a relation with a centred kernel and a scale by the norm of the whole graph. On a sparse graph
    products and norms are those of its edges. Called with outputs or vectors of student and teacher, `(N, D_s)` and
    `(N, D_t)`; returns a scalar in [0, 1]. A network whose nodes are all equal has no graph, and the other one's is at
    1/2 from it.

    With `unbiased=True` the products are the unbiased estimates HSIC_1, and the value is in [0, 2]; choose it where the
    batch is small beside the width: the CKA of unrelated features tends to 1 as D / N grows, so that little is left to
    train. It needs all pairs and four images; of fewer the loss is 0.

    Paper, official code and this one: CKA is a measure; as a loss it is 1 minus the measure. RCKA and PCKA (Zhou et
    al., IJCAI 2024, arXiv 2401.11824) have it with weights of 10 and 15 for detectors. Their code does not centre, in
    spite of the name, and returns minus the alignment, whose least value is -1: that is `centred=False, official=True`
    (with `rows=True` its option that divides each row of a matrix by the length of its node and leaves the columns as
    they are, so that matrices are no longer symmetric). Their patches and channels as nodes are vectors that you give.

    Paper: Similarity of Neural Network Representations Revisited (Kornblith, Norouzi, Lee, Hinton, ICML 2019, arXiv
        1905.00414)
    Differs: 1 less the measure; the code of RCKA and PCKA (arXiv 2401.11824) is not centred, and returns minus the
        alignment, as here with centred=false,official=true
    Topology: all pairs

    Args:
        unbiased: Whether the estimates are unbiased.
        centred: Whether the nodes are centred over the batch.
        rows: Whether each row of a matrix is divided by the length of its node.
        official: Whether the loss is minus the alignment, as in the code of RCKA, 1 less than else.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, outputs without the nodes that it reads, or `unbiased` on a sparse graph.

    >>> x = torch.randn(8, 4)
    >>> rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    >>> CKA()(x, 3 * x @ rotation + 1).abs().item() < 1e-6
    True
    """

    unbiased: bool = option(default=False, kw_only=True)
    centred: bool = option(default=True, kw_only=True)
    rows: bool = option(default=False, kw_only=True)
    official: bool = option(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Check that there is an unbiased estimate."""
        super().__post_init__()
        if self.unbiased and not self.rule.dense:
            raise RelgraphError(f"the unbiased CKA is one of all pairs: expected the graph 'dense', got {self.graph!r}")

    def make_relation(self) -> Relation:
        """Return the relation of the options."""
        kernel = centred(SIMILARITY) if self.centred else SIMILARITY
        if self.rows:
            kernel = replace(kernel, name=f"{kernel.name} by anchor length", product=_anchor_unit)
        return Relation(kernel, scale=UNBIASED if self.unbiased else by_norm, criterion=HALF_SQUARE)

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `cka`."""
        assert self.relation is not None
        return {"cka": related(self.relation, pair) - int(self.official)}
