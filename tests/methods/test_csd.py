"""CSD against the numbers of the published code, and a loop over images and their nearest teacher vectors."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.methods import CSD
from tests.checks import case
from tests.methods.golden import check, embeddings, graphs_with_edges, queue_keys, value_and_gradient, vectors

N, D = 7, 5


def test_official_value_and_gradient() -> None:
    given: dict[str, tuple[CSD, int]] = {
        "csd_all_tq1_tg0.01": (CSD(tau=1.0, teacher_tau=0.01), 8),
        "csd_k4_tq1_tg0.01": (CSD(length=4, tau=1.0, teacher_tau=0.01), 8),
        "csd_k4_tq0.1_tg0.05": (CSD(length=4, tau=0.1, teacher_tau=0.05), 8),
        "csd_B12_D16_k5_tq1_tg0.01": (CSD(length=5, tau=1.0, teacher_tau=0.01), 12),
    }
    for key, (loss, count) in given.items():
        student, teacher = embeddings(count)
        check(key, lambda loss=loss, s=student, t=teacher: loss(s, t), {"student": student})  # type: ignore[misc]


def test_the_number_of_own_vector_and_queue() -> None:
    loss = CSD(16, 16, length=6, tau=1.0, teacher_tau=0.01, memory="queue", queue=32, batch_keys=False).double()
    assert loss.remembered is not None
    loss.remembered.keys.copy_(queue_keys())
    student, teacher = embeddings()
    check("csd_queue_k6_tq1_tg0.01 (definition)", lambda: loss(student, teacher), {"student": student})


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


def test_a_perfect_student_is_at_0_where_the_temperatures_are_equal() -> None:
    teacher = torch.randn(20, 8).double()
    student = (3 * teacher).requires_grad_()
    value, gradient = value_and_gradient(CSD(), student, teacher)
    assert value.item() == pytest.approx(0, abs=1e-14) and gradient.abs().max() < 1e-12
    value, gradient = value_and_gradient(CSD(tau=1.0, teacher_tau=0.01), student, teacher)
    assert value.item() > 1 and gradient.abs().max() > 1e-4, "with the benchmark's it is not"


def test_it_finds_the_teachers_own_vectors_of_any_batch() -> None:
    """Trained from another place, the student's vectors answer with their own image's, and match its neighbours."""
    torch.manual_seed(1)
    teacher, inputs = torch.randn(60, 8), torch.randn(60, 60)
    layer, loss = torch.nn.Linear(60, 12), CSD(12, 8)
    optimiser = torch.optim.Adam([*layer.parameters(), *loss.parameters()], lr=0.05)
    for _ in range(150):
        value = loss(layer(inputs), teacher)
        optimiser.zero_grad()
        torch.autograd.backward(value)
        optimiser.step()
    space = loss.space()
    assert space.student is not None and space.part == "feature"
    found = torch.nn.functional.cosine_similarity(space.student(layer(inputs))[:, None], teacher, dim=-1)
    assert (found.argmax(1) == torch.arange(60)).float().mean() > 0.9
