"""DKD against the authors' numbers, a loop over images, and KD, which it decouples."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.methods import DKD, KD, Batch
from tests.checks import assert_refused
from tests.methods.golden import batch, check, logits, of_logits, value_and_gradient, values

LABELS = batch([i % 4 for i in range(8)])


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("dkd_a1_b8_T4", DKD()),
        ("dkd_target_class_only_T4", DKD(others_weight=0)),
        ("dkd_non_target_only_T4", DKD(target_weight=0, others_weight=1)),
        ("lskd_dkd_a9_b72_T2", DKD(2.0, 9, 72, standardise=True)),
    ],
)
def test_the_authors_numbers(key: str, loss: DKD) -> None:
    student, teacher = logits()
    check(key, partial(loss, of_logits(student), of_logits(teacher), LABELS), {"student": student})


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


def test_without_labels_it_is_kd() -> None:
    pair = [of_logits(x) for x in torch.randn(2, 5, 4).double()]
    torch.testing.assert_close(DKD(others_weight=1)(*pair, batch([-1] * 5)), KD()(*pair))


def test_with_the_teacher_s_own_share_it_is_kd() -> None:
    """KD is the target's term plus `1 - p_y` of the others'."""
    student, teacher = torch.randn(2, 1, 6).double()
    pair = of_logits(student), of_logits(teacher)
    share = 1 - teacher.div(4).softmax(1)[0, 2].item()
    torch.testing.assert_close(DKD(others_weight=share)(*pair, batch([2])), KD()(*pair))


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
