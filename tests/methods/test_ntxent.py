"""NT-Xent over student and teacher: the number of its definition, and a loop over 2N anchors."""

import re

import pytest
import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.methods.base import Output
from relgraph.methods.ntxent import NTXent
from relgraph.networks.heads import Projector
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
    loss = NTXent(STUDENT, TEACHER, 0.3, head).double()  # type: ignore[arg-type]
    student, teacher = vectors(n)
    assert loss.head is not None
    terms, expected = loss.terms(student, teacher), naive(loss.head(student), teacher, 0.3)
    assert list(terms) == ["ntxent"]
    torch.testing.assert_close(terms["ntxent"], expected, rtol=1e-10, atol=1e-14)
    learned = [student, *loss.parameters()]
    found, wanted = (torch.autograd.grad(value, learned) for value in (terms["ntxent"], expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_gradcheck() -> None:
    loss, (student, teacher) = NTXent(STUDENT, TEACHER).double(), vectors()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


def test_the_head_is_trained_and_the_teacher_is_not() -> None:
    loss, (student, teacher) = NTXent(STUDENT, TEACHER).double(), vectors()
    teacher.requires_grad_()
    torch.autograd.backward(loss(student, teacher))
    assert teacher.grad is None and student.grad is not None and student.grad.any()
    assert isinstance(loss.head, Projector)
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize("value", [0.0, 0.1, 65504.0])
def test_degenerate_batches_give_finite_values_and_gradients(value: float, n: int, who: str) -> None:
    student, teacher = torch.full((n, TEACHER), value).half(), torch.full((n, TEACHER), value).half()
    if who != "both":
        (teacher if who == "student" else student).normal_()
    student.requires_grad_()
    found = NTXent(tau=0.005)(student, teacher)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.dtype == torch.float32 and found.isfinite() and gradient.isfinite().all()


def test_it_is_float32_under_autocast() -> None:
    loss = NTXent(STUDENT, TEACHER)
    student, teacher = (x.detach().bfloat16() for x in vectors())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32 and torch.equal(value, loss(student.float(), teacher.float()))


def test_settings() -> None:
    loss = NTXent()
    assert loss.tau == 0.5 and loss.head is None and not list(loss.buffers())
    assert NTXent.gamma == 0 and NTXent.augment == "contrastive" and NTXent.weight == 1
    assert NTXent(5, 5, head="none").head is None
    by_embedding = NTXent(5, 7, head="linear", nodes="embedding", dim=3)
    assert by_embedding.reads == ("embedding",) and loss.reads == ("feature",)
    assert isinstance(by_embedding.head, nn.Linear) and by_embedding.head.weight.shape == (3, 3)
    student, teacher = (Output(torch.randn(N, 3), feature=torch.randn(N, 9)) for _ in range(2))
    assert by_embedding(student, teacher).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0}, "tau must be positive, got 0"),
        (
            {"student_width": 5},
            "the head of NTXent ends at the teacher's width: expected teacher_width, got none",
        ),
        (
            {"student_width": 5, "teacher_width": 7, "head": "none"},
            "NTXent without a head needs student and teacher of one width, got 5 and 7",
        ),
        ({"nodes": "map"}, "NTXent compares one vector per image: nodes must be 'embedding' or 'feature', got 'map'"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        NTXent(**options)  # type: ignore[arg-type]


def test_batches_are_checked() -> None:
    message = "matching nodes needs embeddings of one width: project student and teacher to it, got 5 and 7"
    with pytest.raises(RelgraphError, match=f"^{message}$"):
        NTXent()(*vectors())
    with pytest.raises(RelgraphError, match=r"^NTXent was built for student nodes \(N, 5\), got \(4, 6\)$"):
        NTXent(STUDENT, TEACHER)(torch.zeros(4, 6), torch.zeros(4, TEACHER))
