"""Contrastive views against torchvision's functions, with the same draws; shares; presets; those of digits in parts.

What digits' views draw is held to its bounds, what is done is compared with PIL and the formula.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from relgraph.data import AUGMENTATIONS
from relgraph.data.augment import (
    MOCO,
    SIMCLR,
    SIMCLR_SMALL,
    ContrastiveAugmentation,
    ContrastiveView,
    Digits,
    DigitsView,
)
from relgraph.data.augment import make_augmentation as make
from relgraph.data.pixel_views import PixelAugmentation
from relgraph.data.transforms import blur_taps
from relgraph.data.views import PadCropFlip
from tests.checks import assert_refused_like
from tests.data.shared import JITTER, random_images, seeded

NEVER = ContrastiveAugmentation(scale=(1, 1), ratio=(1, 1), flip=0, jitter_share=0, grey=0, blur=0)
ALWAYS = replace(MOCO, jitter_share=1.0, grey=1.0, blur=1.0, flip=1.0)


def one_by_one(images: Tensor, view: ContrastiveView) -> Tensor:
    """Do what torchvision's transforms do with these draws, in the order of MoCo v2: the flip comes last."""
    seen = []
    for i, image in enumerate(images):
        top, left, height, width = view.box[:, i].tolist()
        one = tv.resized_crop(image.float() / 255, top, left, height, width, list(view.size), antialias=True)
        for change in view.jitter.order[:, i].tolist() if view.jitter.chosen[i] else ():
            one = JITTER[change](one, float(view.jitter.factors[change, i]))
        if view.grey[i]:
            one = tv.rgb_to_grayscale(one, num_output_channels=one.shape[0])
        if (sigma := float(view.sigma[i])) > 0:
            one = tv.gaussian_blur(one, [blur_taps(view.size[1]), blur_taps(view.size[0])], [sigma, sigma])
        seen.append(tv.horizontal_flip(one) if view.flip[i] else one)
    return torch.stack(seen)


def test_views_are_torchvisions_of_bytes_and_of_floats() -> None:
    for shape, augmentation in (
        ((20, 3, 32, 32), MOCO),
        ((20, 1, 8, 8), MOCO),
        ((20, 3, 18, 40), replace(MOCO, size=20)),
        ((20, 3, 32, 32), SIMCLR_SMALL),
        ((8, 3, 96, 96), SIMCLR),
    ):
        images = random_images(*shape)
        floats = images.float() / 255
        view = augmentation.draw(shape[0], shape[2], shape[3], seeded())
        seen = view.apply(images)
        assert seen.dtype == torch.float32 and seen.min() >= 0 and seen.max() <= 1
        torch.testing.assert_close(seen, one_by_one(images, view), rtol=0, atol=2e-5)
        assert torch.equal(view.apply(floats), seen)
        assert torch.equal(floats, images.float() / 255) and torch.equal(images, random_images(*shape))


def test_white_is_never_whiter_than_white() -> None:
    view = ContrastiveAugmentation(jitter_share=0, grey=0, size=21).draw(64, 33, 33, seeded())
    assert view.apply(torch.full((64, 3, 33, 33), 255, dtype=torch.uint8)).max() == 1


def test_each_part_takes_its_share_of_the_images() -> None:
    n = 20_000
    shares = ContrastiveAugmentation(flip=0.3, jitter_share=0.7, grey=0.1, blur=0.6)
    view = shares.draw(n, 32, 32, seeded())
    blur = view.sigma > 0
    both = view.grey & blur  # the parts are drawn apart
    chosen = (view.flip, view.jitter.chosen, view.grey, blur, both)
    for count, share in zip((int(each.sum()) for each in chosen), (0.3, 0.7, 0.1, 0.6, 0.06), strict=True):
        assert abs(count - share * n) < 3.3 * (n * share * (1 - share)) ** 0.5
    sigma = view.sigma[blur]
    assert abs(float(sigma.mean()) - 1.05) < 0.02 and sigma.min() >= 0.1 and sigma.max() <= 2


def test_shares_of_nothing_and_of_all() -> None:
    images = random_images(9, 3, 8, 8)
    torch.testing.assert_close(NEVER.draw(9, 8, 8, seeded()).apply(images), images / 255, rtol=0, atol=1e-6)
    grey = replace(NEVER, grey=1.0, flip=1.0).draw(9, 8, 8, seeded()).apply(images)
    torch.testing.assert_close(grey, tv.rgb_to_grayscale(images / 255, 3).flip(-1), rtol=0, atol=1e-6)


