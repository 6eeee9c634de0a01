"""A relation: kernel, topology, scale and criterion put together."""

from dataclasses import dataclass

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.matching import Criterion, Scale, frobenius, raw
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges, Rule


@dataclass(frozen=True)
class Relation:
    """What two networks say of the pairs of one batch, compared: `criterion(scale(w_s), scale(w_t))`.

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

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the scalar for embeddings `(N, D_s)` and `(N, D_t)` of the same N images; the widths may differ.

        Raises:
            RelgraphError: if the two do not hold the same number of nodes.
        """
        check_nodes(student, teacher)
        matrices = self.kernel(student), self.kernel(teacher)
        edges = self.topology(*matrices, self.kernel)
        return self.compare(edges.pick(matrices[0]), edges.pick(matrices[1]), edges)

    def compare(self, student: Tensor, teacher: Tensor, topology: AllPairs | Edges) -> Tensor:
        """Return the scalar for the weights of the same edges, of a graph pair or of a matrix."""
        return self.criterion(self.scale(student, topology), self.scale(teacher, topology), topology)


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
