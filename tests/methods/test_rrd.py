"""RRD and lightly-train's global loss: the authors' numbers, loops, and a queue that is written before it is read."""

from collections import deque

import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.graph.kernels import cosine
from relgraph.methods import RRD, Lightly
from tests.checks import assert_refused
from tests.methods.golden import batch, value_and_gradient, vectors


def filled(loss: RRD | Lightly, keys: Tensor) -> RRD | Lightly:
    loss = loss.double()
    loss.memory.keys.copy_(keys)
    return loss


def naive(keys: Tensor, student: Tensor, teacher: Tensor, tau: float, teacher_tau: float) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy and the mean entropy, image by image."""
    crossed, entropies = [], []
    for s, t in zip(student, teacher, strict=True):
        target = (keys @ t / t.norm() / teacher_tau).softmax(0)
        crossed.append(-(target * (keys @ s / s.norm() / tau).log_softmax(0)).sum())
        entropies.append(-(target * target.log()).sum())
    return torch.stack(crossed).mean(), torch.stack(entropies).mean()


def test_written_first_then_read() -> None:
    """A deque is written before each loss, as in the official codes; the methods write it afterwards, to one value."""
    rrd = RRD(teacher_width=5, queue=10, tau=0.3, teacher_tau=0.2).double()
    lightly = Lightly(teacher_width=5, queue=10, tau=0.3).double()
    written = [deque(loss.memory.keys.clone(), maxlen=10) for loss in (rrd, lightly)]
    for n in (4, 4, 1, 13, 3, 10, 4):
        student, teacher = vectors(n, 5, 5)
        for queue in written:
            queue.extend(normalize(teacher))
        keys, others = (torch.stack([*queue]) for queue in written)
        (crossed, _), (again, entropy) = (
            naive(keys, student, teacher, 0.3, 0.2),
            naive(others, student, teacher, 0.3, 0.3),
        )
        for loss, expected in ((rrd, crossed), (lightly, again - entropy)):
            value, gradient = value_and_gradient(loss, student, teacher)
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
            same = torch.autograd.grad(expected, student, retain_graph=True)[0]
            torch.testing.assert_close(gradient, same, rtol=1e-9, atol=1e-12)
            loss.remember(student, teacher, batch([-1] * n))


def test_the_official_layer_of_the_teacher_is_random_and_stays_so() -> None:
    torch.manual_seed(0)
    loss = RRD(6, 7, queue=20, official=True)
    assert {name for name, _ in loss.named_parameters()} == {"projector.weight", "projector.bias"}
    assert loss.memory.keys.shape == (20, 128) and loss.projector is not None
    torch.testing.assert_close(loss.memory.keys.norm(dim=0), torch.ones(128))
    student, teacher = torch.randn(3, 6), torch.randn(3, 7)
    weight, bias = loss.get_buffer("teacher_weight"), loss.get_buffer("teacher_bias")
    mapped = teacher @ weight.T + bias
    expected, _ = naive(loss.memory.after(cosine.nodes(mapped)), loss.projector(student), mapped, 0.02, 0.1)
    torch.testing.assert_close(loss(student, teacher), expected, rtol=1e-5, atol=0)
    loss.remember(student, teacher, batch([-1] * 3))
    torch.testing.assert_close(loss.memory.keys[:3], normalize(mapped))
    again = RRD(6, 7, queue=20, official=True)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(student, teacher), loss(student, teacher))


def test_what_the_official_one_refuses() -> None:
    needs = "the official RRD maps both networks by linear layers: expected the student's width and head='linear'"
    assert_refused(
        (lambda: RRD(teacher_width=4, official=True), needs), (lambda: RRD(4, 4, official=True, head="mlp"), needs)
    )
