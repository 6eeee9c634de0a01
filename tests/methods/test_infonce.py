"""InfoNCE within a batch: the number of its definition, and torch's cross-entropy with the diagonal as target."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from relgraph.methods.infonce import InfoNCE
from tests.methods.golden import check, embeddings

N, STUDENT, TEACHER = 4, 5, 7


def vectors(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, STUDENT).double().requires_grad_(), torch.randn(n, TEACHER).double()


def test_the_number_of_its_definition() -> None:
    student, teacher = embeddings()
    loss = InfoNCE(tau=0.07)
    check("infonce_inbatch_T0.07 (definition)", lambda: loss(student, teacher), {"student": student})


def naive(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return a cross-entropy with the image's own place as target, image by image."""
    values = []
    for i, s in enumerate(student):
        weights = torch.stack([s @ t / s.norm() / t.norm() for t in teacher]) / tau
        values.append(cross_entropy(weights, torch.tensor(i)))
    return torch.stack(values).mean()


@pytest.mark.parametrize("n", [1, 2, N])
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_a_naive_loop(head: str, n: int) -> None:
    """Value and gradient."""
    loss = InfoNCE(STUDENT, TEACHER, tau=0.3, head=head).double()  # type: ignore[arg-type]
    student, teacher = vectors(n)
    assert loss.projector is not None
    terms, expected = loss.terms(student, teacher), naive(loss.projector(student), teacher, 0.3)
    assert list(terms) == ["infonce"]
    torch.testing.assert_close(terms["infonce"], expected, rtol=1e-10, atol=1e-14)
    learned = [student, *loss.parameters()]
    found, wanted = (torch.autograd.grad(value, learned) for value in (terms["infonce"], expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
