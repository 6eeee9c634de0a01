"""NT-Xent over student and teacher: the number of its definition, and a loop over 2N anchors."""

import pytest
import torch
from torch import Tensor

from relgraph.methods.ntxent import NTXent
from tests.methods.golden import check, embeddings

N, STUDENT, TEACHER = 4, 5, 7


def vectors(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, STUDENT).double().requires_grad_(), torch.randn(n, TEACHER).double()


def test_the_number_of_its_definition() -> None:
    student, teacher = embeddings()
    loss = NTXent(tau=0.5)
    check("ntxent_T0.5 (SimCLR, definition)", lambda: loss(student, teacher), {"student": student})


def naive(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return the mean over 2N anchors, each among the other 2N - 1 vectors."""
    both = [x / x.norm() for x in [*student, *teacher]]
    values = []
    for i, anchor in enumerate(both):
        weights = {j: torch.exp(anchor @ key / tau) for j, key in enumerate(both) if j != i}
        other = (i + len(student)) % len(both)
        values.append(-torch.log(weights[other] / torch.stack(list(weights.values())).sum()))
    return torch.stack(values).mean()


@pytest.mark.parametrize("n", [1, 2, N])
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_a_naive_loop(head: str, n: int) -> None:
    """Value and gradient."""
    loss = NTXent(STUDENT, TEACHER, tau=0.3, head=head).double()  # type: ignore[arg-type]
    student, teacher = vectors(n)
    assert loss.projector is not None
    terms, expected = loss.terms(student, teacher), naive(loss.projector(student), teacher, 0.3)
    assert list(terms) == ["ntxent"]
    torch.testing.assert_close(terms["ntxent"], expected, rtol=1e-10, atol=1e-14)
    learned = [student, *loss.parameters()]
    found, wanted = (torch.autograd.grad(value, learned) for value in (terms["ntxent"], expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
