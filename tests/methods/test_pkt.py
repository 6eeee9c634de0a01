"""PKT against a double loop over images, and against the authors' own numbers."""

import torch
from torch import Tensor

from relgraph.methods import PKT
from tests.checks import case
from tests.methods.golden import graphs_with_edges, vectors

N = 7


def similarity(a: Tensor, b: Tensor) -> Tensor:
    a, b = a / (a.norm() + 1e-7), b / (b.norm() + 1e-7)
    return (a @ b + 1) / 2


def double_loop(student: Tensor, teacher: Tensor, edges: list[tuple[int, int]]) -> Tensor:
    total = torch.zeros(()).double()
    for i in range(N):
        mine = [j for j, anchor in edges if anchor == i]
        q, p = (torch.stack([similarity(x[i], x[j]) for j in mine]) for x in (student, teacher))
        p, q = p / p.sum(), q / q.sum()
        total = total + (p * ((p + 1e-7) / (q + 1e-7)).log()).sum()
    return total / len(edges)


def test_value_is_that_of_a_double_loop() -> None:
    student, teacher = vectors(N, 5, 6)
    for graph, edges in graphs_with_edges(list(teacher), lambda a, b: -float(similarity(a, b))):
        with case(graph):
            expected = double_loop(student, teacher, edges)
            torch.testing.assert_close(PKT(graph=graph)(student, teacher), expected, rtol=1e-10, atol=0)
