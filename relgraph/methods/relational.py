"""What methods over the graphs of a batch have in common: nodes, topology and refinement."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import graph_pair, related
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Rule, WithOwn, make_rule
from relgraph.methods.base import PARTS, Batch, Method, Output, Part, labelled_cross_entropy, nodes_of

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


class Relational(Method):
    """A method that compares the student's graph of a batch with the teacher's: by one relation, or by its `compare`.

    On a sparse graph (k nearest neighbours or given edges) both networks weigh the same edges, chosen by the method's
    own kernel, and each node's edge to itself, which the published sums over all pairs include; with k = N - 1 it is
    the dense form, in value and gradient. With a refinement, the nodes are first moved by their neighbours in the graph
    of Pearson correlations, each network's by its own.

    Args:
        graph: "dense", "knn" (8 nearest neighbours), an `edge_index` (2, E) over the N images of every batch with the
            neighbours in row 0, or a rule such as `Nearest(k)`.
        nodes: What a node is: the projected "embedding", the pooled "feature" below it, or the last stage "map",
            flattened.
        refinement: Moves the nodes before they are compared; built for their widths.

    Raises:
        RelgraphError: for unknown names, or a learned refinement of maps, which no classifier of the teacher reads.
    """

    term: ClassVar[str] = ""  # what the loss of the one relation is called
    relation: Relation | None = None

    def __init__(self, graph: str | Tensor | Rule, nodes: Part, refinement: Refinement | None) -> None:
        super().__init__()
        if nodes not in PARTS:
            raise unknown("kind of nodes", nodes, PARTS)
        check_refinement(nodes, refinement)
        self.rule = make_rule(graph)
        self.nodes = nodes
        self.refinement = refinement
        self.reads = (nodes,)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return what the method's one relation says of the two graphs, under its `term`."""
        if self.relation is None:
            raise NotImplementedError
        pair = self.pair(student, teacher, self.relation.kernel)
        return {self.term: related(pair, self.relation)}

    def vectors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the nodes `(N, D_s)` and `(N, D_t)` of the two graphs, refined if there is a refinement."""
        s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
        if self.refinement is None:
            return s, t
        pair = graph_pair(s, t, topology=self.rule, refinement=self.refinement, match=False)
        return pair["student"].refined, pair["teacher"].refined

    def pair(self, student: Output, teacher: Output, kernel: Kernel) -> "HeteroData":
        """Return the two graphs of a batch, each with the kernel's weights; see `relgraph.graph_pair`."""
        pair = graph_pair(*self.vectors(student, teacher), topology=WithOwn(self.rule), kernel=kernel, match=False)
        return self.show(pair, kernel)

    def teacher_terms(
        self, student: Output, teacher: Output, batch: Batch, classify: Callable[[Output], Tensor]
    ) -> dict[str, Tensor]:
        """Return the teacher's cross-entropy on its refined nodes, `refined`, if that refinement learns."""
        if self.refinement is None or not self.refinement.learns:
            return {}
        s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
        matrices = pearson(s.detach()), pearson(t)
        edges = self.rule(*matrices, pearson)
        moved = self.refinement.refine(self.refinement.teacher, t, edges.pick(matrices[1]), edges)
        refined = Output(moved) if self.nodes == "embedding" else Output(teacher.embedding, feature=moved)
        return {"refined": labelled_cross_entropy(classify(refined), batch.labels)}

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the teacher's side of the refinement."""
        return () if self.refinement is None else tuple(self.refinement.teacher.parameters())


def check_refinement(nodes: Part, refinement: Refinement | None) -> None:
    """Raise RelgraphError for a learned refinement of maps, which no classifier of the teacher reads."""
    if nodes == "map" and refinement is not None and refinement.learns:
        raise RelgraphError(
            "a learned refinement trains the teacher's side by its classifier, which reads the nodes 'embedding' or "
            "'feature', got 'map'"
        )
