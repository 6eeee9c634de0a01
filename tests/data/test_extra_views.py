"""Extra views against loops over images with numpy and torchvision, with the same draws; what holds for all views."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from relgraph.data.augment import MOCO, SIMCLR, SIMCLR_SMALL, ContrastiveView, Digits
from relgraph.data.extra_views import (
    Chain,
    Changed,
    Joined,
    Patches,
    Rotations,
    Transformations,
    make_extra_views,
    patch_size,
)
from relgraph.data.transforms import Jitter
from relgraph.data.views import PadCropFlip, View
from relgraph.processes import ProcessGroup
from tests.checks import assert_refused_like, case
from tests.data.shared import JITTER, chi_square, padded_crop, random_images, seeded
from tests.data.test_augment import ALWAYS, NEVER

FLIP = torch.arange(12) % 3 == 0
EXTRA = (Rotations(2), Transformations(2), Patches(MOCO, 3, 7), Patches(replace(MOCO, blur=0.0, grey=0.0), 1, 6))
KINDS = (PadCropFlip(2, True), MOCO, SIMCLR, SIMCLR_SMALL, replace(MOCO, size=7), NEVER, ALWAYS, Digits(), *EXTRA)


def crops_of(drawn: Joined) -> list[View]:
    """Return the padded crop with which each view begins."""
    chains = [view for view in drawn.views if isinstance(view, Chain)]
    return [chain.steps[0] for chain in chains if isinstance(chain.steps[0], View)]


def draw(kind: Any, images: Tensor, seed: int = 0) -> Any:
    """Draw views of any kind for 12 images."""
    return kind.draw(12, *images.shape[2:], *([FLIP] if kind in EXTRA else []), seeded(seed))


def test_rotations_are_numpys_of_crops_with_the_base_views_flip() -> None:
    for shape in ((12, 3, 8, 8), (12, 1, 5, 5)):
        images = random_images(*shape)
        view = Rotations(padding=2).draw(12, shape[2], shape[3], FLIP, seeded())
        seen = view.apply(images)
        assert seen.dtype == torch.uint8 and seen.shape == (36, *shape[1:])
        for v, crops in enumerate(crops_of(view)):
            assert torch.equal(crops.flip, FLIP)
            for i, image in enumerate(images):
                expected = np.rot90(padded_crop(image, crops, i, 2), v + 1, axes=(1, 2))
                assert np.array_equal(seen[v * 12 + i], expected)


def test_each_rotation_has_a_crop_of_its_own() -> None:
    drawn = Rotations(padding=4).draw(1000, 8, 8, torch.zeros(1000), seeded())
    first, second, _ = crops_of(drawn)
    for offsets, others in ((first.dx, second.dx), (first.dy, second.dy)):
        assert offsets.min() == -4 and offsets.max() == 4
        assert abs(float((offsets == others).float().mean()) - 1 / 9) < 0.035


def test_transformations_are_the_papers_four_in_their_order() -> None:
    images = random_images(12, 3, 16, 16)
    view = Transformations(padding=2).draw(12, 16, 16, FLIP, seeded())
    turn, _, jitter, box = (chain.steps[2] for chain in view.views if isinstance(chain, Chain))
    assert isinstance(turn, Changed) and isinstance(jitter, Jitter) and isinstance(box, Changed)
    assert all(torch.equal(crops.flip, FLIP) for crops in crops_of(view))
    seen = view.apply(images).view(4, 12, 3, 16, 16)
    assert seen.dtype == torch.float32 and seen.min() >= 0 and seen.max() <= 1
    for i, image in enumerate(images):
        crops = [padded_crop(image, each, i, 2).float() / 255 for each in crops_of(view)]
        turned, distorted = crops[0].rot90(int(turn.arguments[0][i]), (1, 2)), crops[2]
        for change in jitter.order[:, i].tolist():
            distorted = JITTER[change](distorted, float(jitter.factors[change, i]))
        resized = tv.resized_crop(crops[3], *box.arguments[0][:, i].tolist(), [16, 16], antialias=True)
        expected = torch.stack((turned, tv.rgb_to_grayscale(crops[1], 3), distorted, resized))
        torch.testing.assert_close(seen[:, i], expected, rtol=0, atol=1e-5)


def test_transformations_turn_by_each_angle_alike() -> None:
    view = Transformations(padding=0).draw(3000, 8, 8, torch.zeros(3000), seeded())
    first = view.views[0]
    assert isinstance(first, Chain) and isinstance(first.steps[2], Changed)
    counts = torch.bincount(first.steps[2].arguments[0])
    assert counts[0] == 0 and len(counts) == 4
    assert chi_square(counts[1:]) < 13.8  # the 99.9 % quantile with 2 degrees of freedom


def test_grey_images_can_be_transformed() -> None:
    images = random_images(12, 1, 8, 8)
    view = Transformations(padding=0).draw(12, 8, 8, FLIP, seeded())
    mirrored = torch.where(FLIP[:, None, None, None], images.flip(-1), images) / 255
    torch.testing.assert_close(view.apply(images)[12:24], mirrored)


def test_patches_are_small_views_of_the_augmentation() -> None:
    images = random_images(12, 3, 32, 32)
    view = Patches(SIMCLR_SMALL, each=5, size=14).draw(12, 32, 32, FLIP, seeded())
    small, generator = replace(SIMCLR_SMALL, scale=(0.05, 0.14), size=14), seeded()
    seen = view.apply(images).view(5, 12, 3, 14, 14)
    for patches in seen:
        assert torch.equal(patches, small.draw(12, 32, 32, generator).apply(images))
    boxes = torch.cat([drawn.box for drawn in view.views if isinstance(drawn, ContrastiveView)], dim=1)
    assert boxes.shape == (4, 60)
    area = boxes[2] * boxes[3] / 32**2
    assert area.min() > 0.03 and area.max() < 0.17  # 0.05 to 0.14, in whole pixels


def test_the_generator_alone_decides_whatever_autocast_does() -> None:
    images = random_images(12, 3, 8, 8)
    for kind in KINDS:
        view, again, other = (draw(kind, images, seed) for seed in (3, 3, 4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = view.apply(images)
        assert torch.equal(first, again.apply(images))
        assert kind is NEVER or not torch.equal(first, other.apply(images))


def test_nothing_is_read_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: nullcontext())  # which "meta" has not
    for kind, channels in product(KINDS, (1, 3)):
        images = torch.zeros(12, channels, 7, 7, dtype=torch.uint8, device="meta")  # holds no value to be read
        seen = draw(kind, images).apply(images)
        assert len(seen) == 12 * kind.each if kind in EXTRA else seen.shape == images.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_on_the_gpu_are_those_on_the_cpu() -> None:
    images = random_images(12, 3, 32, 32)
    for kind in KINDS:
        drawn = draw(kind, images)
        torch.testing.assert_close(drawn.apply(images.cuda()).cpu(), drawn.apply(images), rtol=0, atol=1e-4)


def test_a_part_sees_its_rows_of_every_view() -> None:
    shares = (0, 3), (1, 3), (2, 3), (0, 12), (7, 12), (11, 12)  # also of one image each
    spans = [ProcessGroup(*share).rows(12) for share in shares]
    small = {True: random_images(12, 1, 9, 9), False: torch.rand(12, 1, 9, 13)}
    for kind in KINDS:
        for images in (random_images(12, 3, 16, 16), small[kind in EXTRA]):
            drawn = draw(kind, images)
            whole = drawn.apply(images.clone())
            whole = whole.view(-1, 12, *whole.shape[1:])
            for rows in (slice(3, 7), slice(5), slice(5, None), *spans):
                with case(kind, rows):
                    part = drawn.part(rows)
                    assert type(part) is type(drawn) and (kind in EXTRA or torch.equal(part.flip, drawn.flip[rows]))
                    assert torch.equal(part.apply(images[rows].clone()), whole[:, rows].flatten(0, 1))
            again = drawn.part(slice(2, 10)).part(slice(3, 6))
            assert torch.equal(again.apply(images[5:8].clone()), whole[:, 5:8].flatten(0, 1))


def test_kinds_make_their_views_and_refuse_the_others() -> None:
    make = partial(make_extra_views, padding=4, flip=True, augmentation=MOCO, side=32)
    expected = {3: Rotations(4), 4: Transformations(4), 6: Patches(MOCO, 6, 14)}  # by the number of views
    for kind, (each, views) in zip(("rotations", "transformations", "patches"), expected.items(), strict=True):
        assert make(kind, each) == views and views.each == each
    unmirrored = make("patches", 2, augmentation=SIMCLR_SMALL, flip=False)
    assert unmirrored == Patches(replace(SIMCLR_SMALL, flip=0.0), 2, 14)
    assert [patch_size(side) for side in (224, 96, 32, 8, 1)] == [96, 41, 14, 3, 1]  # published for 224 pixels
    grey = Transformations(4).draw(12, 8, 8, FLIP, seeded())
    assert_refused_like(
        (partial(make, "rotation", 3), "unknown kind of extra views 'rotation': did you mean 'rotations'"),
        (partial(make, "rotations", 4), "there are 3 rotations of an image, got 4"),
        (partial(make, "transformations", 3), "there are 4 transformations of an image, got 3"),
        (partial(make, "patches", 0), "the number of patches must be at least 1, got 0"),
        (partial(make, "patches", 6, augmentation=PadCropFlip(4, True)), "contrastive augmentation.* got PadCropFlip"),
        (partial(make, "patches", 6, augmentation=Digits()), "contrastive augmentation.* got Digits"),
        *((partial(x.draw, 12, 8, 9, FLIP, seeded()), "want square images, got 8 x 9") for x in EXTRA[:2]),
        *((partial(x.draw, 5, 8, 8, FLIP, seeded()), "one flip for each of 5 images, got 12") for x in EXTRA[:2]),
        (lambda: grey.apply(random_images(12, 2, 8, 8)), "a grey view needs images with 1 or 3 channels, got 2"),
    )
