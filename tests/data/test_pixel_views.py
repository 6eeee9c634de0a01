"""One draw for images and the labels of their pixels, against naive loops over pixels."""

from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.data.label_maps import IGNORED
from relgraph.data.pixel_views import PixelAugmentation, PixelView
from tests.checks import assert_refused

SHAPE = 6, 9, 13  # images, height, width
CROPS = None, (4, 5), (17, 30), (20, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(crop: tuple[int, int] | None, seed: int = 0) -> PixelView:
    return PixelAugmentation(crop=crop).draw(*SHAPE, seeded(seed))


def points(view: PixelView, image: int) -> list[list[tuple[float, float]]]:
    """Where each pixel of a view lies in its image, by plain arithmetic."""
    scale, top, left = (float(each[image]) for each in (view.scale, view.top, view.left))
    height, width = view.size
    found = [[((i + 0.5 + top) / scale, (j + 0.5 + left) / scale) for j in range(width)] for i in range(height)]
    return [row[::-1] for row in found] if view.flip[image] else found


@pytest.mark.parametrize("crop", CROPS)
def test_labels_are_those_of_the_nearest_pixels(crop: tuple[int, int] | None) -> None:
    n, height, width = SHAPE
    maps = torch.randint(0, 9, SHAPE, generator=seeded(), dtype=torch.uint8)
    view = drawn(crop)
    assert 0 < view.flip.sum() < n
    expected = torch.full((n, *view.size), IGNORED, dtype=torch.uint8)
    for image in range(n):
        for i, row in enumerate(points(view, image)):
            for j, (y, x) in enumerate(row):
                if 0 <= y < height and 0 <= x < width:
                    expected[image, i, j] = maps[image, int(y), int(x)]
    found = view.apply_labels(maps)
    assert found.dtype == torch.uint8 and torch.equal(found, expected)


@pytest.mark.parametrize("crop", CROPS)
def test_an_image_that_is_linear_stays_linear_and_agrees_with_its_label(crop: tuple[int, int] | None) -> None:
    """The label of a pixel is its column, and its colour a linear function of it: both views tell one place."""
    n, _, width = SHAPE
    column = torch.arange(width).expand(SHAPE)
    view = drawn(crop, seed=1)
    labels = view.apply_labels(column.to(torch.uint8))
    places = view.apply((column / 100)[:, None])[:, 0] * 100
    assert places.dtype == torch.float32 and places.shape == labels.shape
    outside = labels == IGNORED
    assert bool((places[outside] == 0).all()) and not bool(outside.all())
    # Nearest is half a pixel away at most; weights of an antialiased filter are not centred to the last digit.
    away = (places - labels).abs().masked_fill(outside, 0)
    grown = (view.scale >= 1)[:, None, None]
    assert away[grown.expand_as(away)].max() <= 0.5 + 1e-4 and away.max() <= 0.8
    exact = torch.tensor([[[x - 0.5 for _, x in row] for row in points(view, image)] for image in range(n)])
    inner = ~outside & grown & (exact >= 0) & (exact <= width - 1)
    torch.testing.assert_close(places[inner], exact[inner], rtol=0, atol=1e-3)


def test_a_scale_of_one_moves_whole_pixels_and_flips_mirror_both() -> None:
    images = torch.randint(0, 256, (6, 3, 9, 13), generator=seeded(), dtype=torch.uint8)
    plain = PixelAugmentation(scale=(1, 1), flip=False).draw(*SHAPE, seeded())
    mirrored = PixelView(plain.scale, plain.top, plain.left, torch.ones(6, dtype=torch.bool), plain.size)
    assert torch.equal(plain.apply(images), images / 255) and torch.equal(
        mirrored.apply(images), (images / 255).flip(-1)
    )
    assert torch.equal(mirrored.apply_labels(images[:, 0]), images[:, 0].flip(-1))
    cut = PixelAugmentation(scale=(1, 1), crop=(4, 5)).draw(*SHAPE, seeded(2))
    assert torch.equal(cut.apply(images)[:, 0], cut.apply_labels(images[:, 0]) / 255)


def test_parts_of_processes_are_rows_of_one_draw() -> None:
    images = torch.rand(6, 3, 9, 13, generator=seeded())
    maps = torch.randint(0, 9, SHAPE, generator=seeded(), dtype=torch.uint8)
    view = drawn((8, 8), seed=3)
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        assert torch.equal(view.part(rows).apply(images[rows]), view.apply(images)[rows])
        assert torch.equal(view.part(rows).apply_labels(maps[rows]), view.apply_labels(maps)[rows])


def test_draws_lie_in_their_bounds() -> None:
    view = PixelAugmentation(scale=(0.5, 2.0), crop=(9, 9)).draw(2000, 12, 8, seeded())
    assert view.scale.min() >= 0.5 and view.scale.max() <= 2 and abs(float(view.scale.mean()) - 1.25) < 0.05
    assert abs(int(view.flip.sum()) - 1000) < 100
    for first, side in ((view.top, 12), (view.left, 8)):
        room = view.scale * side - 9
        assert bool((first >= room.clamp(max=0).floor()).all() and (first <= room.clamp(min=0).ceil()).all())


def test_other_numbers_of_images_are_refused() -> None:
    told = "a view of 6 images was applied to 5 images"
    images: Tensor = torch.zeros(5, 3, 9, 13)
    assert_refused(
        (partial(drawn(None).apply, images), told), (partial(drawn(None).apply_labels, images[:, 0].byte()), told)
    )
