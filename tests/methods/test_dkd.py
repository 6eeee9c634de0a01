"""DKD against the authors' numbers, a loop over images, and KD, which it decouples."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.methods import DKD, KD, Batch
from tests.checks import assert_refused
from tests.methods.golden import batch, of_logits, value_and_gradient, values


def softmax(row: list[float], temperature: float) -> list[float]:
    shares = [math.exp(z / temperature) for z in row]
    return [share / sum(shares) for share in shares]


def divergence(teacher: list[float], student: list[float]) -> float:
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))


def test_a_loop_over_images() -> None:
    """Of which the third has no label: all classes are its others."""
    student, teacher = torch.randn(2, 3, 4).double()
    labels = [1, 3, -1]
    expected = {"target": 0.0, "others": 0.0}
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        if label >= 0:
            p, q = softmax(t, 2.5)[label], softmax(s, 2.5)[label]
            expected["target"] += 2.5**2 / 3 * divergence([p, 1 - p], [q, 1 - q])
        left = [[z for k, z in enumerate(row) if k != label] for row in (t, s)]
        expected["others"] += 2.5**2 / 3 * divergence(*(softmax(row, 2.5) for row in left))
    terms = DKD(2.5, 1, 1).terms(of_logits(student), of_logits(teacher), batch(labels))
    assert values(terms) == pytest.approx(expected, rel=1e-10)


def test_a_target_far_above_the_others_is_left_out_exactly() -> None:
    """The official code lowers it by 1000, which is not enough here."""
    student, teacher = torch.randn(2, 2, 5).double()
    student[:, 0] = 1e5

    def others(x: Tensor) -> Tensor:
        value: Tensor = DKD(target_weight=0)(of_logits(x), of_logits(teacher), batch([0, 0]))
        return value

    value, gradient = value_and_gradient(others, student.requires_grad_())
    expected = 8 * KD()(of_logits(student[:, 1:]), of_logits(teacher[:, 1:]))
    torch.testing.assert_close(value, expected)
    assert not gradient[:, 0].any() and gradient[:, 1:].any()
    one = torch.randn(2, 1)
    assert DKD()(of_logits(one), of_logits(one + 1), batch([0, 0])) == 0, "of one class"


def test_what_it_refuses() -> None:
    x = of_logits(torch.randn(3, 4))
    assert_refused(
        (lambda: DKD()(x, x), "DKD reads labels: expected a Batch(indices, labels) as the third argument, got none"),
        (lambda: DKD()(x, x, Batch(torch.arange(2), torch.zeros(2))), "DKD reads one label for each of the 3 images…"),
    )
