"""A method made of a relation of the user's."""

from relgraph.errors import RelgraphError
from relgraph.graph.pair import PairBuilder
from relgraph.graph.relation import Relation
from relgraph.graph.topology import AllPairs
from relgraph.methods.relational import Relational


class Related(Relational):
    """Compare the graphs of a batch by one relation: `criterion(scale(w_s), scale(w_t))`.

    What `Relation` computes as a function of two tensors, as a method: with the published ones in a sum, over
    processes, in parts, with diagnostics. A relation of all pairs takes the graph that is chosen, with each node's edge
    to itself as in other methods; one with a topology of its own keeps it, and the edges of its rule alone. Its form,
    unless "auto", is kept where no other is chosen. Called with outputs or vectors of student and teacher, `(N, D_s)`
    and `(N, D_t)`; returns a scalar.

    Paper: none
    Differs: in nothing, since it is a user's own
    Topology: the relation's

    Args:
        relation: The relation, such as `Relation(cosine, criterion=huber)`.
        graph: See `Relational`; "dense" for a relation with a topology of its own.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.
        kernel: See `Relational`.
        scale: See `Relational`.
        criterion: See `Relational`.

    Raises:
        RelgraphError: for what is no relation, unknown names, a graph beside a topology of the relation's own, or a
            form that the relation or the graph does not support.

    >>> import torch
    >>> from relgraph.graph.criteria import mean_square
    >>> from relgraph.graph.kernels import cosine
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> Related(Relation(cosine, criterion=mean_square))(x, torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item()
    0.5
    """

    relation: Relation

    def __post_init__(self) -> None:
        """Take the relation's own topology and form, if it has them."""
        if not isinstance(self.relation, Relation):
            raise RelgraphError(f"Related compares by a Relation, got {self.relation!r}")
        self.has_edges = not isinstance(self.relation.topology, AllPairs)
        if self.has_edges:
            if (self.graph, self.k, self.neighbours) != ("dense", None, "teacher"):
                told = "the relation has a topology of its own, beside which no graph is chosen"
                given = f"{self.graph!r}, k = {self.k} and neighbours = {self.neighbours!r}"
                raise RelgraphError(f"{told}, got {given}")
            self.graph = self.relation.topology
        if self.form == "auto":
            self.form = self.relation.form
        super().__post_init__()

    def make_relation(self) -> Relation:
        """Return the relation."""
        return self.relation

    def make_builder(self) -> PairBuilder:
        """Return the builder of a pair of the chosen graph, or of the relation's own."""
        return self.relation.builder if self.has_edges else super().make_builder()
