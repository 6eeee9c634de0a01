"""Contrast against the plain formulas with whole matrices; the methods' tests have its loops over numbers."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, softmax

from relgraph.errors import RelgraphError
from relgraph.graph import contrast
from relgraph.graph.contrast import batch_contrast, over_keys, queue_contrast, soft_queue_contrast, view_contrast
from tests.checks import assert_refused, case
from tests.graph.test_factored import largest_tensor

Loss = Callable[[Tensor, Tensor], Tensor]
N, D, K = 6, 5, 37


def vectors(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, D).double().requires_grad_(), torch.randn(n, D).double().requires_grad_()


def queue(k: int = K) -> Tensor:
    return normalize(torch.randn(k, D).double())


def losses(keys: Tensor) -> dict[str, Loss]:
    return {
        "queue": lambda s, t: queue_contrast(s, t, keys, 0.2),
        "soft": lambda s, t: soft_queue_contrast(s, t, keys, 0.2, 0.05),
        "batch": lambda s, t: batch_contrast(s, t, 0.07),
        "view": lambda s, t: view_contrast(s, t, 0.5),
    }


def rows(x: Tensor, own: Tensor, keys: Tensor) -> Tensor:
    """Return the cosines of each vector with its own key, then with the queue, `(N, 1 + K)`."""
    x, own = normalize(x), normalize(own)
    return torch.cat([(x * own).sum(1, keepdim=True), x @ keys.T], dim=1)


def plain(student: Tensor, teacher: Tensor, keys: Tensor, tau: float, teacher_tau: float) -> Tensor:
    """Return SEED's loss as it is written: two products, two softmaxes and a third product."""
    target = softmax(rows(teacher, teacher, keys).detach() / teacher_tau, dim=1)
    return -(target * log_softmax(rows(student, teacher.detach(), keys) / tau, dim=1)).sum(1).mean()


def value_and_gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return value.detach(), *torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("largest", [1, 40, 12 * 36, 12 * 37, 2**20])
def test_blocks_are_the_plain_formula(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "LARGEST_ON_CPU", largest)
    for tau, teacher_tau in ((0.2, 1e-4), (0.2, 0.01), (0.07, 0.05), (0.01, 0.5)):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
            with case(tau, teacher_tau, dtype):
                student, teacher = (x.detach().to(dtype).requires_grad_() for x in vectors())
                keys, atol = queue().to(dtype), tolerance * max(1, 0.1 / tau)
                found = value_and_gradients(soft_queue_contrast(student, teacher, keys, tau, teacher_tau), student)
                whole = plain(student.double(), teacher.double(), keys.double(), tau, teacher_tau)
                for one, other in zip(found, value_and_gradients(whole, student), strict=True):
                    assert one.dtype == dtype
                    torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=atol)


def test_the_hard_form_is_a_cross_entropy_with_target_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradient to anchors and own keys."""
    for largest in (1, 50, 2**20):
        monkeypatch.setattr(contrast, "LARGEST_ON_CPU", largest)
        (student, teacher), keys = vectors(), queue()
        found = value_and_gradients(queue_contrast(student, teacher, keys, 0.07), student, teacher)
        target = torch.zeros(N, dtype=torch.long)
        whole = torch.nn.functional.cross_entropy(rows(student, teacher, keys) / 0.07, target)
        expected = value_and_gradients(whole, student, teacher)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["queue", "soft"])
def test_neither_the_queue_nor_its_weights_are_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of the forward or backward pass has as many numbers as the queue has keys, but the queue itself."""
    monkeypatch.setattr(contrast, "LARGEST_ON_CPU", 240)
    (student, teacher), keys = vectors(), queue(1000)
    with largest_tensor(views=False) as seen:
        torch.autograd.backward(losses(keys)[name](student, teacher))
    assert 200 <= seen.numel <= 240


def test_over_keys_is_a_sum_of_exponentials_and_its_gradient() -> None:
    x, keys = vectors()[0], queue()
    total, mean = over_keys(x, keys, largest=50)
    torch.testing.assert_close(total, (x @ keys.T).logsumexp(1))
    torch.testing.assert_close(mean, softmax(x @ keys.T, dim=1) @ keys)
    assert not mean.requires_grad
    (gradient,) = torch.autograd.grad(total.sum(), x)
    assert torch.equal(gradient, mean)


def test_rows_and_keys_of_any_size_do_not_overflow() -> None:
    x = torch.tensor([[1e4, 0.0], [-1e4, 0.0], [0.0, 0.0]])
    total, mean = over_keys(x, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), largest=3)
    torch.testing.assert_close(total, torch.tensor([1e4, 1e4, math.log(3)]))
    torch.testing.assert_close(mean, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1 / 3]]))


def test_who_receives_gradient() -> None:
    (student, teacher), keys = vectors(), queue().requires_grad_()
    for name, loss in losses(keys).items():
        found = torch.autograd.grad(loss(student, teacher), (student, teacher, keys), allow_unused=True)
        assert [gradient is not None for gradient in found] == [True, name != "soft", False], name


def test_it_can_be_differentiated_once() -> None:
    student, teacher = vectors()
    for name in ("queue", "soft"):
        (gradient,) = torch.autograd.grad(losses(queue())[name](student, teacher), student, create_graph=True)
        with pytest.raises(RelgraphError, match="first derivative only"):
            torch.autograd.backward(gradient.sum())


def test_a_small_loss_keeps_its_digits() -> None:
    x = torch.eye(D)[:1].double()
    value = queue_contrast(x.float(), x.float(), -x.float(), 0.07)
    assert value.item() == pytest.approx(math.log1p(math.exp(-2 / 0.07)), rel=1e-5)


def test_a_queue_of_another_precision() -> None:
    (student, teacher), keys = vectors(), queue()
    narrow = student.detach().float().requires_grad_(), teacher.detach().float()
    for other, name in product((torch.float16, torch.float64), ("queue", "soft")):
        with case(other, name):
            value, gradient = value_and_gradients(losses(keys.to(other))[name](*narrow), narrow[0])
            assert value.dtype == gradient.dtype == torch.float32
            expected = losses(keys.to(other).double())[name](student, teacher)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


def test_what_is_refused() -> None:
    for student, teacher, message in (
        ((4, 3), (5, 3), "embeddings must be (N, D), student and teacher of the same N images…"),
        ((4, 3), (4, 2), "matching nodes needs embeddings of one width…"),
        ((2, 4, 3), (2, 4, 3), "vectors must be (N, D), got (2, 4, 3)"),
    ):
        calls = (
            partial(loss, torch.zeros(student), torch.zeros(teacher)) for loss in losses(torch.zeros(7, 3)).values()
        )
        assert_refused(*((call, message) for call in calls))
