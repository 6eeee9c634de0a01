"""The memories of CIRKD: the authors' numbers, loops over pixels, and what they ask for."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from relgraph.graph.memory import ClassQueues
from relgraph.methods import CIRKD, Batch, RunFacts
from tests.checks import assert_refused
from tests.methods.golden import check, maps
from tests.methods.test_dense import of_map

CLASSES, WIDTH = 4, 5
FACTS: dict[str, Any] = {"classes": CLASSES, "teacher_channels": WIDTH, "pixel_weight": 1.0, "region_weight": 1.0}
SMALL: dict[str, Any] = {"pixel_queue": 16, "region_queue": 8, "pixel_keys": 20, "region_keys": 12}


def built(student: int = WIDTH, **options: Any) -> CIRKD:
    """Return the method with memories of 16 and 8 slots a class, of which 6 and 4 are drawn, in float64."""
    return CIRKD(student_channels=student, **{**FACTS, **SMALL, **options}).double()


def labelled(*shape: int) -> Batch:
    """Return golden's labels: `(b + h + w) mod 4`, and none at (0, 0)."""
    b, h, w = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    labels = (b + h + w) % CLASSES
    labels[:, 0, 0] = -1
    return Batch(torch.arange(shape[0]), labels)


def fill(memory: ClassQueues | None, phase: float) -> None:
    """Write golden's keys into a memory."""
    assert memory is not None
    for label in range(CLASSES):
        grid = torch.arange(memory.size)[:, None] + 2, torch.arange(WIDTH) + 1
        memory.remember(label, normalize(torch.sin(0.05 * (label + 1) * grid[0].double() * grid[1] + phase), dim=-1))


def keys(memory: ClassQueues | None) -> Tensor:
    assert memory is not None
    return memory.keys(torch.arange(memory.size)).view(CLASSES, memory.size, WIDTH)


