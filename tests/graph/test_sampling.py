"""Draws from other classes against counts of what may be drawn, and picked products against gathered ones."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from relgraph.graph import memory
from relgraph.graph.memory import ClassSampler, gathered, picked
from tests.checks import assert_refused, case
from tests.methods.golden import vectors

# Classes of unequal size in no order, and two images without label.
LABELS = torch.tensor([2, 0, 5, 0, -1, 2, 2, 0, 2, 5, -1, 2])
IMAGES = len(LABELS)


def classmates(labels: Tensor | None, image: int) -> list[int]:
    """Return the images of an image's class, itself included."""
    if labels is None or labels[image] < 0:
        return [image]
    return [j for j in range(len(labels)) if labels[j] == labels[image]]


def rest(labels: Tensor | None, image: int) -> list[int]:
    """Return the images of other classes."""
    return [j for j in range(IMAGES) if j not in classmates(labels, image)]


def counts(drawn: Tensor) -> Tensor:
    """Return how often each image stands in each row, `(N, K) -> (N, IMAGES)`."""
    return torch.stack([torch.bincount(row, minlength=IMAGES) for row in drawn])


def assert_uniform(found: Tensor, allowed: list[int]) -> None:
    """Check the counts of one anchor: none outside, and a chi-square within five standard deviations of its mean."""
    assert found.sum() == found[allowed].sum()
    expected = found.sum() / len(allowed)
    chi_square = ((found[allowed] - expected) ** 2 / expected).sum().item()
    freedom = len(allowed) - 1
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom)


def test_draws_are_uniform_among_the_images_of_other_classes() -> None:
    for labels in (None, LABELS):
        sampler = ClassSampler(IMAGES, labels)
        total = torch.zeros(IMAGES, IMAGES, dtype=torch.long)
        for _ in range(40):
            total += counts(sampler.others(torch.arange(IMAGES), 2000))
            sampler.advance()
        for image in range(IMAGES):
            assert_uniform(total[image], rest(labels, image))


def test_positives_are_uniform_among_the_images_of_the_class() -> None:
    sampler = ClassSampler(IMAGES, LABELS)
    rows = []
    for _ in range(2000):
        rows.append(sampler.same(torch.arange(IMAGES)))
        sampler.advance()
    for image, found in enumerate(counts(torch.stack(rows, dim=1))):
        assert_uniform(found, classmates(LABELS, image))


def test_the_draws_of_a_step_are_independent() -> None:
    """Of two anchors, and of an anchor's first and second half: no pair of images is drawn together too often."""
    sampler = ClassSampler(IMAGES)
    drawn = sampler.others(torch.tensor([0, 0]), 40_000)
    one, other, later = drawn[0, :20_000], drawn[1, :20_000], drawn[0, 20_000:]
    for partner in (other, later):
        pairs = torch.bincount(one * IMAGES + partner, minlength=IMAGES**2).view(IMAGES, IMAGES)[1:, 1:]
        assert_uniform(pairs.flatten(), list(range((IMAGES - 1) ** 2)))


def test_positives_and_negatives_of_a_step_are_independent() -> None:
    """Of two classes of four images each, from one stream the number of the one would tell that of the other."""
    sampler, anchor, pairs = ClassSampler(8, torch.arange(8) // 4), torch.tensor([0]), torch.zeros(4, 4)
    for _ in range(1600):
        pairs[sampler.same(anchor), sampler.others(anchor, 1)[:, 0] - 4] += 1
        sampler.advance()
    assert_uniform(pairs.flatten(), list(range(16)))


def test_what_it_refuses() -> None:
    shape, classes = "labels must be one for each of the", "negatives are images of other classes: expected at least 2"
    for images, labels, message in (
        (5, torch.zeros(4, dtype=torch.long), f"{shape} 5 images, got (4,)"),
        (4, torch.zeros(4, 1, dtype=torch.long), f"{shape} 4 images, got (4, 1)"),
        (4, torch.full((4,), 7), f"{classes} classes among 4 images, got 1"),
        (1, None, f"{classes} classes among 1 images, got 1"),
        (0, None, f"{classes} classes among 0 images, got 0"),
    ):
        assert_refused((partial(ClassSampler, images, labels), message))


def naive_products(anchors: Tensor, keys: Tensor, index: Tensor) -> Tensor:
    rows = zip(anchors, index.tolist(), strict=True)
    return torch.stack([torch.stack([(anchor * keys[j]).sum() for j in row]) for anchor, row in rows])


def test_picked_and_gathered_products_equal_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    for block, draws in product((1, 30, 2**24), (1, 7)):  # 40 keys are more than 32 per draw, and fewer
        monkeypatch.setattr(memory, "BLOCK", block)
        anchors, keys = vectors(3, 5, 5)[0], vectors(40, 5, 5)[1]
        index, pull = torch.randint(40, (3, draws)), torch.randn(3, draws).double()
        index[0, -1] = index[0, 0]  # drawn twice
        expected = naive_products(anchors, keys, index)
        (gradient,) = torch.autograd.grad((expected * pull).sum(), anchors)
        for form in (picked, gathered):
            with case(block, draws, form):
                value = form(anchors, keys, index)
                torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
                torch.testing.assert_close(torch.autograd.grad((value * pull).sum(), anchors)[0], gradient)


@pytest.mark.parametrize("images", [100, 5000])  # 32 draws: one product up to 1024 keys, gathering above
def test_the_backward_pass_keeps_no_keys_per_draw(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK", 1024)
    anchors, keys, index = torch.randn(8, 64, requires_grad=True), torch.randn(images, 64), torch.randint(100, (8, 32))
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != keys.data_ptr():
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        picked(anchors, keys, index)
    assert sizes and max(sizes) <= 8 * 100  # where (N, K, D) are 8 * 32 * 64
