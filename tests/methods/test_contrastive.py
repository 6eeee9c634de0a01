"""Contrast within a batch: InfoNCE and NT-Xent against loops, and what all that keep a queue share with them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.methods import RRD, SEED, InfoNCE, Lightly, MoCo, NTXent, Output
from relgraph.networks.heads import Projector, layers_like
from tests.checks import assert_refused, case
from tests.methods.golden import batch, infonce, ntxent, vectors

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
def test_settings(cls: Batchwise) -> None:
    loss = cls()
    assert loss.tau == TAU[cls] and loss.projector is None and not list(loss.buffers())
    assert isinstance(cls(STUDENT, TEACHER).projector, Projector) and cls(5, 5, head="none").projector is None
    assert MoCo(8, 4).memory.keys.shape == (65536, 4) and MoCo(8, 4).tau == 0.2


def test_what_all_of_them_refuse() -> None:
    project = "matching nodes needs embeddings of one width: project student and teacher to it, got 5 and 7"
    alike = "embeddings must be (N, D), student and teacher of the same N images, got (4, 5) and (3, 7)"
    four, other = (torch.zeros(4, width) for width in (STUDENT, TEACHER))
    kinds: list[Any] = [InfoNCE, NTXent, *(partial(cls, queue=10) for cls in (MoCo, SEED, RRD, Lightly))]
    for cls in kinds:
        name = getattr(cls, "func", cls).__name__
        loss, headless, built = cls(STUDENT, TEACHER), cls(teacher_width=TEACHER), f"{name} was built for"
        assert_refused(
            (partial(cls, 5), f"the head of {name} ends at the teacher's width: expected teacher_width, got none"),
            (partial(cls, 5, 7, head="none"),
             f"{name} without a head needs student and teacher of one width, got 5 and 7"),
            (partial(cls, 0, 7), f"the head of {name} needs widths of at least 1, got 0 and 7"),
            (partial(headless, four, other), project),
            (partial(loss, torch.zeros(4, 6), other), f"{built} student nodes (N, 5), got (4, 6)"),
            (partial(loss, four, four), f"{built} teacher nodes (N, 7), got (4, 5)"),
            (partial(loss, four, other[:3]), alike),
            (partial(loss, Output(four), Output(four)),
             f"{name} reads features: expected Output(embedding, feature=...)…"),
        )  # fmt: skip
        if cls not in TAU:
            queue = f"{name} keeps a queue of the teacher's vectors: expected teacher_width, got none"
            remember = partial(loss.remember, four, torch.zeros(4, 6), batch([-1] * 4))
            assert_refused((cls, queue), (remember, f"{built} teacher nodes (N, 7), got (4, 6)"))


def test_layers_like_a_stored_head_take_its_weights() -> None:
    for head in (nn.Linear(5, 7), Projector(5, 7), Projector(5, 7, hidden=9)):
        found = layers_like(head.state_dict())
        assert found is not None
        found.load_state_dict(head.state_dict())
        x = torch.randn(3, 5)
        assert torch.equal(found(x), head(x))
    assert layers_like({}) is None
