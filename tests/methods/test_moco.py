"""MoCo's loss with the teacher as key encoder: the authors' numbers, torch's cross-entropy, and its queue."""

from collections import deque

import pytest
import torch

from relgraph.graph.kernels import cosine
from relgraph.methods import MoCo
from tests.methods.golden import batch, infonce, vectors

STUDENT, TEACHER, K = 5, 7, 10


def moco(**options: object) -> MoCo:
    given = {"student_width": STUDENT, "teacher_width": TEACHER, "queue": K}
    return MoCo(**{**given, **options}).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_a_naive_loop_over_a_deque(head: str) -> None:
    """Value and gradient, across wrap-around."""
    loss = moco(head=head)
    remembered = deque(loss.memory.keys.clone(), maxlen=K)
    for n in (4, 4, 1, 13, 3, 4):
        student, teacher = vectors(n, STUDENT, TEACHER)
        learned = [student, *loss.parameters()]
        terms = loss.terms(student, teacher)
        assert loss.projector is not None
        expected = infonce(loss.projector(student), teacher, remembered, loss.tau)
        assert list(terms) == ["moco"]
        torch.testing.assert_close(terms["moco"], expected, rtol=1e-10, atol=0)
        found, wanted = (torch.autograd.grad(value, learned) for value in (terms["moco"], expected))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        loss.remember(student, teacher, batch([-1] * n))
        remembered.extend(cosine.nodes(teacher))


def test_settings() -> None:
    assert MoCo(8, 4).memory.keys.shape == (65536, 4) and MoCo(8, 4).tau == 0.2
