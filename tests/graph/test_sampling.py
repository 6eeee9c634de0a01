"""Draws from other classes against counts of what may be drawn, and picked products against gathered ones."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph import sampling
from relgraph.graph.sampling import ClassSampler, gathered, picked

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


@pytest.mark.parametrize("labels", [None, LABELS], ids=["no labels", "labels"])
def test_draws_are_uniform_among_the_images_of_other_classes(labels: Tensor | None) -> None:
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


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (5, torch.zeros(4, dtype=torch.long), r"labels must be one for each of the 5 images, got \(4,\)"),
        (4, torch.zeros(4, 1, dtype=torch.long), r"labels must be one for each of the 4 images, got \(4, 1\)"),
        (
            4,
            torch.full((4,), 7),
            "negatives are images of other classes: expected at least 2 classes among 4 images, got 1",
        ),
        (1, None, "negatives are images of other classes: expected at least 2 classes among 1 images, got 1"),
        (0, None, "negatives are images of other classes: expected at least 2 classes among 0 images, got 0"),
    ],
)
def test_what_it_refuses(images: int, labels: Tensor | None, message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{message}$"):
        ClassSampler(images, labels)


def naive_products(anchors: Tensor, keys: Tensor, index: Tensor) -> Tensor:
    rows = [[sum(a * b for a, b in zip(anchors[i], keys[j], strict=True)) for j in row] for i, row in enumerate(index)]
    return torch.stack([torch.stack([torch.as_tensor(cell) for cell in row]) for row in rows])


@pytest.mark.parametrize("draws", [1, 7])  # 40 keys are more than 32 per draw, and fewer
@pytest.mark.parametrize("block", [1, 30, 2**24])
def test_picked_and_gathered_products_equal_a_loop(block: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", block)
    anchors = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(40, 5, dtype=torch.float64)
    index = torch.randint(40, (3, draws))
    index[0, -1] = index[0, 0]  # drawn twice
    pull = torch.randn(3, draws, dtype=torch.float64)
    expected = naive_products(anchors, keys, index)
    (gradient,) = torch.autograd.grad((expected * pull).sum(), anchors)
    for form in (picked, gathered):
        value = form(anchors, keys, index)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad((value * pull).sum(), anchors)[0], gradient)


@pytest.mark.parametrize("images", [100, 5000])  # 32 draws: one product up to 1024 keys, gathering above
def test_the_backward_pass_keeps_no_keys_per_draw(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 1024)
    anchors, keys, index = torch.randn(8, 64, requires_grad=True), torch.randn(images, 64), torch.randint(100, (8, 32))
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != keys.data_ptr():
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        picked(anchors, keys, index)
    assert sizes and max(sizes) <= 8 * 100  # where (N, K, D) are 8 * 32 * 64
