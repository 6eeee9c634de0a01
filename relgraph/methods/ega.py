"""Embedding Graph Alignment (Ma, Chen, Akata, BMVC 2022, arXiv 2211.13264)."""

from dataclasses import replace
from typing import Any, Literal, Self

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import frobenius
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import Form, Pair, PairBuilder
from relgraph.graph.refine import Refiner
from relgraph.graph.relation import Relation, matching, own_matching
from relgraph.graph.topology import Chooser, Graph
from relgraph.methods.base import Batch, Output, RunFacts, Space, Terms, no_embedding, option
from relgraph.methods.relational import Relational
from relgraph.outputs import BatchEdges


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

    The node term asks correlation 0 of a student node and every other teacher node of its edges, also of those that the
    teacher finds near: it pushes true neighbours apart, which the edge term holds together. `cross="own"` leaves these
    out,

        L_node = sqrt( sum_i (r(s_i, t_i) - 1)^2 )

    and is the default of a run whose batches are neighbourhoods of the data set (`--scope dataset`), where every
    candidate is a near one and no far one is left for which 0 were right.

    The node term ties a student node to its own teacher node only while the batch is no larger than the width. The
    cross graph has rank D at most, so with N > D the term is at least sqrt(N - D), and a copy of the teacher is far
    from its optimum: of 256 random teacher vectors of width 128 with a common direction (half a standard deviation a
    coordinate) a copy has 55.5, the optimum 11.6, where a student node's correlation with its own teacher node is 0.56.
    A student that is to answer queries against the teacher's vectors needs another anchor, such as that of `csd` or
    `raml`.

    Called with student and teacher embeddings `(N, D)`, in this order; returns a scalar >= 0. The teacher receives
    no gradient.

    Paper, official code and this one: the paper writes one weight lambda = 0.3 for the edges, the code's command
    line 0.8 and 0.24 (= 0.8 * 0.3), its class 1 and 0.3; the defaults here are the command line's. The paper's
    "2-norm" is the Frobenius norm in the code, and here. The code keeps gradient from the teacher by the order of two
    backward passes, here it is detached. The code gives NaN for the whole batch if one embedding is constant; here such
    a node has correlation 0 with everything, itself included (which is the one case in which the dense form, with its
    diagonal, differs from the sparse form at k = N - 1). `knn`, `edge_index` and refinement are ours.

    Paper: Embedding Graph Alignment (Ma, Chen, Akata, BMVC 2022, arXiv 2211.13264)
    Differs: the paper's 2-norm is the Frobenius norm, neither squared nor divided by N; a constant embedding gives
        NaN in the code, correlation 0 here; k-NN, given edges and refinement are ours
    Topology: all pairs; across

    Args:
        node_weight: Weight of the node term.
        edge_weight: Weight of the edge term.
        cross: What the node term compares: the cross graph on all "edges", or each node and its "own" teacher node.
        graph: "dense" or "knn", or an `edge_index` (2, E) over the N images of every batch, row 0 the neighbours of
            row 1, or a rule such as `Nearest(8)`.
        k: Neighbours of each node, 1..N-1, for "knn"; 8 if not given.
        neighbours: Whose correlations choose them: "teacher", "student", their "union" or their "mutual" part.
        nodes: The "embedding", or the "positions" of the last stage map, whose node term needs maps of as many channels
            (see `Relational`).
        pool: See `Relational`.
        refinement: Moves the nodes by their neighbours before they are matched, such as `Refinement("smooth", D)` (see
            `relgraph.graph.refine`).
        form: "auto", or how the same loss is computed: through the "matrix" of all pairs, from "factored" products
            (D, D), for large batches, or "blocked", a block of rows at a time (see `relgraph.graph.pair`).
        kernel: What weighs the edges and the cross graph in place of Pearson correlation, such as `cosine`; a distance
            needs `node_weight=0`, since equal nodes are matched with 1. A sparse graph has no edge of a node to itself,
            so at k = N - 1 it is the dense form only where both networks weigh that edge alike, and (of `scale` and
            `criterion`) where each edge counts by itself.
        scale: A scale of the edges, such as `by_mean`, or a function of the weights of one anchor.
        criterion: Criterion of the edges in place of the Frobenius norm, such as `huber`, or a function of the weights
            of one anchor in both networks.

    Raises:
        RelgraphError: for unknown names, k outside 1..N-1, embeddings of different N or D, a negative weight, or a form
            that the graph or the refinement does not support.

    >>> import torch
    >>> loss = EGA(graph="knn", k=4)(torch.randn(16, 32, requires_grad=True), torch.randn(16, 32))
    >>> loss.shape, bool(loss > 0)
    (torch.Size([]), True)
    """

    node_weight: float = option(default=0.8, least=0, term="node")
    edge_weight: float = option(default=0.24, least=0, term="edge")
    cross: Literal["edges", "own"] = option(default="edges", kw_only=True)
    nodes: Literal["embedding", "positions"] = option(default="embedding", kw_only=True)

    @classmethod
    def for_run(cls, run: RunFacts, refine: str | Refiner | None = None, **options: Any) -> Self:
        """Return the method; where all candidates are true neighbours, nodes are matched with their own by default."""
        return super().for_run(run, refine, **({"cross": "own"} if run.of_data_set else {}) | options)

    def make_relation(self) -> Relation:
        """Return the edge term's relation."""
        return Relation(pearson, self.rule, criterion=frobenius)

    def make_builder(self) -> PairBuilder:
        """Return the builder of a pair whose cross graph alone has refined nodes.

        A node's edge to itself, of weight 1 in both networks, is left out of sparse graphs.
        """
        assert self.relation is not None
        if self.node_weight > 0 and not self.relation.kernel.nearest_is_largest:
            expected = "expected a kernel that is largest where nodes are equal, or node_weight=0"
            raise RelgraphError(f"EGA matches nodes by its kernel: {expected}, got {self.relation.kernel.name}")
        match = self.node_weight > 0 or self.nodes == "embedding"
        return replace(self.relation.builder, refinement=self.refinement, match=match)

    @property
    def moving_kernel(self) -> Kernel:
        """The kernel of the edges."""
        return self.builder.kernel

    def space(self) -> Space:
        """Return the space of the embeddings, which the node term makes one."""
        return Space("embedding", joint=self.node_weight > 0) if self.nodes == "embedding" else super().space()

    def vectors(self, student: Output, teacher: Output, edges: BatchEdges | None = None) -> tuple[Tensor, Tensor]:
        """Return the embeddings, which the pair itself refines."""
        s, t = student.embedding, teacher.embedding
        if s is None or t is None:
            raise no_embedding("EGA")
        return s, t

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `node` and `edge`; without a cross graph `edge` alone."""
        assert self.relation is not None
        if not self.builder.match:
            return {"edge": self.relation.of_pair(pair)}
        match = matching if self.cross == "edges" else own_matching
        return {"node": match(pair, self.relation.kernel), "edge": self.relation.of_pair(pair)}


def ega_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    node_weight: float = 0.8,
    edge_weight: float = 0.24,
    graph: Graph = "dense",
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
    method = EGA(node_weight, edge_weight, graph=graph, k=k, neighbours=neighbours, form=form)
    loss: Tensor = method(student, teacher)
    return loss
