"""What methods over the graphs of a batch have in common: nodes, topology and refinement."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.forms import CROSSING, Form, check_form, choose, chooses_in_blocks
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import graph_pair, related
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation, check_nodes
from relgraph.graph.topology import AllPairs, Rule, WithOwn, make_rule
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
        form: How the comparison is computed, with the same value and gradient: through the "matrix" of all pairs, from
            "factored" products, or "blocked", some rows at a time; "auto" takes what suits the number of nodes (see
            `relgraph.graph.forms`). Not every method has every form; a refinement needs the matrix.
        relation: What compares the two graphs, of a method that needs no `compare` of its own.

    Raises:
        RelgraphError: for unknown names, a form that the method or the graph has not, or a learned refinement of maps,
            which no classifier of the teacher reads.
    """

    term: ClassVar[str] = ""  # what the loss of the one relation is called
    relation: Relation | None = None
    over: ProcessGroup = (
        SINGLE_PROCESS  # those that hold the rows of the batch that is compared: of one that is gathered, this one
    )

    def __init__(
        self,
        graph: str | Tensor | Rule,
        nodes: Part,
        refinement: Refinement | None,
        form: Form = "auto",
        relation: Relation | None = None,
    ) -> None:
        super().__init__()
        if nodes not in PARTS:
            raise unknown("kind of nodes", nodes, PARTS)
        check_refinement(nodes, refinement)
        self.rule = make_rule(graph)
        self.nodes = nodes
        self.refinement = refinement
        self.reads = (nodes,)
        if relation is not None:
            self.relation = relation
        self.graph_form = form
        known = self.known_forms()
        check_form(form, known, f"{type(self).__name__}{_circumstances(self.rule, refinement)}")

    def forms(self) -> tuple[Form, ...]:
        """Return the forms that the method has on all pairs, "auto" aside: those of its relation."""
        return ("matrix",) if self.relation is None else self.relation.forms()

    def known_forms(self) -> tuple[Form, ...]:
        """Return the forms that it has on its graph, "auto" aside."""
        if self.refinement is not None:
            return ("matrix",)
        if isinstance(self.rule, AllPairs):
            return self.forms()
        return ("matrix", "blocked") if chooses_in_blocks(self.rule) else ("matrix",)

    def form_of(self, student: Tensor, teacher: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Form:
        """Return the form in which nodes are compared, never "auto"; they may be the rows of one of `processes`."""
        count = processes.count * len(student)
        crossing = CROSSING if self.relation is None else self.relation.crossing
        return choose(self.graph_form, self.rule, self.known_forms(), student, teacher, count, crossing)

    def together(self, student: Output, teacher: Output, batch: Batch | None) -> tuple[Output, Output, Batch | None]:
        """Return what the method reads of all processes; in the factored form, which sums over them, what came in."""
        self.over = SINGLE_PROCESS
        if self.processes.count > 1 and not self.local and "factored" in self.known_forms():
            s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
            if self.form_of(s, t, self.processes) == "factored":
                self.over = self.processes
                return student, teacher, batch
        return super().together(student, teacher, batch)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return what the method's one relation says of the two graphs, under its `term`."""
        if self.relation is None:
            raise NotImplementedError
        pair = self.pair(student, teacher, self.relation.kernel)
        return {self.term: related(pair, self.relation, self.over)}

    def vectors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the nodes `(N, D_s)` and `(N, D_t)` of the two graphs, refined if there is a refinement."""
        s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
        if self.refinement is None:
            return s, t
        pair = graph_pair(s, t, topology=self.rule, refinement=self.refinement, match=False)
        return pair["student"].refined, pair["teacher"].refined

    def pair(self, student: Output, teacher: Output, kernel: Kernel) -> "HeteroData":
        """Return the two graphs of a batch, each with the kernel's weights; see `relgraph.graph_pair`."""
        return self.pair_of(*self.vectors(student, teacher), WithOwn(self.rule), kernel, match=False)

    def pair_of(self, student: Tensor, teacher: Tensor, rule: Rule, kernel: Kernel, match: bool) -> "HeteroData":
        """Return the pair of two networks' nodes in the form that suits them, after showing it."""
        check_nodes(student, teacher, one_width=match)
        form, over = self.form_of(student, teacher, self.over), self.over
        topology = self.rule if isinstance(self.rule, AllPairs) else rule
        pair = graph_pair(student, teacher, topology=topology, kernel=kernel, match=match, form=form, processes=over)
        return self.show(pair, kernel)

    def teacher_terms(
        self, student: Output, teacher: Output, batch: Batch, classify: Callable[[Output], Tensor]
    ) -> dict[str, Tensor]:
        """Return the teacher's cross-entropy on its refined nodes, `refined`, if that refinement learns."""
        if self.refinement is None or not self.refinement.learns:
            return {}
        student, teacher, whole = self.together(student, teacher, batch)
        assert whole is not None
        s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
        matrices = pearson(s.detach()), pearson(t)
        edges = self.rule(*matrices, pearson)
        moved = self.refinement.refine(self.refinement.teacher, t, edges.pick(matrices[1]), edges)
        refined = Output(moved) if self.nodes == "embedding" else Output(teacher.embedding, feature=moved)
        processes = self.processes if self.local else SINGLE_PROCESS
        return {"refined": labelled_cross_entropy(classify(refined), whole.labels, processes)}

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the teacher's side of the refinement."""
        return () if self.refinement is None else tuple(self.refinement.teacher.parameters())


def _circumstances(rule: Rule, refinement: Refinement | None) -> str:
    """Return what limits the forms of a method, in words."""
    if refinement is not None:
        return " with a refinement"
    return "" if isinstance(rule, AllPairs) else " on a sparse graph"


def check_refinement(nodes: Part, refinement: Refinement | None) -> None:
    """Raise RelgraphError for a learned refinement of maps, which no classifier of the teacher reads."""
    if nodes == "map" and refinement is not None and refinement.learns:
        raise RelgraphError(
            "a learned refinement trains the teacher's side by its classifier, which reads the nodes 'embedding' or "
            "'feature', got 'map'"
        )
