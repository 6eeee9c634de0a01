"""Changes of colour against torchvision's, one image at a time."""

import torch
from torch import Tensor

from relgraph.data.colour import CHANGES, draw_jitter
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
