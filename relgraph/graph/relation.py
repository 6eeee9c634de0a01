"""A relation: kernel, topology, scale and criterion put together."""

from dataclasses import dataclass

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.factored import compare_factored, factors
from relgraph.graph.forms import (
    CROSSING,
    CROSSING_OF_NORMS,
    Form,
    blocks,
    check_form,
    choose,
    chooses_in_blocks,
    compare_in_blocks,
    edges_in_blocks,
    weigh_edges,
)
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.matching import Criterion, Scale, by_anchor_norm, frobenius, raw
from relgraph.graph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges, Rule


@dataclass(frozen=True)
class Relation:
    """What two networks say of the pairs of one batch, compared: `criterion(scale(w_s), scale(w_t))`.

    `form` says how it is computed, with the same value and gradient (`relgraph.graph.forms`): "matrix", "factored",
    "blocked", or "auto", what suits the number of nodes. Only the matrix can be differentiated twice.

    Raises:
        RelgraphError: for an unknown form, or one that this relation has not.

    >>> import torch
    >>> from relgraph.graph.kernels import linear
    >>> from relgraph.graph.matching import by_anchor_norm, mean_square
    >>> similarity_preserving = Relation(linear, scale=by_anchor_norm, criterion=mean_square)
    >>> similarity_preserving(torch.eye(3), torch.eye(3))
    tensor(0.)
    """

    kernel: Kernel = pearson
    topology: Rule = ALL_PAIRS
    scale: Scale = raw
    criterion: Criterion = frobenius
    form: Form = "auto"

    def __post_init__(self) -> None:
        """Check the form."""
        check_form(self.form, self.forms(), f"the relation of {self.kernel.name} weights")

    def forms(self) -> tuple[Form, ...]:
        """Return the forms that this relation has, "auto" aside.

        >>> Relation().forms(), Relation(criterion=lambda s, t, topology: (s - t).abs().sum()).forms()
        (('matrix', 'factored', 'blocked'), ('matrix',))
        """
        if not isinstance(self.topology, AllPairs):
            return ("matrix", "blocked") if chooses_in_blocks(self.topology) else ("matrix",)
        found: tuple[Form, ...] = ("matrix",)
        if factors(self.kernel, self.scale, self.criterion):
            found = (*found, "factored")
        return (*found, "blocked") if blocks(self.scale, self.criterion) else found

    @property
    def crossing(self) -> int:
        """Number of nodes for each of their columns above which the factored form is cheaper."""
        return CROSSING_OF_NORMS if self.scale is by_anchor_norm else CROSSING

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the scalar for embeddings `(N, D_s)` and `(N, D_t)` of the same N images; the widths may differ.

        Raises:
            RelgraphError: if the two do not hold the same number of nodes.
        """
        check_nodes(student, teacher)
        form = choose(
            self.form, self.topology, self.forms(), student, teacher, student.shape[-2], crossing=self.crossing
        )
        if form == "matrix":
            matrices = self.kernel(student), self.kernel(teacher)
            edges = self.topology(*matrices, self.kernel)
            return self.compare(edges.pick(matrices[0]), edges.pick(matrices[1]), edges)
        check_one_batch(student, form)
        nodes = self.kernel.nodes(student), self.kernel.nodes(teacher)
        if isinstance(self.topology, AllPairs):
            return self.compare_nodes(*nodes, form)
        edges = edges_in_blocks(self.topology, student, teacher, self.kernel)
        s, t = (weigh_edges(z, z, edges, self.kernel) for z in nodes)
        return self.compare(s, t, edges)

    def compare_nodes(
        self, student: Tensor, teacher: Tensor, form: Form, processes: ProcessGroup = SINGLE_PROCESS
    ) -> Tensor:
        """Return the scalar of all pairs of *prepared* nodes `(N, D_s)` and `(N, D_t)`, in the form of no matrix.

        In the factored form they may be the rows of one of `processes`.
        """
        parts = self.kernel, self.scale, self.criterion
        if form == "factored":
            return compare_factored(*parts, student, teacher, processes)
        return compare_in_blocks(*parts, student, teacher)

    def compare(self, student: Tensor, teacher: Tensor, topology: AllPairs | Edges) -> Tensor:
        """Return the scalar for the weights of the same edges, of a graph pair or of a matrix."""
        return self.criterion(self.scale(student, topology), self.scale(teacher, topology), topology)


def check_one_batch(nodes: Tensor, form: Form) -> None:
    """Raise RelgraphError for batches of graphs, (..., N, D), in a form that has none."""
    if nodes.ndim != 2:
        raise RelgraphError(f"the {form} form compares the graphs of one batch (N, D), got {tuple(nodes.shape)}")


def check_nodes(student: Tensor, teacher: Tensor, one_width: bool = False) -> None:
    """Raise RelgraphError unless both have as many rows (and columns, if asked), floating point, one device."""
    if student.ndim < 2 or teacher.ndim < 2 or student.shape[:-1] != teacher.shape[:-1]:
        expected = "embeddings must be (N, D), student and teacher of the same N images"
        raise RelgraphError(f"{expected}, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    if student.numel() == 0 or teacher.numel() == 0:
        raise RelgraphError(f"embeddings must not be empty, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    if one_width and student.shape[-1] != teacher.shape[-1]:
        widths = f"{student.shape[-1]} and {teacher.shape[-1]}"
        raise RelgraphError(
            f"matching nodes needs embeddings of one width: project student and teacher to it, got {widths}"
        )
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise RelgraphError(f"embeddings must be of floating point, got {student.dtype} and {teacher.dtype}")
    if student.device != teacher.device:
        raise RelgraphError(f"student and teacher must lie on one device, got {student.device} and {teacher.device}")
