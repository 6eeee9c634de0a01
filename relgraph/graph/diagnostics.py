"""What a graph pair says of a student: does it see the teacher's neighbours, its edges, its nodes, and the labels?

All measures stay on the pair's device, so that looking at a batch does not wait for it.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import Kernel, pearson
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, topology_of, weights
from relgraph.graph.topology import AllPairs, nearest

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

MEASURES = (
    "overlap", "edge_rank", "match", "degenerate_student", "degenerate_teacher", "homophily_student",
    "homophily_teacher",
)  # fmt: skip


@torch.no_grad()
def diagnose(
    pair: "HeteroData", kernel: Kernel = pearson, k: int = 8, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Return what a pair says of its student, each measure as `(sum, count)`, (2,) float64, whose quotient it is.

    - `overlap`: share of a node's k nearest others in the teacher's graph that are among its k nearest in the student's
      (all others count, whatever the pair's edges); k is at most N - 1.
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
        RelgraphError: if there are fewer than two nodes, `k` is below 1, or labels are not one for each node.

    >>> from relgraph.graph.pair import graph_pair
    >>> x = torch.randn(10, 4)
    >>> total, count = diagnose(graph_pair(x, x), k=3)["overlap"]
    >>> float(total / count)
    1.0
    """
    student, teacher = pair["student"].x, pair["teacher"].x
    count = len(student)
    if count < 2:
        raise RelgraphError(f"a graph is diagnosed with at least two nodes, got {count}")
    if k < 1:
        raise RelgraphError(f"k must be at least 1, got {k}")
    if labels is not None and labels.shape != (count,):
        raise RelgraphError(f"labels must be one for each of {count} nodes, got {tuple(labels.shape)}")
    near = [nearest(_all_pairs(pair, kind, kernel), min(k, count - 1), kernel) for kind in (STUDENT, TEACHER)]
    found = {"overlap": _overlap(near[0], near[1]), "edge_rank": _edge_rank(pair)}
    if student.shape[1] == teacher.shape[1]:
        found["match"] = _match(pair, kernel)
    for side in ("student", "teacher"):
        lost = pair[side].degenerate.sum()
        found[f"degenerate_{side}"] = _ratio(lost, torch.full_like(lost, count))
    if labels is not None:
        found["homophily_student"], found["homophily_teacher"] = (_homophily(each, labels) for each in near)
    return found


def _all_pairs(pair: "HeteroData", kind: tuple[str, str, str], kernel: Kernel) -> Tensor:
    """Return a network's matrix of all pairs, the pair's own where it has one."""
    if "adj" in pair[kind]:
        return weights(pair, kind)
    return kernel(pair[kind[0]].x)


def _overlap(student: Tensor, teacher: Tensor) -> Tensor:
    shared = (student.unsqueeze(-1) == teacher.unsqueeze(-2)).any(-1)
    return _ratio(shared.sum(), torch.full_like(shared.sum(), shared.numel()))


def _edge_rank(pair: "HeteroData") -> Tensor:
    student, teacher = weights(pair, STUDENT), weights(pair, TEACHER)
    topology = topology_of(pair)
    if isinstance(topology, AllPairs):
        row, column = torch.triu_indices(len(student), len(student), offset=1, device=student.device)
        s, t = student[row, column], teacher[row, column]
        counted = torch.ones_like(s, dtype=torch.bool)
    else:
        candidate, anchor = topology.edge_index
        s, t, counted = student, teacher, candidate != anchor
    return _ratio(_correlation(_ranks(s, counted), _ranks(t, counted), counted), s.new_ones(()))


def _ranks(values: Tensor, counted: Tensor) -> Tensor:
    """Return each counted value's rank among those counted, from 1; equal ones share their mean rank."""
    # What does not count goes to the end of the order, where it moves no rank.
    own = values.detach().double().masked_fill(~counted, torch.inf)
    ordered = own.sort().values
    below, upto = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
    return (below + upto + 1).double() / 2


def _correlation(x: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Return Pearson's correlation of the counted numbers; 0 where one side is constant."""
    weight = counted.double() / counted.sum().clamp_min(1)
    x, y = (z - (z * weight).sum() for z in (x, y))
    spread = torch.stack([(z.square() * weight).sum() for z in (x, y)])
    # Ranks that differ at all have a variance of at least 1 / (4 E); what is far below that is rounding.
    told = (spread > 1e-9).all()
    return torch.where(told, (x * y * weight).sum() / spread.clamp_min(1e-9).prod().sqrt(), 0.0)


def _match(pair: "HeteroData", kernel: Kernel) -> Tensor:
    across = None
    if MATCHES in pair.edge_types and "adj" in pair[MATCHES] and "refined" not in pair["student"]:
        across = weights(pair, MATCHES)
    if across is None:
        across = kernel(pair["student"].x, pair["teacher"].x)
    across = across.detach() if kernel.nearest_is_largest else -across.detach()
    itself = torch.eye(len(across), dtype=torch.bool, device=across.device)
    hits = (across.diagonal() > across.masked_fill(itself, -torch.inf).amax(-1)).sum()
    return _ratio(hits, torch.full_like(hits, len(across)))


def _homophily(neighbours: Tensor, labels: Tensor) -> Tensor:
    own, others = labels.unsqueeze(-1), labels[neighbours]
    known = (own >= 0) & (others >= 0)
    return _ratio((known & (own == others)).sum(), known.sum())


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    return torch.stack([total.double(), count.double()])
