"""Measures of a student's graph beside the teacher's: neighbours, edges, nodes and labels on which they agree.

`diagnose` measures the pair of a batch; its parts serve the graphs of a whole split as well. All measures stay on the
pair's device, so that a training step does not wait for them.
"""

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import STUDENT, TEACHER, Pair, check_one, student_weights, weights
from relgraph.graph.search import matches_in_blocks
from relgraph.graph.topology import nearest


@torch.no_grad()
def diagnose(pair: Pair, kernel: Kernel = pearson, k: int = 8, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Return the measures of a pair, each as `(sum, count)`, (2,) float64, whose quotient it is.

    - `overlap`: share of a node's k nearest others in the teacher's graph that are among its k nearest in the student's
      (all others count, whatever the pair's edges); k is at most N - 1. Where a pair has no graph of the student's own,
      its neighbours are among the teacher's nodes, here and in the measures below.
    - `edge_rank`: Spearman's rank correlation of both networks' weights over the pair's edges, each pair of nodes once
      and no node with itself on all pairs; equal weights share their mean rank. Its count is 1.
    - `match`: share of student nodes whose nearest teacher node, across the networks, is their own, and no other
      equally near; left out where the networks have different widths.
    - `degenerate_student`, `degenerate_teacher`: share of nodes of which the kernel leaves nothing.
    - `homophily_student`, `homophily_teacher`: share of the edges to the k nearest others that join equal labels, of
      those whose both ends have one; left out without `labels`.

    A sum over several batches is the same figure over all of them, but for `edge_rank`, where it is a mean.

    Args:
        pair: From `graph_pair`, with the weights of `kernel`.
        kernel: That kernel.
        k: Neighbours, at least 1.
        labels: Class of each node, `(N,)`, -1 where it is unknown.

    Raises:
        RelgraphError: for a batch of pairs, if there are fewer than two nodes, `k` is below 1, or labels are not one
            for each node.

    >>> from relgraph.graph.pair import graph_pair
    >>> x = torch.randn(10, 4)
    >>> total, count = diagnose(graph_pair(x, x), k=3)["overlap"]
    >>> float(total / count)
    1.0
    """
    check_one(pair)
    student, teacher = pair["student"].x, pair["teacher"].x
    count = len(student)
    if count < 2:
        raise RelgraphError(f"a graph is diagnosed with at least two nodes, got {count}")
    if labels is not None and labels.shape != (count,):
        raise RelgraphError(f"labels must be one for each of {count} nodes, got {tuple(labels.shape)}")
    if pair.graph == "dense":
        matrices = student_weights(pair), weights(pair, TEACHER)
    else:
        matrices = kernel(student, None if STUDENT in pair.edge_types else teacher), kernel(teacher)
    near = [nearest(matrix, min(k, count - 1), kernel) for matrix in matrices]
    shared = shared_neighbours(near[0], near[1])
    found = {"overlap": _ratio(shared.sum(), near[0].numel()), "edge_rank": _edge_rank(pair)}
    if student.shape[1] == teacher.shape[1]:
        found["match"] = _ratio(matches_in_blocks(student, teacher, kernel).sum(), count)
    for side in ("student", "teacher"):
        found[f"degenerate_{side}"] = _ratio(pair[side].degenerate.sum(), count)
    if labels is not None:
        for side, neighbours in zip(("student", "teacher"), near, strict=True):
            found[f"homophily_{side}"] = _ratio(*equal_labels(neighbours, labels))
    return found


def shared_neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how many neighbours of each node both tables hold, `(N, k), (N, k) -> (N,)`, 0 to k.

    No row may name a neighbour twice.

    >>> shared_neighbours(torch.tensor([[1, 2], [0, 2], [1, 0]]), torch.tensor([[2, 1], [2, 3], [3, 4]]))
    tensor([2, 1, 0])
    """
    both = torch.cat([student, teacher], dim=1).sort(dim=1).values
    return (both[:, 1:] == both[:, :-1]).sum(1)


def equal_labels(neighbours: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many edges join equal labels, of how many whose ends both have one (not negative), two scalars.

    `neighbours` (N, k) holds those of each node, `labels` is (N,). The quotient is the homophily of the graph.

    >>> equal_labels(torch.tensor([[1], [0], [0]]), torch.tensor([5, 5, 7]))
    (tensor(2), tensor(3))
    """
    own, others = labels.unsqueeze(-1), labels[neighbours]
    known = (own >= 0) & (others >= 0)
    return (known & (own == others)).sum(), known.sum()


def rank_correlation(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return Spearman's rank correlation of two lists of weights, `(E,), (E,) -> -1 to 1`; 0 if one is constant.

    Equal weights share their mean rank. Edges that `counted` (E,) leaves out do not count.

    >>> rank_correlation(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.5, 0.6, 0.7]))
    tensor(1., dtype=torch.float64)
    """
    counted = torch.ones_like(student, dtype=torch.bool) if counted is None else counted
    weight = counted.double() / counted.sum().clamp_min(1)
    ranks = (_ranks(values, counted) for values in (student, teacher))
    x, y = (z - (z * weight).sum() for z in ranks)
    spread = torch.stack([(z.square() * weight).sum() for z in (x, y)])
    # Ranks that differ at all have a variance of at least 1 / (4 E); what is far below that is rounding.
    varied = (spread > 1e-9).all()
    return torch.where(varied, (x * y * weight).sum() / spread.clamp_min(1e-9).prod().sqrt(), 0.0)


def _edge_rank(pair: Pair) -> Tensor:
    student, teacher, counted = student_weights(pair), weights(pair, TEACHER), None
    if pair.graph == "sparse":
        neighbour, anchor = pair[TEACHER].edge_index
        counted = neighbour != anchor
    else:
        row, column = torch.triu_indices(len(student), len(student), offset=1, device=student.device)
        student, teacher = student[row, column], teacher[row, column]
    return _ratio(rank_correlation(student, teacher, counted), 1)


def _ranks(values: Tensor, counted: Tensor) -> Tensor:
    """Return each counted value's rank among those counted, from 1; equal ones share their mean rank."""
    # What does not count goes to the end of the order, where it moves no rank.
    own = values.detach().double().masked_fill(~counted, torch.inf)
    ordered = own.sort().values
    below, upto = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
    return (below + upto + 1).double() / 2


def _ratio(total: Tensor, count: Tensor | int) -> Tensor:
    return torch.stack([total.double(), torch.as_tensor(count, dtype=torch.double, device=total.device)])
