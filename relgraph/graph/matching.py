"""Matching: distance of the cross graph from the identity, which joins each student node to its teacher node."""

import torch
from torch import Tensor

from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.criteria import frobenius
from relgraph.graph.factored import Squares, squares
from relgraph.graph.kernels import Kernel, own_places
from relgraph.graph.pair import MATCHES, Pair, has_weights, weights


def matching(pair: Pair, kernel: Kernel) -> Tensor:
    """Return `|kernel(s_i, t_j) - 1[i = j]|`, the Frobenius norm over the edges of the cross graph: a scalar.

    The node term of EGA (Ma, Chen, Akata, 2022, arXiv 2211.13264), computed in the form of the pair; the factored form
    needs a dot kernel.

    >>> from relgraph.graph.kernels import pearson
    >>> from relgraph.graph.pair import graph_pair
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    >>> matching(graph_pair(x, x), pearson)  # nodes agree, but two images are correlated by -1/2
    tensor(0.7071)
    """
    if has_weights(pair):
        found = weights(pair, MATCHES)
        return frobenius(found, target(pair, found))
    student, teacher = pair["student"].prepared, pair["teacher"].prepared
    if pair.form == "factored":
        return frobenius.of_blocks(squares_of(pair).across, len(student)).to(
            torch.promote_types(student.dtype, teacher.dtype)
        )
    return across_in_blocks(kernel, student, teacher)


def target(pair: Pair, found: Tensor | None = None) -> Tensor:
    """Return the target of the cross graph: 1 between a student node and its own teacher node, else 0.

    The target has the shape and type of the weights, which may be given as `found`.
    """
    found = weights(pair, MATCHES) if found is None else found
    if pair.graph == "dense":
        return torch.eye(len(found), dtype=found.dtype, device=found.device)
    teacher, student = pair[MATCHES].edge_index
    own: Tensor = (teacher == student).to(found.dtype)
    return own


def squares_of(pair: Pair) -> Squares:
    """Return the squared differences of a factored pair of one width, computed once and stored in the pair."""
    if "squares" not in pair:
        pair.squares = squares(pair["student"].prepared, pair["teacher"].prepared, pair.sums.processes)
    found: Squares = pair.squares
    return found


def across_in_blocks(kernel: Kernel, student: Tensor, teacher: Tensor, block: int | None = None) -> Tensor:
    """Return `|kernel(S, T) - I|`, the Frobenius norm, of *prepared* nodes `(N, D)`, `block` rows at a time.

    >>> from relgraph.graph.kernels import linear
    >>> across_in_blocks(linear, torch.eye(2), torch.zeros(2, 2), block=1)
    tensor(1.4142)
    """

    def term(anchors: slice, student: Tensor, teacher: Tensor) -> Tensor:
        found = kernel.matrix(student[anchors], teacher)
        return frobenius.of_block(found, own_places(teacher, anchors).to(found.dtype))

    total = sum_of_blocks(term, (student, teacher), len(student), block)
    return frobenius.of_blocks(total, len(student)).to(torch.promote_types(student.dtype, teacher.dtype))
