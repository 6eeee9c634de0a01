"""Views against a loop over images with numpy's pad; `Normalise` against the formula, channel by channel."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from relgraph.data.views import FixedViews, Normalise, PadCropFlip, View
from relgraph.errors import RelgraphError
from relgraph.seeding import generator
from tests.checks import assert_refused_like
from tests.data.shared import chi_square, padded_crop, random_images, seeded


def draw(n: int, padding: int, flip: bool) -> View:
    return PadCropFlip(padding, flip).draw(n, 8, 8, seeded())


def test_a_view_is_pad_crop_and_flip() -> None:
    for shape in ((40, 3, 32, 32), (40, 1, 8, 8), (40, 2, 5, 9)):
        images = random_images(*shape)
        for padding, flip in ((0, True), (1, False), (4, True)):
            view = draw(len(images), padding, flip)
            viewed = view.apply(images)
            assert viewed.dtype == torch.uint8
            assert torch.equal(viewed, torch.stack([padded_crop(x, view, i, padding) for i, x in enumerate(images)]))


def test_a_shift_beyond_the_image_leaves_it_black() -> None:
    view = View(dx=torch.tensor([9]), dy=torch.tensor([0]), flip=torch.tensor([False]))
    assert torch.equal(view.apply(random_images(1, 3, 4, 4)), torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_draws_are_uniform_over_offsets_and_flips() -> None:
    n, padding = 40_000, 2
    view = draw(n, padding, True)
    counts = torch.bincount(((view.dy + padding) * 5 + view.dx + padding) * 2 + view.flip)
    assert len(counts) == 50 and chi_square(counts) < 85.4  # the 99.9 % quantile with 49 degrees of freedom
    assert not draw(1000, 4, False).flip.any()


def test_view_0_is_the_image_and_the_others_are_not() -> None:
    views, index = FixedViews(9, 3, padding=2, flip=True, seed=0), torch.tensor([8, 0, 3, 3])
    pixels = random_images(9, 3, 6, 6)[index]
    assert torch.equal(views.take(torch.zeros(4, dtype=torch.long), index).apply(pixels), pixels)
    for v in (1, 2):
        assert not torch.equal(views.take(torch.full((4,), v), index).apply(pixels), pixels)


def test_a_view_is_one_draw_for_all_images_by_seed_and_number() -> None:
    views, view, index = FixedViews(50, 3, padding=2, flip=True, seed=5), [2, 1, 2, 1], [40, 7, 7, 7]
    draws = [PadCropFlip(2, True).draw(50, 6, 6, generator("stored views", 5, v)) for v in range(3)]
    taken = views.take(torch.tensor(view), torch.tensor(index))
    for name in ("dx", "dy", "flip"):
        expected = torch.stack([getattr(draws[v], name)[i] for v, i in zip(view, index, strict=True)])
        assert getattr(taken, name).dtype == expected.dtype and torch.equal(getattr(taken, name), expected)


def test_seeds_differ_and_flips_are_those_of_the_data_set() -> None:
    first, second = (FixedViews(64, 2, padding=4, flip=False, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.dx, second.dx)
    assert not first.flip.any()
    with pytest.raises(RelgraphError, match="at least 1 image and 1 view, got 5 and 0"):
        FixedViews(5, 0, padding=1, flip=False, seed=0)


def test_a_stored_view_is_not_the_view_of_an_epoch_of_its_number() -> None:
    """The student would meet in epoch v what its teacher has stored as view v."""
    for seed, v in ((0, 1), (5, 2)):
        stored = FixedViews(50, 3, padding=4, flip=True, seed=seed).take(torch.full((50,), v), torch.arange(50))
        trained = PadCropFlip(4, True).draw(50, 6, 6, generator("views", seed, v))
        assert (stored.dx == trained.dx).float().mean() < 0.5 and (stored.dy == trained.dy).float().mean() < 0.5
        assert not torch.equal(stored.flip, trained.flip)


def test_prepare_normalises_each_channel_and_takes_float_images_as_they_are() -> None:
    images, mean, std = random_images(5, 3, 6, 6), (0.5, 0.4, 0.3), (0.2, 0.25, 0.1)
    floats = images.float() / 255
    expected = (images.movedim(1, -1).numpy() / 255.0 - mean) / std
    prepared = Normalise(mean, std)(images).movedim(1, -1).numpy()
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=1e-5)
    for size in (None, 9):
        for given in (images, floats, floats.double()):
            found = Normalise(mean, std, size=size)(given)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, Normalise(mean, std, size=size)(images), rtol=0, atol=1e-6)
    assert torch.equal(floats, images.float() / 255)


def test_prepare_repeats_grey() -> None:
    prepared = Normalise((0.0, 0.0, 0.5), (1.0, 1.0, 2.0))(random_images(4, 1, 8, 8))
    assert torch.equal(prepared[:, 0], prepared[:, 1])
    torch.testing.assert_close(prepared[:, 2], (prepared[:, 0] - 0.5) / 2)


def test_prepare_turns_colour_into_the_grey_that_pil_sees() -> None:
    images = random_images(4, 3, 8, 8)
    prepared = Normalise((0.0,), (1.0,))(images)
    for image, grey in zip(images, prepared, strict=True):
        expected = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        np.testing.assert_allclose(grey[0].numpy() * 255, expected, rtol=0, atol=1.01)  # PIL rounds


def test_prepare_resizes_as_pil_does() -> None:
    images = functional.interpolate(random_images(3, 3, 3, 3).float(), size=(8, 8), mode="bilinear").to(torch.uint8)
    for size in (4, 16):
        prepared = Normalise((0.0,) * 3, (1.0,) * 3, size=size)(images)
        assert prepared.shape == (3, 3, size, size)
        for image, resized in zip(images, prepared, strict=True):
            expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
            np.testing.assert_allclose(resized.permute(1, 2, 0).numpy() * 255, np.asarray(expected), rtol=0, atol=2.01)


def test_prepare_clamps_the_overshoot_of_bicubic() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[..., 4:] = 255
    prepared = Normalise((0.0,), (1.0,), 1, 32)(images)
    assert prepared.min() == 0 and prepared.max() == 1


def test_what_does_not_fit_is_said() -> None:
    def prepared(found: int, channels: int, numbers: int) -> None:
        Normalise((0.5,) * numbers, (0.5,) * channels, channels)(random_images(1, found, 8, 8))

    assert_refused_like(
        (lambda: draw(3, 1, True).apply(random_images(4, 3, 8, 8)), "a view of 3 images was applied to 4 images"),
        (partial(prepared, 3, 3, 1), "one number for each of 3 channels, got 1 and 3"),
        *(
            (partial(prepared, a, b, b), f"images with {a} channels cannot become images with {b}")
            for a, b in ((4, 3), (1, 2), (2, 1), (3, 4))
        ),
    )
