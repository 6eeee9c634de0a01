"""Transforms against torchvision's, one image at a time; boxes against the law they are drawn by."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from relgraph.data.transforms import CHANGES, blur_matrix, blur_taps, draw_boxes, draw_jitter, resample
from tests.data.shared import JITTER, chi_square, seeded


def some_images(n: int, channels: int) -> Tensor:
    """Random images, with ties between channels, grey, black and white pixels among them."""
    images = torch.rand(n, channels, 9, 7, generator=seeded())
    images[:, :, :2] = images[:, :, :2].round()
    images[:, :, 2] = images[:, :1, 2]
    images[:, 1:, 3] = images[:, 1:2, 3]
    return images


def test_a_change_is_torchvisions() -> None:
    for channels in (1, 3):
        for at, (change, oracle) in enumerate(zip(CHANGES, JITTER, strict=True)):
            images = some_images(9, channels)
            factors = torch.linspace(-0.5, 0.5, 9) if at == 3 else torch.linspace(0, 2, 9)
            before = images.clone()
            expected = torch.stack([oracle(*pair) for pair in zip(images, factors.tolist(), strict=True)])
            torch.testing.assert_close(change(images, factors), expected, rtol=0, atol=3e-6)
            assert torch.equal(images, before)


def test_factors_are_uniform_and_every_order_equally_likely() -> None:
    n = 48_000
    jitter = draw_jitter(torch.ones(n, dtype=torch.bool), (0.4, 1.5, 0.2, 0.1), seeded())
    for row, (low, high) in zip(jitter.factors, ((0.6, 1.4), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)), strict=True):
        counts = torch.histc(row, 20, low, high)
        assert counts.sum() == n
        assert chi_square(counts) < 43.8  # the 99.9 % quantile with 19 degrees of freedom
    counts = torch.bincount((jitter.order * torch.tensor([[64], [16], [4], [1]])).sum(0))
    assert len(counts[counts > 0]) == 24 and chi_square(counts[counts > 0]) < 49.7  # and with 23


def test_a_part_of_a_jitter_changes_its_rows_as_the_whole_does() -> None:
    images = torch.rand(8, 3, 7, 9)
    for chosen in ([], [1], [0, 3, 4, 7], list(range(8))):
        positions = torch.tensor(chosen, dtype=torch.long)
        jitter = draw_jitter(torch.isin(torch.arange(8), positions), (0.4, 0.4, 0.4, 0.1), seeded())
        whole = jitter.apply_(images.clone())
        assert torch.equal((whole != images).flatten(1).any(1).nonzero()[:, 0], positions)
        assert torch.equal(jitter.apply(images), whole)
        for rows in (slice(0, 8), slice(0, 4), slice(4, 8), slice(3, 4)):
            assert torch.equal(jitter.part(rows).apply_(images[rows].clone()), whole[rows])


def test_a_blur_is_torchvisions() -> None:
    sides: tuple[tuple[tuple[int, int], int], ...] = (((32, 32), 3), ((12, 7), 3), ((30, 25), 9), ((2, 3), 3))
    for side, taps in sides:
        images, sigma = torch.rand(8, 3, *side), torch.linspace(0.1, 2, 8)
        blurred = resample(images, *(blur_matrix(sigma, size, taps) for size in side))
        for image, deviation, got in zip(images, sigma.tolist(), blurred, strict=True):
            expected = tv.gaussian_blur(image, [taps, taps], [deviation, deviation])
            torch.testing.assert_close(got, expected, rtol=0, atol=3e-6)


def test_a_blur_reaches_over_a_tenth_of_the_side() -> None:
    for side in range(3, 300):
        taps = blur_taps(side)
        assert taps % 2 == 1 and taps // 2 < side
        assert taps == 3 or abs(taps - side / 10) <= 1
    assert blur_taps(2) == 1


def naive_box(height: int, width: int, areas: list[float], ratios: list[float], bounds: tuple[float, float]) -> Tensor:
    """Do what torchvision's RandomResizedCrop does with ten draws; top and left are -1 unless it falls back."""
    for area, ratio in zip(areas, ratios, strict=True):
        wide = round((height * width * area * ratio) ** 0.5)
        tall = round((height * width * area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < tall <= height:
            return torch.tensor([-1, -1, tall, wide])
    tall, wide = height, width
    if width / height < bounds[0]:
        tall = round(width / bounds[0])
    elif width / height > bounds[1]:
        wide = round(height * bounds[1])
    return torch.tensor([(height - tall) // 2, (width - wide) // 2, tall, wide])


def test_boxes_are_the_first_that_fit_else_central() -> None:
    n, ratio = 200, (3 / 4, 4 / 3)
    for height, width, low, high in (
        (32, 32, 0.2, 1.0), (32, 4, 0.2, 1.0), (5, 40, 0.2, 1.0), (3, 3, 0.2, 1.0), (4, 4, 0.001, 0.05),
    ):  # fmt: skip
        boxes = draw_boxes(n, height, width, (low, high), ratio, seeded(3))
        same = seeded(3)
        shares, shapes = (torch.rand(n, 10, generator=same, dtype=torch.float64) for _ in range(2))
        areas, ratios = low + (high - low) * shares, ratio[0] * (ratio[1] / ratio[0]) ** shapes
        for box, area, shape in zip(boxes.T, areas, ratios, strict=True):
            expected = naive_box(height, width, area.tolist(), shape.tolist(), ratio)
            assert torch.equal(box[2:], expected[2:])
            assert expected[0] < 0 or torch.equal(box[:2], expected[:2])
            assert 0 <= box[0] <= height - box[2] and 0 <= box[1] <= width - box[3]


def test_area_and_ratio_follow_their_laws() -> None:
    n = 20_000  # in so large an image every box of up to half the area fits, and rounding is small
    boxes = draw_boxes(n, 4096, 4096, (0.1, 0.5), (3 / 4, 4 / 3), seeded()).double()
    area, ratio = boxes[2] * boxes[3] / 4096**2, (boxes[3] / boxes[2]).log() / torch.tensor(4 / 3).log()
    for draw, low, high in ((area, 0.1, 0.5), (ratio, -1.0, 1.0)):
        counts = torch.histc(draw.clamp(low, high), 20, low, high)
        assert ((draw >= low - 2e-3) & (draw <= high + 2e-3)).all()
        assert chi_square(counts) < 43.8  # the 99.9 % quantile with 19 degrees of freedom


def test_places_are_uniform() -> None:
    boxes = draw_boxes(18_000, 8, 8, (0.5625, 0.5625), (1.0, 1.0), seeded())
    assert (boxes[2:] == 6).all()
    counts = torch.bincount(boxes[0] * 3 + boxes[1])
    assert len(counts) == 9 and chi_square(counts) < 26.1  # the 99.9 % quantile with 8 degrees of freedom


def test_an_image_is_the_same_to_the_last_bit_wherever_it_stands() -> None:
    for size, out in ((16, 7), (9, 9), (15, 11), (33, 5), (12, 8), (13, 14)):
        for channels in (1, 3):
            images, (rows, columns) = torch.rand(9, channels, size, size), torch.rand(2, 9, out, size)
            seen = resample(images, rows, columns)
            assert seen.is_contiguous()
            torch.testing.assert_close(seen, torch.einsum("bih,bchw,bjw->bcij", rows, images, columns))
            for start in range(9):
                some = slice(start, start + 1)
                assert torch.equal(resample(images[some], rows[some], columns[some]), seen[some])
