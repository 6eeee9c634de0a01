"""ROP against the numbers of the published code, and four loops over images and pairs of keys."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from relgraph.graph import blocks
from relgraph.methods import ROP
from tests.checks import case
from tests.methods.golden import value_and_gradient, vectors

N, D = 6, 4


def loop(
    student: Tensor, teacher: Tensor, length: int, tau: float, rho: float, reference: Literal["teacher", "student"]
) -> Tensor:
    s, t = (x / x.norm(dim=1, keepdim=True) for x in (student, teacher))
    total = torch.zeros(()).double()
    for i in range(N):
        order = sorted(range(N), key=lambda j: -(t[i] @ t[j]).item())[:length]
        flat = [math.exp(rho * (t[i] @ t[j])) for j in order]
        for m, j in enumerate(order):
            for n, k in enumerate(order):
                step = 0.5 if m == n else float(t[i] @ t[k] > t[i] @ t[j])
                least = t[i] @ t[j] if reference == "teacher" else s[i] @ t[j]
                soft = 1 / (1 + torch.exp(-(s[i] @ t[k] - least) / tau))
                total = total + (m + 1) * flat[m] / sum(flat) * (step - soft) ** 2
    return total / (N * min(length, N))


def test_value_and_gradient_are_those_of_a_loop_however_many_anchors_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = vectors(N, D, D)
    numbers: list[tuple[int, float, float, Literal["teacher", "student"]]] = [
        (3, 0.1, 0.2, "teacher"), (N, 0.3, 2.0, "student"), (256, 0.1, 0.0, "teacher"),
    ]  # fmt: skip
    for largest in (blocks.LARGEST, 1, 40):
        monkeypatch.setattr(blocks, "LARGEST", largest)
        for length, tau, rho, reference in numbers:
            with case(largest, length, reference):
                expected = loop(student, teacher, length, tau, rho, reference)
                loss = ROP(length=length, tau=tau, rho=rho, reference=reference, form="matrix")
                found = value_and_gradient(loss, student, teacher)
                torch.testing.assert_close(found, (expected, torch.autograd.grad(expected, student)[0]))


def test_equal_keys_are_ranked_in_the_order_of_the_batch() -> None:
    student, teacher = vectors(N, D, D)
    with torch.no_grad():
        teacher[4] = teacher[1]
    for form in ("matrix", "blocked"):
        value = ROP(length=3, form=form)(student, teacher)
        torch.testing.assert_close(value, ROP(length=3, graph="knn", k=N - 1)(student, teacher))
