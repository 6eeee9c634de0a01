"""RRD and lightly-train's global loss: the authors' numbers, loops, and a queue that is written before it is read."""

from collections import deque
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.graph import contrast
from relgraph.graph.contrast import soft_rows
from relgraph.graph.kernels import cosine
from relgraph.graph.memory import Queue
from relgraph.methods import RRD, SEED, Lightly
from relgraph.outputs import bare
from tests.checks import assert_refused
from tests.methods.golden import batch, check, embeddings, queue_keys, value_and_gradient, vectors


def filled(loss: RRD | Lightly, keys: Tensor) -> RRD | Lightly:
    loss = loss.double()
    loss.memory.keys.copy_(keys)
    return loss


@pytest.mark.parametrize("largest", [16 * 5, contrast.LARGEST_ON_CPU], ids=["in blocks", "at once"])
def test_the_authors_numbers(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "LARGEST_ON_CPU", largest)
    for key, n, tau, teacher_tau in (
        ("rrd_ts0.02_tt0.1", 8, 0.02, 0.1),
        ("rrd_ts0.1_tt0.02", 8, 0.1, 0.02),
        ("rrd_ts0.02_tt0.1_B12_D16", 12, 0.02, 0.1),
    ):
        (student, teacher), count = embeddings(n), 32 if n == 8 else 36
        loss = filled(RRD(teacher_width=16, queue=count, tau=tau, teacher_tau=teacher_tau), queue_keys(count))
        check(key, partial(loss, student, teacher), {"student": student})
    assert (RRD(teacher_width=16, queue=8).tau, RRD(teacher_width=16, queue=8).teacher_tau) == (0.02, 0.1)


def test_lightlys_numbers() -> None:
    """Its oldest keys are the last of golden's queue; ours are the first."""
    for key, n in (("lightly_v1_T0.07", 8), ("lightly_v1_T0.07_B12_D16", 12), ("lightly_v3_global_T0.07_6x6", 8)):
        student, teacher = embeddings(n)
        loss = filled(Lightly(teacher_width=16, queue=32), queue_keys().roll(n, 0))
        check(key, partial(loss, student, teacher), {"embedding" if "v3" in key else "student": student})
    for key, count in (("lightly_v1_T0.07_first_step_zero_queue", 32), ("lightly_v1_T0.07_queue6_batch8", 6)):
        student, teacher = embeddings()
        official = Lightly(teacher_width=16, queue=count, official=True).double()
        check(key, partial(official, student, teacher), {"student": student})


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


def test_what_a_queue_will_hold_is_told_without_writing_it() -> None:
    queue = Queue(7, 3)
    for n in (3, 5, 7, 9, 1):
        before, keys = queue.keys.clone(), torch.randn(n, 3)
        after = queue.after(keys)
        assert torch.equal(queue.keys, before)
        queue.remember(keys)
        assert torch.equal(queue.keys, after)


def test_without_the_rest_of_the_batch_it_is_seed() -> None:
    """Of one image the batch is its own vector, which SEED has first."""
    student, teacher = vectors(1, 4, 4)
    rrd = RRD(teacher_width=4, queue=9, tau=0.3, teacher_tau=0.2).double()
    seed = SEED(teacher_width=4, queue=8, tau=0.3, teacher_tau=0.2).double()
    seed.memory.keys.copy_(rrd.memory.keys[1:])  # without the oldest
    torch.testing.assert_close(rrd(student, teacher), seed(student, teacher), rtol=1e-10, atol=0)


def test_equal_similarities_cost_nothing_in_the_divergence() -> None:
    x = torch.randn(6, 5)
    loss = Lightly(teacher_width=5, queue=20)
    value, gradient = value_and_gradient(loss, (3 * x).requires_grad_(), x)
    assert value.abs() < 1e-5 and gradient.abs().max() < 1e-5
    crossed, entropy = soft_rows(x, x, loss.memory.keys, 0.1, 0.1)
    torch.testing.assert_close(crossed, entropy)


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


@pytest.mark.parametrize("method", [RRD, Lightly])
def test_their_defaults_train(method: type[RRD | Lightly]) -> None:
    """A linear student of the teacher's features gets the teacher's neighbours."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    teacher, student = x @ torch.randn(8, 12), torch.nn.Linear(8, 8)
    loss = method(8, 12, queue=256)
    optimiser = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
    values = []
    for _ in range(80):
        optimiser.zero_grad()
        value = loss(student(x), teacher)
        value.backward()
        loss.remember(student(x), teacher, batch([-1] * 64))
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
    found, _ = loss.vectors(*map(bare, (student(x), teacher)))
    nearest = [cosine(y).fill_diagonal_(-1).argmax(1) for y in (found, teacher)]
    assert (nearest[0] == nearest[1]).float().mean() > 0.5


def test_what_they_refuse() -> None:
    needs = "the official RRD maps both networks by linear layers: expected the student's width and head='linear'"
    queue = "keeps a queue of the teacher's vectors: expected teacher_width, got none"
    assert_refused(
        (lambda: RRD(teacher_width=4, official=True), needs),
        (lambda: RRD(4, 4, official=True, head="mlp"), needs),
        (lambda: RRD(), f"RRD {queue}"),
        (lambda: Lightly(), f"Lightly {queue}"),
        (lambda: RRD(3, 4, head="none"), "RRD without a head needs student and teacher of one width, got 3 and 4"),
    )
