"""MoCo's loss with the teacher as key encoder: the authors' numbers, torch's cross-entropy, and its queue."""

import re
from collections import deque

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from relgraph.errors import RelgraphError
from relgraph.graph import contrast
from relgraph.graph.kernels import cosine
from relgraph.methods.base import Batch, Output, RunFacts
from relgraph.methods.moco import MoCo
from relgraph.networks.heads import Projector
from tests.methods.golden import check, embeddings, outer

N, STUDENT, TEACHER, K = 4, 5, 7, 10


def moco(**options: object) -> MoCo:
    given = {"student_width": STUDENT, "teacher_width": TEACHER, "queue": K}
    return MoCo(**{**given, **options}).double()  # type: ignore[arg-type]


def vectors(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, STUDENT).double().requires_grad_(), torch.randn(n, TEACHER).double()


def batch_of(n: int) -> Batch:
    return Batch(torch.arange(n), torch.full((n,), -1))


@pytest.mark.parametrize("largest", [1, 8 * 5, 2**20])
@pytest.mark.parametrize("tau", ["0.07", "0.2"])
def test_the_authors_numbers(tau: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "LARGEST_ON_CPU", largest)
    loss = MoCo(teacher_width=16, queue=32, tau=float(tau)).double()
    loss.memory.keys.copy_(normalize(torch.sin(0.05 * outer(16, 1, 32, 2) + 0.3), dim=0).T)
    student, teacher = embeddings()
    check(f"moco_infonce_T{tau}", lambda: loss(student, teacher), {"student": student})


def naive(loss: MoCo, student: Tensor, teacher: Tensor, keys: list[Tensor]) -> Tensor:
    """Return a cross-entropy with target 0, image by image."""
    assert loss.projector is not None
    values = []
    for s, t in zip(student, teacher, strict=True):
        z = loss.projector(s)
        weights = torch.stack([z @ key / z.norm() for key in [t / t.norm(), *keys]]) / loss.tau
        values.append(cross_entropy(weights, torch.tensor(0)))
    return torch.stack(values).mean()


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_a_naive_loop_over_a_deque(head: str) -> None:
    """Value and gradient, across wrap-around."""
    loss = moco(head=head)
    remembered = deque(loss.memory.keys.clone(), maxlen=K)
    for n in (4, 4, 1, 13, 3, 4):
        student, teacher = vectors(n)
        learned = [student, *loss.parameters()]
        terms = loss.terms(student, teacher)
        expected = naive(loss, student, teacher, list(remembered))
        assert list(terms) == ["moco"]
        torch.testing.assert_close(terms["moco"], expected, rtol=1e-10, atol=0)
        found, wanted = (torch.autograd.grad(value, learned) for value in (terms["moco"], expected))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        loss.remember(student, teacher, batch_of(n))
        remembered.extend(cosine.nodes(teacher))


def test_gradcheck() -> None:
    loss, (student, teacher) = moco(), vectors()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


def test_the_head_is_trained_and_the_teacher_is_not() -> None:
    loss, (student, teacher) = moco(), vectors()
    teacher.requires_grad_()
    torch.autograd.backward(loss(student, teacher))
    assert teacher.grad is None and student.grad is not None and student.grad.any()
    assert isinstance(loss.projector, Projector)
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize("value", [0.0, 0.1, 65504.0])
def test_degenerate_batches_give_finite_values_and_gradients(value: float, n: int) -> None:
    loss = moco(tau=0.005).float()
    student = torch.full((n, STUDENT), value).half().requires_grad_()
    teacher = torch.full((n, TEACHER), value).half()
    for _ in range(3):
        found = loss(student, teacher)
        gradients = torch.autograd.grad(found, [student, *loss.parameters()])
        assert found.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
        loss.remember(student, teacher, batch_of(n))
    assert loss.memory.keys.isfinite().all()


def test_it_is_float32_under_autocast() -> None:
    loss = moco().float()
    student, teacher = (x.detach().bfloat16() for x in vectors())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32 and torch.equal(value, loss(student.float(), teacher.float()))


def test_remembering_changes_the_next_loss_and_a_checkpoint_keeps_it() -> None:
    loss, copy, (student, teacher) = moco(), moco(), vectors()
    first = loss(student, teacher)
    assert torch.equal(loss(student, teacher), first)
    loss.remember(Output(student, feature=student), Output(teacher, feature=teacher), batch_of(N))
    assert not torch.equal(loss(student, teacher), first)
    copy.load_state_dict(loss.state_dict())
    assert torch.equal(copy(student, teacher), loss(student, teacher))


def test_settings() -> None:
    assert MoCo(8, 4).memory.keys.shape == (65536, 4) and MoCo(8, 4).tau == 0.2
    assert MoCo.gamma == 0 and MoCo.augment == "contrastive" and MoCo.weight == 1
    loss = MoCo.for_run(RunFacts(3, STUDENT, TEACHER), nodes="embedding", head="linear", queue=K)
    assert loss.reads == ("embedding",) and loss.memory.keys.shape == (K, 3)
    assert isinstance(loss.projector, nn.Linear) and loss.projector.weight.shape == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0}, "tau must be above 0, got 0"),
        ({"queue": -1}, "queue must be above 0, got -1"),
        (
            {"student_width": None, "teacher_width": None},
            "MoCo keeps a queue of the teacher's vectors: expected teacher_width, got none",
        ),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        moco(**options)


def test_batches_are_checked() -> None:
    with pytest.raises(RelgraphError, match=r"^MoCo was built for teacher nodes \(N, 7\), got \(4, 6\)$"):
        moco()(torch.zeros(4, STUDENT), torch.zeros(4, 6))
    with pytest.raises(RelgraphError, match=r"^MoCo was built for teacher nodes \(N, 7\), got \(4, 6\)$"):
        moco().remember(torch.zeros(4, STUDENT), torch.zeros(4, 6), batch_of(4))
