"""SEED against the authors' numbers, a loop over images, and a deque of the teacher's vectors."""

from collections import deque
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from relgraph.graph.kernels import cosine
from relgraph.methods import SEED, Output, Views
from relgraph.networks.heads import Projector
from relgraph.outputs import bare
from tests.checks import assert_refused
from tests.methods.golden import batch, check, embeddings, queue_keys

N, STUDENT, TEACHER, K, PATCHES = 4, 5, 7, 10, 3
BATCH = batch([-1] * N)


def official(tau: float = 0.2, teacher_tau: float = 1e-4) -> SEED:
    loss = SEED(teacher_width=16, queue=32, tau=tau, teacher_tau=teacher_tau).double()
    loss.memory.keys.copy_(queue_keys())
    return loss


def test_without_the_own_vector_it_is_another_number() -> None:
    """Which is not SEED's: that of the queue alone."""
    student, teacher = (cosine.nodes(x) for x in embeddings())

    def alone() -> Tensor:
        target = (teacher @ queue_keys().T / 0.01).softmax(1)
        return -(target * (student @ queue_keys().T / 0.2).log_softmax(1)).sum(1).mean()

    check("seed_no_positive_tauS0.2_tauT0.01 (NOT official)", alone, {})
    assert official(0.2, 0.01)(*embeddings()) > alone() + 0.1


def test_the_authors_queue_after_one_step() -> None:
    loss = official()
    student, teacher = embeddings()
    loss.remember(student, teacher, batch([-1] * 8))
    check("seed_queue_sum_after_update", lambda: loss.memory.keys.sum(), {})
    assert loss.memory.next == 8
    assert torch.equal(loss.memory.keys, torch.cat([cosine.nodes(teacher), queue_keys()[8:]]))


def seed(head: str = "mlp", patches: int = 0, **options: object) -> SEED:
    given = {"student_width": STUDENT, "teacher_width": TEACHER, "queue": K, "tau": 0.3, "teacher_tau": 0.1}
    return SEED(**{**given, "head": head, "patches": patches, **options}).double()  # type: ignore[arg-type]


def outputs(n: int = N, patches: int = 0) -> tuple[Output, Output]:
    found = []
    for width in (STUDENT, TEACHER):
        first, extra = (bare(torch.randn(rows, width).double().requires_grad_()) for rows in (n, patches * n))
        found.append(first._replace(extra=extra if patches else None))
    return found[0], found[1]


def naive(loss: SEED, student: Tensor, teacher: Tensor, keys: Iterable[Tensor]) -> Tensor:
    """Return the cross-entropy of the student's softmax with the teacher's over own vector and keys, image by image."""
    values = []
    for s, t in zip(student if loss.projector is None else loss.projector(student), teacher, strict=True):
        candidates = torch.stack([t / t.norm(), *keys])
        target = (candidates @ t / t.norm() / loss.teacher_tau).softmax(0)
        values.append(-(target * (candidates @ s / s.norm() / loss.tau).log_softmax(0)).sum())
    return torch.stack(values).mean()


@pytest.mark.parametrize("head", ["mlp", "linear", "none"])
def test_a_naive_loop_over_a_deque(head: str) -> None:
    """Across wrap-around, with batches that do not divide the queue, one larger than it among them."""
    loss = seed(head, **({"teacher_width": STUDENT} if head == "none" else {}))
    remembered = deque(loss.memory.keys.clone(), maxlen=K)
    for n in (4, 4, 1, 13, 3, 4):
        student = torch.randn(n, STUDENT).double()
        teacher = torch.randn(n, STUDENT if head == "none" else TEACHER).double()
        torch.testing.assert_close(
            loss(student, teacher), naive(loss, student, teacher, remembered), rtol=1e-10, atol=0
        )
        loss.remember(student, teacher, batch([-1] * n))
        remembered.extend(normalize(teacher))
    in_order = loss.memory.keys.roll(-int(loss.memory.next), 0)
    torch.testing.assert_close(in_order, torch.stack([*remembered]))


def test_patches_have_a_queue_of_their_own() -> None:
    loss = seed(patches=PATCHES)
    assert loss.views == Views("patches", PATCHES) and seed().views is None and seed().patch_memory is None
    assert loss.patch_memory is not None
    remembered = deque(loss.patch_memory.keys.clone(), maxlen=K)
    for _ in range(4):
        student, teacher = outputs(patches=PATCHES)
        assert student.extra is not None and teacher.extra is not None
        terms = loss.terms(student, teacher)
        assert list(terms) == ["seed", "seed_patches"]
        assert torch.equal(terms["seed"], seed_of_views(loss, student.embedding, teacher.embedding))
        each = [
            naive(loss, s, t, remembered)
            for s, t in zip(student.extra.embedding.chunk(PATCHES), teacher.extra.embedding.chunk(PATCHES), strict=True)
        ]
        torch.testing.assert_close(terms["seed_patches"], torch.stack(each).mean(), rtol=1e-10, atol=0)
        loss.remember(student, teacher, BATCH)
        remembered.extend(normalize(teacher.extra.embedding[:N].detach()))
    assert loss.memory.next == loss.patch_memory.next == 4 * N % K


def seed_of_views(loss: SEED, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss without patches, with the same head and queue."""
    alone = seed()
    alone.load_state_dict({key: x for key, x in loss.state_dict().items() if not key.startswith("patch_memory")})
    value: Tensor = alone(student, teacher)
    return value


def test_remembering_between_backward_of_two_losses_changes_no_gradient() -> None:
    """What `backward` needs of the queue is taken in the forward pass, so that `remember` may come first."""
    loss, (student, teacher) = seed(), outputs()
    expected = torch.autograd.grad(loss(student, teacher), student.embedding)[0]
    value = loss(student, teacher)
    loss.remember(student, teacher, BATCH)
    assert torch.equal(torch.autograd.grad(value, student.embedding)[0], expected)


def test_the_authors_settings_are_the_defaults() -> None:
    loss = SEED(8, 4)
    assert (loss.tau, loss.teacher_tau) == (0.2, 1e-4) and loss.memory.keys.shape == (65536, 4)
    assert isinstance(loss.projector, Projector) and isinstance(seed(head="linear").projector, nn.Linear)
    assert [tuple(p.shape) for p in loss.projector.parameters()] == [(8, 8), (8,), (4, 8), (4,)]


def test_which_patches_it_refuses() -> None:
    (student, teacher), without = outputs(patches=PATCHES), outputs()
    patchy, patches = seed(patches=PATCHES), "SEED reads 3 patches of each image: expected 3 * 4 rows in Output.extra"
    assert_refused(
        (lambda: patchy(student, without[1]), f"{patches}, got none"),
        (lambda: patchy(without[0], teacher), f"{patches}, got none"),
        (lambda: patchy.remember(*without, BATCH), f"{patches}, got none"),
        (lambda: patchy(*outputs(patches=2)), f"{patches}, got 8"),
    )
