from itertools import pairwise

import pytest
import torch

from benchmark.original import Original, TwoViews, original_loss
from benchmark.untrained import untrained_teacher
from relgraph.data.images import ImageSet
from relgraph.methods import EGA
from relgraph.names import build_backbone
from relgraph.networks.heads import Head, Student


@pytest.fixture(scope="module")
def images() -> ImageSet:
    labels = torch.arange(6) % 3
    pixels = torch.randint(1, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, labels, ("a", "b", "c"), "train", torch.arange(6))


def test_its_loss_is_ega() -> None:
    n = 64
    student, teacher = torch.randn(n, 32, dtype=torch.float64), torch.randn(n, 32, dtype=torch.float64)
    sides = [student.clone().requires_grad_() for _ in range(2)]
    values = [original_loss(sides[0], teacher), EGA()(sides[1], teacher)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, side)[0] for value, side in zip(values, sides, strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_views_without_chance(images: ImageSet) -> None:
    """Where every pixel is alike, a crop only shows which part is padding: black, normalised."""
    grey = ImageSet(torch.full_like(images.pixels, 255), images.labels, images.classes, "train", images.index)
    student, teacher, label = TwoViews(grey, 24, (0.5,) * 3, (0.25,) * 3)[4]
    assert student.shape == (3, 16, 16) and teacher.shape == (3, 24, 24) and label == 1
    assert bool((student.abs() == 2).all())
    assert teacher.min() >= -2 and teacher.max() == 2


def test_the_two_views_are_drawn_apart(images: ImageSet) -> None:
    views = TwoViews(images, 16, (0.5,) * 3, (0.5,) * 3)  # not resized, so equal draws would give equal views
    assert any(not torch.equal(*views[0][:2]) for _ in range(20))


def test_it_trains_student_and_head_and_leaves_the_teacher(images: ImageSet) -> None:
    teacher = untrained_teacher("timm:test_vit")
    student, head = Student(build_backbone("resnet8", 3), 8, 3), Head(teacher.width, 8, 3)
    frozen = [parameter.clone() for parameter in teacher.parameters()]
    before = [parameter.clone() for parameter in (*student.parameters(), *head.parameters())]
    original = Original(student, head, teacher, images, batch_size=4, device=torch.device("cpu"), workers=0)
    assert sum(1 for _ in original.start(2)) == 1  # it yields once, when it is ready
    after = [*student.parameters(), *head.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(frozen, teacher.parameters(), strict=True))


def test_it_learns_one_batch_by_heart(images: ImageSet) -> None:
    teacher = untrained_teacher("timm:test_vit")
    student, head = Student(build_backbone("resnet8", 3), 8, 3), Head(teacher.width, 8, 3)
    original = Original(student, head, teacher, images, batch_size=6, device=torch.device("cpu"), workers=0)
    views = torch.randn(6, 3, 16, 16), torch.randn(6, 3, 160, 160)
    figures = [original.step(*views, images.labels) for _ in range(12)]
    assert figures[-1]["loss"] < figures[0]["loss"] and figures[-1]["teacher_loss"] < figures[0]["teacher_loss"]
    assert all(0 <= row["top1"] <= row["top5"] == 1 for row in figures)


def test_every_epoch_is_as_long_as_asked_for(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = untrained_teacher("timm:test_vit")
    student, head = Student(build_backbone("resnet8", 3), 8, 3), Head(teacher.width, 8, 3)
    original = Original(student, head, teacher, images, batch_size=2, device=torch.device("cpu"), workers=1)
    seen: list[int] = [0]
    monkeypatch.setattr(original, "step", lambda *batch: seen.append(seen[-1] + 1))
    for n in (1, 3):
        for _ in original.start(n):
            pass
    assert seen[-1] == 4 and all(b - a == 1 for a, b in pairwise(seen))
