"""What methods that relate the student to the teacher share: the layer, and the memories against loops and a deque."""

from collections import deque
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from relgraph.graph import blocks
from relgraph.methods import CSD, RAML, ROP, Batch, D3still, RunFacts
from relgraph.methods.against import Keyed
from relgraph.names import build_method
from tests.checks import assert_refused, case
from tests.methods.golden import value_and_gradient

N, STUDENT, TEACHER, IMAGES = 5, 4, 6, 14
KEYED: dict[str, type[Keyed]] = {"csd": CSD, "rop": ROP, "d3still": D3still}
# Options with which the keys of a memory stand beside the own vector, not beside the batch.
ALONE: dict[str, dict[str, Any]] = {"csd": {"batch_keys": False}, "rop": {}, "d3still": {}}
keyed = pytest.mark.parametrize("name", KEYED)


def batch(step: int) -> tuple[Tensor, Tensor, Batch]:
    random = torch.Generator().manual_seed(step)
    student, teacher = (torch.randn(N, width, generator=random).double() for width in (TEACHER, TEACHER))
    indices = torch.randperm(IMAGES, generator=random)[:N]
    return student.requires_grad_(), teacher, Batch(indices, torch.full((N,), -1))


def compare(loss: Keyed, student: Tensor, teacher: Tensor, images: Batch, keys: list[list[Tensor]]) -> None:
    """Compare each relation with the mean of its rows over images: the own vector, then the nearest keys by a sort."""
    rows: dict[str, list[Tensor]] = {name: [] for name in loss.relations()}
    for s, t, held in zip(normalize(student), normalize(teacher), keys, strict=True):
        near = sorted(held, key=lambda key: -(t @ key).item())[: loss.length - 1]
        for name, relation in loss.relations().items():
            marked = torch.tensor(torch.inf).double() if isinstance(loss, D3still) else t @ t
            of_student = torch.stack([s @ t, *(s @ key for key in near)])
            row = relation.criterion.row(of_student[None], torch.stack([marked, *(t @ key for key in near)])[None])
            rows[name].append(row.squeeze())
    expected = {name: torch.stack(found).mean() for name, found in rows.items()}
    weights = loss.term_weights
    for name, value in loss.terms(student, teacher, images).items():
        if name in expected:
            pair = value, weights.get(name, 1.0) * expected[name]
            torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-12)
            gradients = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in pair)
            torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


@keyed
def test_a_queue_is_a_deque_of_the_teachers_vectors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 12
    for largest in (blocks.LARGEST, 50):
        monkeypatch.setattr(blocks, "LARGEST", largest)
        loss = KEYED[name](TEACHER, TEACHER, length=4, memory="queue", queue=size, **ALONE[name]).double()
        assert loss.remembered is not None and loss.projector is None and not loss.paired
        held = deque(loss.remembered.keys.clone(), maxlen=size)
        for step in range(4):
            student, teacher, images = batch(step)
            compare(loss, student, teacher, images, [list(held)] * N)
            loss.remember(student, teacher, images)
            held.extend(normalize(teacher))


@keyed
def test_images_leave_out_their_own_slot(name: str) -> None:
    loss = KEYED[name](TEACHER, TEACHER, length=5, memory="images", images=IMAGES, **ALONE[name]).double()
    assert loss.remembered is not None and loss.reads == ("feature", "indices")
    slots = loss.remembered.keys.clone()
    torch.testing.assert_close(slots.norm(dim=1), torch.ones(IMAGES).double())
    for step in range(3):
        student, teacher, images = batch(step)
        keys = [[slots[j] for j in range(IMAGES) if j != i] for i in images.indices.tolist()]
        compare(loss, student, teacher, images, keys)
        loss.remember(student, teacher, images)
        slots[images.indices] = normalize(teacher)
        torch.testing.assert_close(loss.remembered.keys, slots)


@keyed
def test_indices_of_32_bits(name: str) -> None:
    student, teacher, images = batch(0)
    one, other = (KEYED[name](TEACHER, TEACHER, length=5, memory="images", images=IMAGES).double() for _ in range(2))
    other.load_state_dict(one.state_dict())
    for loss, given in ((one, images), (other, images._replace(indices=images.indices.int()))):
        loss.remember(student, teacher, given)
    short = images._replace(indices=images.indices.int())
    assert torch.equal(one(student, teacher, images), other(student, teacher, short))


@keyed
def test_a_gallery_is_read_and_never_written(name: str) -> None:
    vectors, (student, teacher, images) = torch.randn(IMAGES, TEACHER).double(), batch(0)
    loss = KEYED[name](TEACHER, TEACHER, length=5, memory="images", gallery=vectors).double()
    other = KEYED[name](TEACHER, TEACHER, length=5, memory="images", images=IMAGES).double()
    assert other.remembered is not None and not list(loss.state_dict())
    other.remembered.keys.copy_(normalize(vectors))
    expected = value_and_gradient(other, student, teacher, images)
    torch.testing.assert_close(value_and_gradient(loss, student, teacher, images), expected)
    loss.remember(student, teacher, images)
    torch.testing.assert_close(value_and_gradient(loss, student, teacher, images), expected)


