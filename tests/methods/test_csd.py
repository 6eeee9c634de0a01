"""CSD against the numbers of the published code, and a loop over images and their nearest teacher vectors."""

import math

import torch
from torch import Tensor

from relgraph.methods import CSD
from tests.checks import case
from tests.methods.golden import graphs_with_edges, value_and_gradient, vectors

N, D = 7, 5


def cosine(x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = x @ y / (x.norm() * y.norm())
    return found


def divergence(s: Tensor, t: Tensor, length: int, tau: float, teacher_tau: float) -> Tensor:
    """Return the KL divergence of one image from the similarities of student and teacher to its keys."""
    order = sorted(range(len(t)), key=lambda j: -t[j].item())[:length]
    q, p = [(s[j] / tau).exp() for j in order], [math.exp(t[j] / teacher_tau) for j in order]
    total, whole = torch.stack(q).sum(), sum(p)
    return torch.stack([b / whole * (math.log(b / whole) - (a / total).log()) for a, b in zip(q, p, strict=True)]).sum()


def test_value_and_gradient_are_those_of_a_loop() -> None:
    student, teacher = vectors(N, D, D)
    graphs = graphs_with_edges(list(teacher), lambda a, b: -float(cosine(a, b)))
    for (graph, edges), (length, tau, teacher_tau) in [
        (graph, numbers) for graph in graphs for numbers in ((2, 0.2, 0.3), (4, 0.1, 0.1), (256, 1.0, 0.05))
    ]:
        values = []
        for i in range(N):
            mine = sorted(j for j, anchor in edges if anchor == i)
            s, t = (torch.stack([cosine(x[i], teacher[j]) for j in mine]) for x in (student, teacher))
            values.append(divergence(s, t, length, tau, teacher_tau))
        expected = torch.stack(values).mean()
        with case(graph, length):
            found = value_and_gradient(CSD(length=length, tau=tau, teacher_tau=teacher_tau, graph=graph),
                                       student, teacher)  # fmt: skip
            torch.testing.assert_close(found, (expected, torch.autograd.grad(expected, student)[0]))
