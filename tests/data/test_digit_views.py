"""The views of digits, part by part: what is drawn by its bounds, what is done against PIL and the formula."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from relgraph.data.digit_views import Digits, DigitsView
from tests.checks import assert_refused_like
from tests.data.shared import seeded


def some_images(n: int) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=seeded())


def still(n: int) -> DigitsView:
    """A view that changes nothing."""
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(n, 2, 3)
    one, no = torch.ones(n), torch.zeros(n, dtype=torch.bool)
    return DigitsView(no, identity, torch.zeros(n, 2, 4, 4), one, one, torch.zeros(n, 1, 8, 8), torch.ones(n, 3), no)


def test_a_view_that_changes_nothing() -> None:
    images = some_images(4)
    torch.testing.assert_close(still(4).apply(images), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(still(4).apply((images * 255).byte()), (images * 255).byte() / 255, rtol=0, atol=1e-5)


def test_a_warp_is_pils_affine_transform() -> None:
    images = torch.nn.functional.interpolate(some_images(5)[..., ::2, ::2], size=(8, 8), mode="bilinear")
    affine = Digits().draw(5, 8, 8, seeded(2)).affine
    seen = replace(still(5), affine=affine).apply(images)
    to_pixels = np.array([[4, 0, 4], [0, 4, 4], [0, 0, 1.0]])  # from -1..1 to 0..8
    for image, matrix, got in zip(images, affine, seen, strict=True):
        whole = to_pixels @ np.vstack((matrix.double().numpy(), [0, 0, 1])) @ np.linalg.inv(to_pixels)
        padded = np.pad(image[0].numpy(), 8)  # PIL leaves out what is sampled beyond the border
        shift = np.array([[1, 0, 8], [0, 1, 8], [0, 0, 1.0]])
        inside = (shift @ whole @ np.linalg.inv(shift))[:2].flatten().tolist()
        expected = Image.fromarray(padded).transform((24, 24), Image.Transform.AFFINE, inside, Image.Resampling.BICUBIC)
        # PIL's cubic has a = -1/2, torch's -3/4: on so smooth an image they differ little.
        np.testing.assert_allclose(got[0].numpy(), np.asarray(expected)[8:16, 8:16].clip(0, 1), rtol=0, atol=0.06)


def test_a_bend_of_equal_points_is_a_shift() -> None:
    images = some_images(3)
    bend = torch.zeros(3, 2, 4, 4)
    bend[:, 0] = 2 / 8  # one pixel to the right is sampled
    seen = replace(still(3), bend=bend).apply(images)
    torch.testing.assert_close(seen[..., :-1], images[..., 1:], rtol=0, atol=1e-4)
    assert seen[..., -1].abs().max() < 1e-4


def test_power_gain_noise_and_square() -> None:
    images = some_images(2)
    power, gain, noise = torch.tensor([0.7, 1.5]), torch.tensor([1.2, 0.8]), torch.full((2, 1, 8, 8), 0.05)
    square = torch.tensor([[3.0, 5.5, 2.1], [3.0, 5.5, 2.1]])  # y, x, side of each
    view = replace(still(2), power=power, gain=gain, noise=noise, square=square, erased=torch.tensor([True, False]))
    expected = images ** power.view(2, 1, 1, 1) * gain.view(2, 1, 1, 1) + 0.05
    expected[0, 0, 2:4, 5] = 0  # rows 2.5 and 3.5, column 5.5 lie within 1.05 of the centre
    expected[0, 0, 2:4, [4, 6]] = 0
    torch.testing.assert_close(view.apply(images), expected, rtol=0, atol=1e-5)


def test_draws_keep_their_bounds_and_fill_them() -> None:
    n = 4000
    view = Digits().draw(n, 6, 8, seeded())
    assert not view.flip.any()
    for draw, low, high in (
        (view.power.log(), -0.5, 0.5),
        (view.gain, 0.7, 1.2),
        (view.affine[:, 0, 2], -0.2, 0.2),
        (view.affine[:, 1, 2], -0.2, 0.2),
        (view.square[:, 0], 0, 6),
        (view.square[:, 1], 0, 8),
        (view.square[:, 2] / 8, 0.2, 0.45),
        (view.affine[:, 1, 0].atan2(view.affine[:, 0, 0]).rad2deg(), -15, 15),  # the angle: shear acts on the other
        (view.affine[:, :, 0].norm(dim=1), 0.8, 1.2),
    ):
        assert low - 1e-3 <= draw.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < draw.max() <= high + 1e-3
    assert abs(float(view.erased.float().mean()) - 0.5) < 0.03
    assert abs(float(view.bend.std()) - 0.08) < 0.001
    assert abs(float(view.noise.std()) - 0.1 / 3**0.5) < 0.002  # the mean square of 0..0.1


def test_other_channels_are_seen_alike_and_each_draw_wants_its_image() -> None:
    view, images = Digits().draw(6, 8, 8, seeded()), some_images(6)
    torch.testing.assert_close(view.apply(images.expand(-1, 3, -1, -1))[:, 1:2], view.apply(images))
    assert_refused_like((lambda: view.apply(images[:4]), "a view of 6 images was applied to 4 images"))
