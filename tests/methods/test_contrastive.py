"""What contrastive methods over a batch have in common: the head, checks, finite numbers where others would fail."""

import re

import pytest
import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.methods import InfoNCE, NTXent, RunFacts
from relgraph.methods.base import Output
from relgraph.methods.contrastive import head_like
from relgraph.networks.heads import Projector

Batchwise = type[InfoNCE] | type[NTXent]
N, STUDENT, TEACHER = 4, 5, 7
TAU = {InfoNCE: 0.07, NTXent: 0.5}
both = pytest.mark.parametrize("cls", TAU)


def vectors(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, STUDENT).double().requires_grad_(), torch.randn(n, TEACHER).double()


@both
def test_gradcheck(cls: Batchwise) -> None:
    loss, (student, teacher) = cls(STUDENT, TEACHER).double(), vectors()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


@both
def test_the_head_is_trained_and_the_teacher_is_not(cls: Batchwise) -> None:
    loss, (student, teacher) = cls(STUDENT, TEACHER).double(), vectors()
    teacher.requires_grad_()
    torch.autograd.backward(loss(student, teacher))
    assert teacher.grad is None and student.grad is not None and student.grad.any()
    assert isinstance(loss.projector, Projector)
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


@both
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize("value", [0.0, 0.1, 65504.0])
def test_degenerate_batches_give_finite_values_and_gradients(cls: Batchwise, value: float, n: int, who: str) -> None:
    student, teacher = torch.full((n, TEACHER), value).half(), torch.full((n, TEACHER), value).half()
    if who != "both":
        (teacher if who == "student" else student).normal_()
    student.requires_grad_()
    found = cls(tau=0.005)(student, teacher)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.dtype == torch.float32 and found.isfinite() and gradient.isfinite().all()


@both
def test_it_is_float32_under_autocast(cls: Batchwise) -> None:
    loss = cls(STUDENT, TEACHER)
    student, teacher = (x.detach().bfloat16() for x in vectors())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32 and torch.equal(value, loss(student.float(), teacher.float()))


@both
def test_settings(cls: Batchwise) -> None:
    loss = cls()
    assert loss.tau == TAU[cls] and loss.projector is None and not list(loss.buffers())
    assert cls.gamma == 0 and cls.augment == "contrastive" and cls.weight == 1
    assert cls(5, 5, head="none").projector is None
    by_embedding = cls.for_run(RunFacts(3, 5, 7), head="linear", nodes="embedding")
    assert by_embedding.reads == ("embedding",) and loss.reads == ("feature",)
    assert isinstance(by_embedding.projector, nn.Linear) and by_embedding.projector.weight.shape == (3, 3)
    student, teacher = (Output(torch.randn(N, 3), feature=torch.randn(N, 9)) for _ in range(2))
    assert by_embedding(student, teacher).isfinite()


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0}, "tau must be above 0, got 0"),
        (
            {"student_width": 5},
            "the head of {name} ends at the teacher's width: expected teacher_width, got none",
        ),
        (
            {"student_width": 5, "teacher_width": 7, "head": "none"},
            "{name} without a head needs student and teacher of one width, got 5 and 7",
        ),
        ({"nodes": "map"}, "unknown nodes 'map' (known: embedding, feature)"),
    ],
)
def test_options_are_checked(cls: Batchwise, options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message.format(name=cls.__name__))}$"):
        cls(**options)  # type: ignore[arg-type]


@both
def test_batches_are_checked(cls: Batchwise) -> None:
    message = "matching nodes needs embeddings of one width: project student and teacher to it, got 5 and 7"
    with pytest.raises(RelgraphError, match=f"^{message}$"):
        cls()(*vectors())
    with pytest.raises(RelgraphError, match=rf"^{cls.__name__} was built for student nodes \(N, 5\), got \(4, 6\)$"):
        cls(STUDENT, TEACHER)(torch.zeros(4, 6), torch.zeros(4, TEACHER))


@pytest.mark.parametrize("head", [nn.Linear(5, 7), Projector(5, 7), Projector(5, 7, hidden=9)])
def test_layers_like_a_stored_head_take_its_weights(head: nn.Module) -> None:
    found = head_like(head.state_dict())
    assert found is not None
    found.load_state_dict(head.state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(found(x), head(x))


def test_there_may_be_no_head() -> None:
    assert head_like({}) is None