def test_names_make_the_published_augmentations() -> None:
    made = [make(name, padding=4, flip=True, channels=3) for name in AUGMENTATIONS]
    assert made == [PadCropFlip(4, True), MOCO, SIMCLR, SIMCLR_SMALL, Digits(), PixelAugmentation()]
    strong, weak = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1)
    assert [(x.scale, x.jitter, x.jitter_share, x.grey, x.blur) for x in (MOCO, SIMCLR, SIMCLR_SMALL)] == [
        ((0.2, 1.0), weak, 0.8, 0.2, 0.5), ((0.08, 1.0), strong, 0.8, 0.2, 0.5), ((0.08, 1.0), weak, 0.8, 0.2, 0),
    ]  # fmt: skip
    for name in AUGMENTATIONS:  # for data that are never mirrored
        assert not make(name, padding=4, flip=False, channels=1).draw(1000, 8, 8, seeded()).flip.any()


def test_what_does_not_fit_is_said() -> None:
    made, view = partial(make, padding=4, flip=True), MOCO.draw(3, 8, 8, seeded())
    assert_refused_like(
        (partial(made, "simclr-smal", channels=3), "unknown augmentation 'simclr-smal': did you mean 'simclr-small'"),
        (partial(made, "moco", channels=4), "augmentation 'moco' needs images with 1 or 3 channels, got 4"),
        (lambda: view.apply(random_images(4, 3, 8, 8)), "a view of 3 images was applied to 4 images"),
        (lambda: view.apply(random_images(3, 2, 8, 8)), "a contrastive view needs images with 1 or 3 channels, got 2"),
    )


def test_parts_are_chosen_for_their_rows_alone() -> None:
    drawn = MOCO.draw(12, 15, 15, seeded(3))
    parts = [drawn.part(slice(start, start + 4)) for start in (0, 4, 8)]
    for whole, *each in zip(*([x.grey, x.sigma > 0, x.jitter.chosen] for x in (drawn, *parts)), strict=True):
        assert torch.equal(torch.cat(each), whole) and whole.any()


def some_images(n: int) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=seeded())


def still(n: int) -> DigitsView:
    """A view that changes nothing."""
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(n, 2, 3)
    one, no = torch.ones(n), torch.zeros(n, dtype=torch.bool)
    return DigitsView(no, identity, torch.zeros(n, 2, 4, 4), one, one, torch.zeros(n, 1, 8, 8), torch.zeros(n, 3))


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
    square = torch.tensor([[3.0, 5.5, 2.1], [3.0, 5.5, 0.0]])  # y, x, side of each
    view = replace(still(2), power=power, gain=gain, noise=noise, square=square)
    expected = images ** power.view(2, 1, 1, 1) * gain.view(2, 1, 1, 1) + 0.05
    expected[0, 0, 2:4, 5] = 0  # rows 2.5 and 3.5, column 5.5 lie within 1.05 of the centre
    expected[0, 0, 2:4, [4, 6]] = 0
    torch.testing.assert_close(view.apply(images), expected, rtol=0, atol=1e-5)


def test_draws_keep_their_bounds_and_fill_them() -> None:
    n = 4000
    view = Digits().draw(n, 6, 8, seeded())
    side = view.square[:, 2]
    assert not view.flip.any()
    for draw, low, high in (
        (view.power.log(), -0.5, 0.5),
        (view.gain, 0.7, 1.2),
        (view.affine[:, 0, 2], -0.2, 0.2),
        (view.affine[:, 1, 2], -0.2, 0.2),
        (view.square[:, 0], 0, 6),
        (view.square[:, 1], 0, 8),
        (side[side > 0] / 8, 0.2, 0.45),
        (view.affine[:, 1, 0].atan2(view.affine[:, 0, 0]).rad2deg(), -15, 15),  # the angle: shear acts on the other
        (view.affine[:, :, 0].norm(dim=1), 0.8, 1.2),
    ):
        assert low - 1e-3 <= draw.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < draw.max() <= high + 1e-3
    assert abs(float((side > 0).float().mean()) - 0.5) < 0.03
    assert abs(float(view.bend.std()) - 0.08) < 0.001
    assert abs(float(view.noise.std()) - 0.1 / 3**0.5) < 0.002  # the mean square of 0..0.1


def test_other_channels_are_seen_alike_and_each_draw_wants_its_image() -> None:
    view, images = Digits().draw(6, 8, 8, seeded()), some_images(6)
    torch.testing.assert_close(view.apply(images.expand(-1, 3, -1, -1))[:, 1:2], view.apply(images))
    assert_refused_like((lambda: view.apply(images[:4]), "a view of 6 images was applied to 4 images"))
