"""Embedding Graph Alignment (Ma, Chen, Akata, BMVC 2022, arXiv 2211.13264)."""

from typing import TYPE_CHECKING

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.factored import squares
from relgraph.graph.forms import Form, across_in_blocks
from relgraph.graph.kernels import Kernel, pearson, safe_sqrt
from relgraph.graph.matching import frobenius
from relgraph.graph.pair import MATCHES, graph_pair, has_weights, related, target, weights
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Chooser, Rule, make_rule
from relgraph.methods.base import Batch, Output, check_weights
from relgraph.methods.relational import Relational

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


class EGA(Relational):
    """Align the student's graph of a batch with the teacher's, and each student node with its own teacher node.

    With Pearson correlation `r(a, b)` of two embeddings over their D coordinates,

        L_edge = || r(s_i, s_j) - r(t_i, t_j) ||_F      L_node = || r(s_i, t_j) - 1[i = j] ||_F
        L = node_weight * L_node + edge_weight * L_edge

    over all pairs (`graph="dense"`), or over each node's k nearest neighbours (`graph="knn"`: both networks weigh
    the same edges, and a student node is compared with its own teacher node and with the teacher nodes of its
    neighbours), or over the edges of an `edge_index` (2, E). With k = N - 1 the sparse form is the dense one, in
    value and gradient. The norms are Frobenius norms, neither squared nor divided by N: both terms grow with the
    batch, so weights tuned at one N do not carry over to another.

    Called with student and teacher embeddings `(N, D)`, in this order; returns a scalar >= 0. The teacher receives
    no gradient.

    Paper, official code and this one: the paper writes one weight lambda = 0.3 for the edges, the code's command
    line 0.8 and 0.24 (= 0.8 * 0.3), its class 1 and 0.3; the defaults here are the command line's. The paper's
    "2-norm" is the Frobenius norm in the code, and here. The code's teacher is cut off by the order of two backward
    passes, here by a detach. The code gives NaN for the whole batch if one embedding is constant; here such a node
    has correlation 0 with everything, itself included (which is the one case in which the dense form, with its
    diagonal, differs from the sparse form at k = N - 1). `knn`, `edge_index` and `refine` are ours.

    Args:
        node_weight: Weight of the node term.
        edge_weight: Weight of the edge term.
        graph: "dense" or "knn", or an `edge_index` (2, E) over the N images of every batch, row 0 the neighbours of
            row 1, or a rule such as `Nearest(8)`.
        k: Neighbours of each node, 1..N-1, for "knn"; 8 if not given.
        neighbours: Whose correlations choose them: "teacher", "student", their "union" or their "mutual" part.
        refine: "smooth" or "conv": refine the nodes by their neighbours before they are matched (see
            `relgraph.graph.refine`).
        dim: Width of the embeddings; needed for `refine` alone.
        form: "auto", or how the same loss is computed: through the "matrix" of all pairs, from "factored" products
            (D, D), which suit large batches, or "blocked", some rows at a time (see `relgraph.graph.forms`).

    Raises:
        RelgraphError: for unknown names, k outside 1..N-1, embeddings of different N or D, a negative weight, or a form
            that the graph or the refinement has not.

    >>> import torch
    >>> loss = EGA(graph="knn", k=4)(torch.randn(16, 32, requires_grad=True), torch.randn(16, 32))
    >>> loss.shape, bool(loss > 0)
    (torch.Size([]), True)
    """

    paper = "Embedding Graph Alignment (Ma, Chen, Akata, BMVC 2022, arXiv 2211.13264)"
    kernel = "pearson"
    topology = "all pairs; across"
    criterion = "Frobenius norm"
    differs = (
        "the paper's 2-norm is the Frobenius norm, neither squared nor divided by N; a constant embedding gives NaN in "
        "the code, correlation 0 here; k-NN, given edges and refinement are ours"
    )

    def __init__(
        self,
        node_weight: float = 0.8,
        edge_weight: float = 0.24,
        graph: str | Tensor | Rule = "dense",
        k: int | None = None,
        neighbours: Chooser = "teacher",
        refine: str | None = None,
        dim: int | None = None,
        form: Form = "auto",
    ) -> None:
        check_weights(node_weight=node_weight, edge_weight=edge_weight)
        if refine is not None and dim is None:
            raise RelgraphError("refine needs dim, the width of the embeddings, got none")
        refinement = None if refine is None or dim is None else Refinement(refine, dim)
        super().__init__(make_rule(graph, k, neighbours), "embedding", refinement, form)
        self.node_weight = node_weight
        self.edge_weight = edge_weight
        self.edges = Relation(pearson, self.rule, criterion=frobenius)

    def forms(self) -> tuple[Form, ...]:
        """Return the forms that the method has on all pairs, "auto" aside."""
        return "matrix", "factored", "blocked"

    def pair(self, student: Output, teacher: Output, kernel: Kernel = pearson) -> "HeteroData":
        """Return the graph pair of a batch, which is what the loss reads; see `relgraph.graph_pair`.

        A node's edge to itself, of weight 1 in both networks, is left out of sparse graphs, and only the cross graph
        sees refined nodes.
        """
        nodes = student.embedding, teacher.embedding
        if self.refinement is None:
            return self.pair_of(*nodes, self.rule, kernel, match=True)
        return self.show(graph_pair(*nodes, topology=self.rule, kernel=kernel, refinement=self.refinement), kernel)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return `node` and `edge`, with their weights."""
        pair = self.pair(student, teacher)
        if has_weights(pair):
            node, edge = frobenius(weights(pair, MATCHES), target(pair)), related(pair, self.edges)
        else:
            node, edge = self._without_matrices(pair)
        return {"node": self.node_weight * node, "edge": self.edge_weight * edge}

    def _without_matrices(self, pair: "HeteroData") -> tuple[Tensor, Tensor]:
        """Return both terms of a pair of nodes alone, without their weights."""
        nodes = pair["student"].prepared, pair["teacher"].prepared
        if pair.form == "blocked":
            return across_in_blocks(pearson, *nodes), related(pair, self.edges)
        within, across = (safe_sqrt(x).to(nodes[0].dtype) for x in squares(*nodes, self.over))
        return across, within


def ega_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    node_weight: float = 0.8,
    edge_weight: float = 0.24,
    graph: str | Tensor | Rule = "dense",
    k: int | None = None,
    neighbours: Chooser = "teacher",
    form: Form = "auto",
) -> Tensor:
    """Return the loss of `EGA` for embeddings `(N, D)` of one batch, as a plain function: a scalar >= 0.

    The equation, the options and the errors are those of `EGA` (Ma, Chen, Akata, BMVC 2022, arXiv 2211.13264).

    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    >>> round(ega_loss(x, x, node_weight=1.0).item(), 4)  # nodes agree, but two images are correlated by -1/2
    0.7071
    """
    loss: Tensor = EGA(node_weight, edge_weight, graph, k, neighbours, form=form)(student, teacher)
    return loss