def test_csd_compares_all_images_of_the_batch_beside_the_nearest_keys() -> None:
    student, teacher, images = batch(0)
    loss = CSD(TEACHER, TEACHER, length=3, memory="images", images=IMAGES).double()
    assert loss.remembered is not None
    slots = [key for j, key in enumerate(loss.remembered.keys) if j not in images.indices.tolist()]
    rows = []
    for s, t in zip(normalize(student), normalize(teacher), strict=True):
        keys = torch.stack([*normalize(teacher), *sorted(slots, key=lambda key: -(t @ key).item())[:2]])
        q, p = ((keys @ x / 0.1).log_softmax(0) for x in (s, t))
        rows.append((p.exp() * (p - q)).sum())
    torch.testing.assert_close(loss(student, teacher, images), torch.stack(rows).mean())


def test_a_batch_of_all_images_leaves_csd_the_keys_of_the_batch() -> None:
    student, teacher = (torch.randn(IMAGES, TEACHER).double() for _ in range(2))
    student.requires_grad_()
    images = Batch(torch.randperm(IMAGES), torch.zeros(IMAGES, dtype=torch.long))
    expected = value_and_gradient(CSD(length=IMAGES), student, teacher)
    memory = CSD(TEACHER, TEACHER, memory="images", images=IMAGES).double()
    gallery = CSD(TEACHER, TEACHER, memory="images", gallery=torch.randn(IMAGES, TEACHER).double())
    for loss in (memory, gallery):
        torch.testing.assert_close(value_and_gradient(loss, student, teacher, images), expected)
    own_keys = ROP(TEACHER, TEACHER, memory="images", images=IMAGES).double()
    assert bool(own_keys(student, teacher, images).isfinite())


def test_more_keys_than_there_are_are_all_of_them() -> None:
    student, teacher, images = batch(0)
    whole = CSD(TEACHER, TEACHER, length=IMAGES, memory="images", images=IMAGES).double()
    more = CSD(TEACHER, TEACHER, length=1000, memory="images", images=IMAGES).double()
    more.load_state_dict(whole.state_dict())
    torch.testing.assert_close(more(student, teacher, images), whole(student, teacher, images))
    assert torch.equal(CSD(length=N)(student, teacher), CSD(length=1000)(student, teacher))


def test_a_layer_where_the_widths_differ() -> None:
    for cls in (*KEYED.values(), RAML):
        with case(cls):
            loss = cls(STUDENT, TEACHER)
            assert isinstance(loss.projector, nn.Linear) and loss.space().student is loss.projector
            assert loss.space().part == "feature" and loss.space().teacher is None
            assert cls().projector is None and cls(STUDENT, STUDENT).space().student is None
            student, teacher = torch.randn(N, STUDENT), torch.randn(N, TEACHER)
            expected = cls()(loss.projector(student), teacher)
            torch.testing.assert_close(loss(student, teacher), expected)
    for nodes, layer in (("feature", True), ("embedding", False)):
        built = build_method("csd", RunFacts(8, STUDENT, TEACHER, images=IMAGES), {"nodes": nodes})
        assert built is not None
        assert (built.parts["csd"].projector is not None) == layer and built.space().part == nodes


def test_what_is_refused() -> None:
    student, teacher, images = batch(0)
    widths = (
        "relating the student's nodes to the teacher's needs embeddings of one width: project the student to the "
        "teacher's (--target-space teacher, or a linear layer), got 4 and 6"
    )
    memory = CSD(TEACHER, TEACHER, memory="images", images=IMAGES)
    assert_refused(
        (lambda: CSD()(student[:, :STUDENT], teacher), widths),
        (lambda: CSD(STUDENT), "CSD maps one width to another: expected both, got 4 and None"),
        (lambda: CSD(STUDENT, TEACHER)(student, teacher), "CSD was built for student nodes (N, 4), got (5, 6)"),
        (lambda: CSD(memory="queue"), "CSD keeps the teacher's vectors: expected teacher_width, got none"),
        (lambda: ROP(TEACHER, TEACHER, memory="images"), "ROP keeps a vector of each training image: expected images…"),
        (
            lambda: CSD(TEACHER, TEACHER, memory="queue", graph="knn"),
            "a memory of CSD has its own nearest keys: expected graph 'dense', got another",
        ),
        (lambda: memory(student, teacher), "CSD reads indices: expected a Batch(indices, labels) as the third…"),
        *(
            (partial(loss, student, teacher, Batch(torch.tensor(indices), images.labels)), message)
            for loss in (memory, CSD(memory="images", gallery=torch.randn(IMAGES, TEACHER)))
            for indices, message in (
                ([0, 1, 2, 3, IMAGES], f"indices must name images 0 to {IMAGES - 1}, got {IMAGES}"),
                ([-1, 1, 2, 3, 4], f"indices must name images 0 to {IMAGES - 1}, got -1"),
                ([0, 1], "indices must be one for each of the 5 keys, got (2,)"),
                ([0.0, 1.0, 2.0, 3.0, 4.0], "indices must be integers, got torch.float32"),
            )
        ),
        (
            lambda: CSD(memory="images", images=3, gallery=teacher),
            "CSD leaves out an image's own slot: expected a gallery of the 3 training images in their order, got 5 "
            "vectors",
        ),
        (lambda: CSD(memory="bank"), "unknown memory 'bank'…"),  # type: ignore[arg-type]
        (lambda: CSD(length=1), "length must be at least 2, got 1"),
    )