def term(method: CIRKD, name: str, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    return method.terms(of_map(student), of_map(teacher), batch)[name]


@pytest.mark.parametrize("height", [6, 4])
def test_the_authors_numbers(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They write the memory first, pixels that do not fit at its end; and these are the image's first, by a defect."""
    monkeypatch.setattr(CIRKD, "_slots", lambda _, size, keys, device: torch.arange(keys // CLASSES + 1))
    student, teacher = maps(2, WIDTH, height, 6, phase=0.0)
    batch, method = labelled(2, height, 6), built(head="none")
    fill(method.pixels, 0.3)
    fill(method.regions, 0.8)
    apart = deepcopy(method)
    method.remember(of_map(student), of_map(teacher), batch)
    key = f"cirkd_memory_region_{height}x6"
    check(key, partial(term, method, "region", student, teacher, batch), {"student": student})
    assert apart.pixels is not None
    for label in range(CLASSES):
        queue = apart.pixels.of_class(label)
        for image, labels in zip(normalize(teacher, dim=1).flatten(2).mT, batch.labels, strict=True):
            count = min(16, int((labels == label).sum()))
            if int(queue.next) + count >= 16:
                queue.next.fill_(16 - count)
            queue.remember(image[:count])
    key = f"cirkd_memory_pixel_{height}x6"
    check(key, partial(term, apart, "pixel", student, teacher, batch), {"student": student})
    if height == 6:
        check("cirkd_region_queue_sum_after_update", lambda: keys(method.regions).sum(), {})
        check("cirkd_pixel_queue_sum_after_update", lambda: keys(apart.pixels).sum(), {})


def test_memories_hold_pixels_and_means_of_their_class() -> None:
    """Up to 16 pixels of an image, different ones; of larger labels a position has that in its middle."""
    teacher, method = torch.randn(2, WIDTH, 6, 5).double(), built(pixel_queue=40)
    labels = torch.full((2, 24, 20), -1)
    labels[:, 2::4, 2::4] = torch.tensor([0, 0, 1, 2, 0]).expand(2, 6, 5)
    labels[1][labels[1] == 2] = -1
    method.remember(of_map(teacher), of_map(teacher), Batch(torch.arange(2), labels))
    unit = normalize(teacher, dim=1)
    assert method.pixels is not None and method.regions is not None
    for label, columns in enumerate(([0, 1, 4], [2], [3])):
        images = unit[: 1 if label == 2 else 2]
        count = min(16, 6 * len(columns))
        pixels, regions = keys(method.pixels)[label], keys(method.regions)[label]
        means = normalize(images[..., columns].flatten(2).mean(-1), dim=-1)
        torch.testing.assert_close(regions[: len(images)], means)
        for number, image in enumerate(images):
            held = pixels[number * count : (number + 1) * count]
            near = (held @ image[..., columns].flatten(1)).max(1)
            torch.testing.assert_close(near.values, torch.ones(count).double())
            assert len(set(near.indices.tolist())) == count
    assert [int(method.pixels.of_class(label).next) for label in range(CLASSES)] == [32, 12, 6, 0]


def test_a_loop_over_pixels_and_keys() -> None:
    method, batch = built(3), labelled(2, 3, 4)
    student, teacher = torch.randn(2, 3, 3, 4).double(), torch.randn(2, WIDTH, 3, 4).double()
    method.remember(of_map(student), of_map(teacher), batch)
    terms = method.terms(of_map(student), of_map(teacher), batch)
    assert method.project is not None
    for name, memory, count in (("pixel", method.pixels, 6), ("region", method.regions, 4)):
        drawn = keys(memory)[:, method._slots(keys(memory).shape[1], SMALL[f"{name}_keys"], student.device)]
        assert drawn.shape[1] == count
        z = [normalize(x, dim=1).flatten(2).mT for x in (method.project(student), teacher)]
        values = []
        for image, position in (batch.labels.flatten(1) >= 0).nonzero().tolist():
            p, q = ((drawn.flatten(0, 1) @ x[image, position] / 0.1).log_softmax(-1) for x in z)
            values.append(kl_div(p, q, reduction="sum", log_target=True))
        torch.testing.assert_close(terms[name], torch.stack(values).mean())


def test_only_remembering_changes_it_and_its_state_is_saved() -> None:
    method, batch = built(3), labelled(2, 3, 4)
    student, teacher = (of_map(torch.randn(2, channels, 3, 4).double()) for channels in (3, WIDTH))
    values = [method(student, teacher, batch) for _ in range(2)]
    method.remember(student, teacher, batch)
    other = built(3)
    other.load_state_dict(method.state_dict())
    values += [method(student, teacher, batch), other(student, teacher, batch)]
    assert values[0] == values[1] != values[2] == values[3]
    for each in (method, other):
        each.remember(student, teacher, batch)
    assert method(student, teacher, batch) == other(student, teacher, batch)
    unlabelled = Batch(batch.indices, torch.full_like(batch.labels, -1))
    terms = method.terms(student, teacher, unlabelled)
    assert terms["pixel"] == terms["region"] == 0 < terms["cirkd"]


def test_what_it_asks_for() -> None:
    run = RunFacts(4, 4, 4, ((3, 8, 8), (6, 4, 4)), ((3, 8, 8), (7, 4, 4)))
    assert CIRKD.for_run(run).reads == ("map",)
    made = CIRKD.for_run(replace(run, scores=(CLASSES, 8, 8)), pixel_weight=0.1)
    assert (made.student_channels, made.teacher_channels, made.classes) == (6, 7, CLASSES)
    assert made.reads == ("map", "labels") and made.regions is None
    x, images = of_map(torch.zeros(2, WIDTH, 2, 2).double()), Batch(torch.arange(2), torch.zeros(2))
    ignored = Batch(torch.arange(2), torch.full((2, 8, 8), 255))
    unknown = f"labels of pixels must be 0 to {CLASSES - 1}, or -1 where unknown, got 255"
    of_classes = "the memories of CIRKD are of classes of pixels: expected"
    assert_refused(
        (lambda: CIRKD.for_run(run, pixel_weight=0.1), f"{of_classes} data whose pixels have classes"),
        (lambda: CIRKD(region_weight=0.1), f"{of_classes} student_channels, teacher_channels and classes…"),
        (lambda: built(3, head="none"), "CIRKD without a head compares maps of as many channels, got 3 and 5"),
        (lambda: built()(x, x, images), "CIRKD's memories read the labels of pixels, 2 maps (B, H, W), got (2,)"),
        (lambda: built()(x, x, ignored), unknown),
        (lambda: built().remember(x, x, ignored), unknown),
        (lambda: built()(x, x), "CIRKD's memories read the labels of pixels, 2 maps (B, H, W), got None"),
    )
