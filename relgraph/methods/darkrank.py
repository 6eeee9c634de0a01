"""DarkRank, the hard form (Chen, Wang, Zhang, AAAI 2018, arXiv 1707.01220)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.kernels import Kernel, identity, own_places, squared_distance
from relgraph.graph.pair import STUDENT, TEACHER, PairBuilder, has_weights, topology_of, weights
from relgraph.methods.base import Batch, Output
from relgraph.methods.options import option
from relgraph.methods.relational import Relational

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


class DarkRank(Relational):
    """Let the student rank an image's nearest others in the teacher's order.

    With the score `S_ij = -rank_alpha |x_i - x_j|^rank_beta` of the nodes of one network, and j_1, ..., j_L those L
    others of image i (`length`) that the teacher scores best, best first,

        L = -1 / N * sum_i sum_l log( exp S^s_(i, j_l) / sum_{m >= l} exp S^s_(i, j_m) )

    the mean over images of minus the log-likelihood of the teacher's order under the student's Plackett-Luce model. On
    a sparse graph the list is taken from the image's edges, at least L of them; with k = N - 1 it is the dense form, in
    value and gradient. The loss depends on the length of the nodes: scores grow with a power of their distances, and
    the defaults come from codes with unit vectors (of float16 nodes longer than some tens the gradient overflows).

    Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. A graph
    whose anchors differ in their number of edges (given edges, union or mutual neighbours) reads the largest and the
    smallest number back from the device once a call; k nearest neighbours do not.

    Paper, official code and this one: the paper has a soft form too, the KL divergence over the orders, which is not
    here. The authors' own code ranks all others of a batch, of 8 unit vectors by default, for the images of its first
    half (`length=7`, but for all images). RKD's code, which this one follows, ranks the 4 nearest of every image, with
    alpha 2 and beta 3 in its script and 3 and 3 in its class, and drops the first of each order, where the image itself
    is unless another one equals it; here it is the image that is left out. Equal scores of the teacher stand in the
    order of the batch here, in any order there. Sparse graphs are ours.

    Args:
        rank_alpha: Scale of the scores, > 0.
        rank_beta: Power of the distances, > 0.
        length: How many others are ranked, at least 2: there is but one order of one.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, numbers out of range, outputs without the nodes that it reads, or images with
            fewer than `length` others, or edges, in the batch.

    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> DarkRank(length=2)(x, x).item() < 1e-4 < DarkRank(length=2)(x, -x[[1, 0, 3, 2]]).item()
    True
    """

    paper = (
        "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer (Chen, Wang, Zhang, AAAI "
        "2018, arXiv 1707.01220)"
    )
    kernel = "euclidean^beta"
    topology = "nearest others"
    criterion = "likelihood of order"
    differs = "the hard form alone; ranks each image's 4 nearest, as RKD's code, where DarkRank's own ranks the batch"

    rank_alpha: float = option(default=2.0, above=0)
    rank_beta: float = option(default=3.0, above=0)
    length: int = option(default=4, least=2)

    def make_builder(self) -> PairBuilder:
        """Return the builder of graphs of scores; sparse ones are without a node's edge to itself."""
        self.score = score(self.rank_alpha, self.rank_beta)
        return PairBuilder(self.rule, self.score, match=False, forms=("matrix", "blocked"))

    def compare_pair(
        self, pair: "HeteroData", student: Output, teacher: Output, batch: Batch | None
    ) -> dict[str, Tensor]:
        """Return `darkrank`."""
        if has_weights(pair):
            s, t = self.candidates(pair)
            return {"darkrank": self._of(s, t) / len(s)}
        return {"darkrank": self._in_blocks(pair["student"].prepared, pair["teacher"].prepared)}

    def _of(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the sum over anchors, from the scores of their candidates `(A, M)`."""
        best = teacher.argsort(dim=-1, descending=True, stable=True)[:, : self.length]
        return -log_likelihood(student.gather(-1, best)).sum()

    def _in_blocks(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the anchors of all pairs of prepared nodes, a block of rows at a time."""
        self._check(len(teacher) - 1)

        def term(anchors: slice, student: Tensor, teacher: Tensor) -> Tensor:
            rows = self.score.rows(student, anchors), self.score.rows(teacher, anchors)
            return self._of(rows[0], rows[1].masked_fill(own_places(teacher, anchors), float("-inf")))

        return sum_of_blocks(term, (student, teacher), len(teacher)) / len(teacher)

    def candidates(self, pair: "HeteroData") -> tuple[Tensor, Tensor]:
        """Return the scores `(N, M)` of each node's candidates; the teacher's are -inf where there is none."""
        s, t, edges = weights(pair, STUDENT), weights(pair, TEACHER), topology_of(pair)
        degree = self.rule.degree
        table = edges.table(degree)
        if table is None:
            self._check(len(t) - 1)
            return s, t.masked_fill(torch.eye(len(t), dtype=torch.bool, device=t.device), float("-inf"))
        self._check(int(table.real.sum(-1).min()) if degree is None else degree)
        return s[table.edges], t[table.edges].masked_fill(~table.real, float("-inf"))

    def _check(self, fewest: int) -> None:
        if fewest < self.length:
            raise RelgraphError(
                f"DarkRank ranks {self.length} others of each image: expected at least {self.length} in its graph, "
                f"got {fewest}"
            )


def score(alpha: float, beta: float) -> Kernel:
    """Return the kernel `-alpha |x - y|^beta`, with gradient 0 at distance 0.

    >>> score(2, 3)(torch.tensor([[0.0], [2.0]]))
    tensor([[ -0., -16.],
            [-16.,  -0.]])
    """

    def finish(square: Tensor) -> Tensor:
        positive = square > 0
        return -alpha * torch.where(positive, torch.where(positive, square, 1) ** (beta / 2), 0)

    return Kernel("euclidean^beta", identity, squared_distance, finish)


def log_likelihood(scores: Tensor) -> Tensor:
    """Return the logarithm of the Plackett-Luce probability of each row's order, `(N, L) -> (N,)`.

    `sum_l [ S_l - log sum_{m >= l} exp S_m ]`: the first is drawn among all, the next among the rest.

    >>> log_likelihood(torch.zeros(1, 3)).exp()  # each of the six orders is as probable
    tensor([0.1667])
    """
    length = scores.shape[-1]
    gone = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril(-1)
    rest = scores.unsqueeze(-2).expand(-1, length, -1).masked_fill(gone, float("-inf"))
    return (scores - rest.logsumexp(-1)).sum(-1)
