"""Noise-contrastive estimation on labels, across the networks (as in the code of EGA, arXiv 2211.13264)."""

from typing import ClassVar

from torch import Tensor

from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.kernels import cosine, own_places
from relgraph.graph.pair import MATCHES, Pair, PairBuilder, anchors_of, has_weights, topology_of, weights
from relgraph.graph.scales import softmax
from relgraph.graph.topology import ALL_PAIRS, Edges, Topology
from relgraph.methods.base import Batch, Output, Part, Terms, labels_of, option
from relgraph.methods.relational import FixedParts


class NCE(FixedParts):
    """Identify, for each student node, the teacher's nodes of its class among those of all classes.

    With `p_ij` the softmax over j of `cos(s_i, t_j) / tau`, P(i) the images of the class of i, itself included, and
    Q(i) the others,

        L = 1 / N * sum_i [ mean over P(i) of -log(p_ij + 1e-10) + mean over Q(i) of -log(1 - p_ij + 1e-10) ]

    An image without label is of a class of its own, so only its own counterpart is a positive. On a sparse graph an
    anchor's candidates are its own counterpart and those of its neighbours. Called with outputs or vectors of one width
    `(N, D)` and a `Batch` with labels; returns a scalar >= 0.

    Paper, official code and this one: the loss is the one called NCE in EGA's table, from Compositional Contrastive
    Learning (Chen et al., CVPR 2021, arXiv 2104.10955), which sums it over both directions; EGA's code, and this one,
    have student anchors only. Where the batch has no image of another class the code gives NaN; here that mean is 0.

    Paper: NCE on labels (Chen et al., CVPR 2021, arXiv 2104.10955; as in EGA's code)
    Differs: the original sums both directions, EGA's code and this one have student anchors; images without label
        are classes of their own
    Kernel: cosine
    Topology: across
    Criterion: NCE

    Args:
        tau: Temperature > 0.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, tau <= 0, nodes of two widths, without a batch, or labels of another N.

    >>> import torch
    >>> student = torch.eye(3)
    >>> NCE()(student, student, Batch(torch.arange(3), torch.arange(3))).item() < 1e-3
    True
    """

    of_positions: ClassVar[bool] = False
    beside_nodes: ClassVar[tuple[str, ...]] = ("labels",)

    tau: float = option(default=0.1, above=0)
    nodes: Part = option(default="embedding", kw_only=True)

    def make_builder(self) -> PairBuilder:
        """Return the builder of the cross graph; each student node's own counterpart is among its candidates."""
        return PairBuilder(self.rule, cosine, match=True, forms=("matrix", "blocked"))

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `nce`."""
        count = anchors_of(pair)
        labels = labels_of(batch, type(self).__name__, len(pair["student"].x))
        if not has_weights(pair):

            def term(anchors: slice, student: Tensor, teacher: Tensor) -> Tensor:
                rows = cosine.matrix(student[anchors], teacher)
                return self._of(rows, same_class(labels, anchors), ALL_PAIRS)

            nodes = pair["student"].prepared, pair["teacher"].prepared
            return {"nce": sum_of_blocks(term, nodes, count) / count}
        edges = topology_of(pair, MATCHES)
        if isinstance(edges, Edges):
            candidate, anchor = edges.edge_index
            same = (candidate == anchor) | ((labels[anchor] >= 0) & (labels[anchor] == labels[candidate]))
        else:
            same = same_class(labels)
        return {"nce": self._of(weights(pair, MATCHES), same, edges) / count}

    def _of(self, weights: Tensor, same: Tensor, edges: Topology) -> Tensor:
        """Return the sum over anchors, from the weights of their edges and which of them join one class."""
        probability = softmax(self.tau)(weights, edges).exp()
        positive = _mean_of(-(probability + 1e-10).log(), same, edges)
        return positive + _mean_of(-(1 - probability + 1e-10).log(), ~same, edges)


def same_class(labels: Tensor, anchors: slice = slice(None)) -> Tensor:
    """Return which images are of one class, `(N,) -> (A, N)`; one without label (-1) only with itself.

    >>> import torch
    >>> same_class(torch.tensor([0, 0, -1, -1])).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    known = (labels >= 0) & (labels == labels[anchors].unsqueeze(-1))
    return known | own_places(labels, anchors)


def _mean_of(values: Tensor, chosen: Tensor, edges: Topology) -> Tensor:
    """Return the sum over anchors of the mean over the chosen ones of their edges; 0 where none is."""
    share = chosen.to(values.dtype)
    return (values * share / edges.sum(share).clamp_min(1)).sum()
