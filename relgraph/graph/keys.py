"""Keys beyond the batch: each node is related to its own teacher vector and to the nearest keys of a memory.

A memory may be a queue, a bank with a slot for each training image, or vectors in files: prepared keys `(M, D)`, read
in blocks. Neither the weights of a batch and all keys, `(N, M)`, nor the chosen keys of all anchors, `(N, k, D)`, are
held: the keys are searched a block at a time, and a block of anchors is compared forward and backward at once.
"""

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph import blocks
from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.kernels import Kernel
from relgraph.graph.pair import AGAINST, check_nodes
from relgraph.graph.relation import Relation
from relgraph.graph.search import Rows, fitting, nearness
from relgraph.graph.topology import ALL_PAIRS


@torch.no_grad()
def nearest_keys(
    nodes: Tensor, keys: Rows, k: int, kernel: Kernel, own: Tensor | None = None, *, shared: bool = False,
    block: int | None = None,
) -> Tensor:  # fmt: skip
    """Return the positions of each node's k nearest keys, nearest first, `(N, D), (M, D) -> (N, k)`.

    Of equally near keys any may be chosen. Nodes and keys are prepared.

    Args:
        nodes: `(N, D)`.
        keys: `(M, D)`, read `block` at a time.
        k: At most the number of keys that are not left out.
        kernel: What weighs them.
        own: Position of a key of each node that is left out, `(N,)`, such as its own slot in a bank.
        shared: Whether the keys of all nodes are left out of all.
        block: Keys that are read at a time; chosen by the number of nodes if not given.

    >>> from relgraph.graph.kernels import cosine
    >>> nearest_keys(torch.eye(2), torch.eye(2).flip(0), 1, cosine, own=torch.tensor([1, 1]))
    tensor([[0],
            [0]])
    """
    block = fitting(max(1, blocks.LARGEST // len(nodes)), len(keys), keys) if block is None else block
    best, found = nodes.new_zeros(len(nodes), 0), torch.zeros(len(nodes), 0, dtype=torch.long, device=nodes.device)
    for start in range(0, len(keys), block):
        tile = nearness(kernel, nodes, keys[start : start + block])
        place = torch.arange(start, start + tile.shape[1], device=tile.device)
        if own is not None:
            tile = tile.masked_fill(torch.isin(place, own) if shared else own.unsqueeze(-1) == place, -torch.inf)
        best, found = torch.cat([best.to(tile), tile], 1), torch.cat([found, place.expand(len(nodes), -1)], 1)
        best, order = best.topk(min(k, best.shape[1]))
        found = found.gather(1, order)
    return found


def keys_around(
    kernel: Kernel, teacher: Tensor, keys: Rows, k: int, own: Tensor | None = None, *, batch: bool = False
) -> Tensor:
    """Return the positions of the keys with which `related_to_keys` compares the teacher's nodes `(N, D)`, `(N, k)`.

    Args:
        kernel: What weighs them.
        teacher: Nodes, not prepared.
        keys: Prepared keys `(M, D)`.
        k: Keys of each anchor; all that there are, if they are fewer.
        own: Position of the key that is the anchor's own image, `(N,)`, and is left out; with `batch`, those of all.
        batch: Whether all nodes of the batch are keys beside these.

    Raises:
        RelgraphError: if nodes and keys are not of one width.
    """
    if keys.shape[-1] != teacher.shape[-1]:
        raise RelgraphError(f"keys must be (M, {teacher.shape[-1]}) as the teacher's nodes, got {tuple(keys.shape)}")
    left = len(keys) - (0 if own is None else len(teacher) if batch else 1)
    return nearest_keys(kernel.nodes(teacher.detach()), keys, max(0, min(k, left)), kernel, own, shared=batch)


def related_to_keys(
    relation: Relation, student: Tensor, teacher: Tensor, keys: Rows, near: Tensor, *, batch: bool = False
) -> Tensor:
    """Return a relation of the student's nodes to their own teacher vectors and the nearest keys of each: a scalar.

        w_s(i, j) = kernel(s_i, c_ij)    w_t(i, j) = kernel(t_i, c_ij)    c_i = [t_i, the keys near_i]

    With `batch` the keys of each anchor begin with all teacher nodes of the batch, not its own alone: the nearest keys
    lie all on one side, so that a criterion of their differences, as after a softmax, says little of where in the
    teacher's space the student's node is. The student alone receives gradient from the keys, once differentiable.

    Args:
        relation: One with `against="teacher"` on all pairs; no scale of the whole graph.
        student: Nodes `(N, D)`, not prepared.
        teacher: Nodes `(N, D)`.
        keys: Prepared keys `(M, D)`.
        near: Positions of the keys of each anchor, `(N, k)`, from `keys_around`.
        batch: Whether all nodes of the batch are keys.

    Raises:
        RelgraphError: if the nodes are not of one width, or the relation is another.

    >>> from relgraph.graph.kernels import cosine
    >>> from relgraph.graph.criteria import mean_square
    >>> relation = Relation(cosine, criterion=mean_square, against="teacher")
    >>> near = keys_around(cosine, torch.eye(2), -torch.eye(2), k=1)
    >>> related_to_keys(relation, torch.eye(2).flip(0), torch.eye(2), -torch.eye(2), near)  # (0, -1) for (1, 0)
    tensor(1.)
    """
    kernel, scale, criterion = relation.kernel, relation.scale, relation.criterion
    if relation.against != "teacher" or not relation.topology.dense or scale.divisor is not None:
        expected = 'a relation on all pairs with against="teacher" and a scale of each anchor by itself'
        raise RelgraphError(f"keys beyond the batch need {expected}, got {relation}")
    check_nodes(student, teacher, one_width=True, remedy=AGAINST)
    s, t = kernel.nodes(student), kernel.nodes(teacher)
    (count, width), k, first = t.shape, near.shape[1], len(t) if batch else 1

    def term(anchors: slice, s: Tensor, t: Tensor, near: Tensor) -> Tensor:
        others = keys[near[anchors].flatten()].view(len(near[anchors]), k, width)
        rows = (
            torch.cat([_to_batch(kernel, x, t, anchors, batch), _to_each(kernel, x[anchors], others)], -1)
            for x in (s, t)
        )
        return criterion.of_block(*(scale(row, ALL_PAIRS) for row in rows))

    total = sum_of_blocks(term, (s, t, near), count, max(1, blocks.LARGEST // (k * width + first)))
    return criterion.of_blocks(total, count, count * (first + k)).to(torch.result_type(student, teacher))


def _to_batch(kernel: Kernel, x: Tensor, teacher: Tensor, anchors: slice, whole: bool) -> Tensor:
    """Return the weights of anchors among x to the batch's teacher nodes `(A, N)`, or to their own alone `(A, 1)`."""
    if whole:
        return kernel.rows(x, anchors, teacher)
    own = torch.ones(1, 1, dtype=torch.bool, device=x.device) if x is teacher else None
    return kernel.matrix(x[anchors].unsqueeze(-2), teacher[anchors].unsqueeze(-2), own).squeeze(-2)


def _to_each(kernel: Kernel, x: Tensor, keys: Tensor) -> Tensor:
    """Return the weights of nodes to keys of their own, `(A, D), (A, k, D) -> (A, k)`."""
    return kernel.matrix(x.unsqueeze(-2), keys).squeeze(-2)
