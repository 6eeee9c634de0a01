"""Contrast within a batch: InfoNCE and NT-Xent against their definitions and loops, and the head that they share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relgraph.methods import InfoNCE, NTXent
from relgraph.networks.heads import Projector, layers_like
from tests.checks import assert_refused, case
from tests.methods.golden import infonce, ntxent, vectors

Batchwise = type[InfoNCE] | type[NTXent]
N, STUDENT, TEACHER = 4, 5, 7
TAU = {InfoNCE: 0.07, NTXent: 0.5}
both = pytest.mark.parametrize("cls", TAU)


def infonce_in_batch(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return a cross-entropy with the image's own place as target, image by image."""
    keys = [t / t.norm() for t in teacher]
    rows = zip(student[:, None], teacher[:, None], strict=True)
    return torch.stack([infonce(s, t, keys[:i] + keys[i + 1 :], tau) for i, (s, t) in enumerate(rows)]).mean()


NAIVE: dict[Batchwise, Callable[[Tensor, Tensor, float], Tensor]] = {InfoNCE: infonce_in_batch, NTXent: ntxent}


@both
def test_value_and_gradient_are_those_of_a_naive_loop(cls: Batchwise) -> None:
    for n in (1, 2, N):
        for head in ("mlp", "linear"):
            with case(n, head):
                loss = cls(STUDENT, TEACHER, tau=0.3, head=head).double()
                student, teacher = vectors(n, STUDENT, TEACHER)
                assert loss.projector is not None
                value, expected = loss(student, teacher), NAIVE[cls](loss.projector(student), teacher, 0.3)
                torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-14)
                learned = [student, *loss.parameters()]
                found, wanted = (torch.autograd.grad(each, learned) for each in (value, expected))
                torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@both
def test_settings_and_what_it_refuses(cls: Batchwise) -> None:
    loss, name = cls(), cls.__name__
    assert loss.tau == TAU[cls] and loss.projector is None and not list(loss.buffers())
    assert isinstance(cls(STUDENT, TEACHER).projector, Projector) and cls(5, 5, head="none").projector is None
    project = "matching nodes needs embeddings of one width: project student and teacher to it, got 5 and 7"
    built = f"{name} was built for student nodes (N, 5), got (4, 6)"
    assert_refused(
        (lambda: cls(5), f"the head of {name} ends at the teacher's width: expected teacher_width, got none"),
        (lambda: cls(5, 7, head="none"), f"{name} without a head needs student and teacher of one width, got 5 and 7"),
        (lambda: cls()(*vectors(N, STUDENT, TEACHER)), project),
        (lambda: cls(STUDENT, TEACHER)(torch.zeros(4, 6), torch.zeros(4, TEACHER)), built),
    )


def test_layers_like_a_stored_head_take_its_weights() -> None:
    for head in (nn.Linear(5, 7), Projector(5, 7), Projector(5, 7, hidden=9)):
        found = layers_like(head.state_dict())
        assert found is not None
        found.load_state_dict(head.state_dict())
        x = torch.randn(3, 5)
        assert torch.equal(found(x), head(x))
    assert layers_like({}) is None
