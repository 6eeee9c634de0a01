"""Contrastive views against torchvision's functions, one image at a time, with the same draws; shares; presets."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from relgraph.data import AUGMENTATIONS
from relgraph.data.augment import (
    MOCO,
    SIMCLR,
    SIMCLR_SMALL,
    Augmentation,
    ContrastiveAugmentation,
    ContrastiveView,
    make_augmentation,
)
from relgraph.data.digit_views import Digits
from relgraph.data.resample import blur_taps
from relgraph.data.views import PadCropFlip
from relgraph.errors import RelgraphError
from relgraph.processes import ProcessGroup

JITTER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def one_by_one(images: Tensor, view: ContrastiveView) -> Tensor:
    """Do what torchvision's transforms do with these draws, in the order of MoCo v2: the flip comes last."""
    seen = []
    for i, image in enumerate(images):
        top, left, height, width = view.box[:, i].tolist()
        one = tv.resized_crop(image.float() / 255, top, left, height, width, list(view.size), antialias=True)
        for column in (view.jitter.chosen == i).nonzero()[:, 0].tolist():
            for change in view.jitter.order[:, column].tolist():
                one = JITTER[change](one, float(view.jitter.factors[change, column]))
        if i in view.grey.tolist():
            one = tv.rgb_to_grayscale(one, num_output_channels=one.shape[0])
        for sigma in view.sigma[view.blur == i].tolist():
            one = tv.gaussian_blur(one, [blur_taps(view.size[1]), blur_taps(view.size[0])], [sigma, sigma])
        seen.append(tv.horizontal_flip(one) if view.flip[i] else one)
    return torch.stack(seen)


@pytest.mark.parametrize(
    ("shape", "augmentation"),
    [
        ((48, 3, 32, 32), MOCO),
        ((48, 1, 8, 8), MOCO),
        ((48, 3, 18, 40), replace(MOCO, size=20)),
        ((48, 3, 32, 32), SIMCLR_SMALL),
        ((16, 3, 96, 96), SIMCLR),
    ],
)
def test_views_are_torchvisions(shape: tuple[int, ...], augmentation: ContrastiveAugmentation) -> None:
    images = random_images(*shape)
    view = augmentation.draw(shape[0], shape[2], shape[3], torch.Generator().manual_seed(0))
    seen = view.apply(images)
    assert seen.dtype == torch.float32 and seen.min() >= 0 and seen.max() <= 1
    torch.testing.assert_close(seen, one_by_one(images, view), rtol=0, atol=2e-5)


def test_float_images_are_uint8_ones_and_stay_as_they_are() -> None:
    images = random_images(16, 3, 12, 12)
    floats = images.float() / 255
    before = floats.clone()
    view = MOCO.draw(16, 12, 12, torch.Generator().manual_seed(0))
    assert torch.equal(view.apply(images), view.apply(floats))
    assert torch.equal(floats, before) and torch.equal(images, random_images(16, 3, 12, 12))


def test_white_is_never_whiter_than_white() -> None:
    view = ContrastiveAugmentation(jitter_share=0, grey=0, size=21).draw(64, 33, 33, torch.Generator().manual_seed(0))
    assert view.apply(torch.full((64, 3, 33, 33), 255, dtype=torch.uint8)).max() == 1


def test_each_part_takes_its_share_of_the_images() -> None:
    n = 20_000
    shares = ContrastiveAugmentation(flip=0.3, jitter_share=0.7, grey=0.1, blur=0.6)
    view = shares.draw(n, 32, 32, torch.Generator().manual_seed(0))
    counts = (int(view.flip.sum()), len(view.jitter.chosen), len(view.grey), len(view.blur))
    for count, share in zip(counts, (0.3, 0.7, 0.1, 0.6), strict=True):
        assert abs(count - share * n) < 3.3 * (n * share * (1 - share)) ** 0.5
    both = torch.isin(view.grey, view.blur).sum()  # the parts are drawn apart
    assert abs(int(both) - 0.06 * n) < 3.3 * (n * 0.06 * 0.94) ** 0.5
    assert abs(float(view.sigma.mean()) - 1.05) < 0.02 and view.sigma.min() >= 0.1 and view.sigma.max() <= 2


def test_shares_of_nothing_and_of_all() -> None:
    images = random_images(9, 3, 8, 8)
    none = ContrastiveAugmentation(scale=(1, 1), ratio=(1, 1), flip=0, jitter_share=0, grey=0, blur=0)
    same = none.draw(9, 8, 8, torch.Generator()).apply(images)
    torch.testing.assert_close(same, images / 255, rtol=0, atol=1e-6)
    grey = replace(none, grey=1.0, flip=1.0).draw(9, 8, 8, torch.Generator()).apply(images)
    torch.testing.assert_close(grey, tv.rgb_to_grayscale(images / 255, 3).flip(-1), rtol=0, atol=1e-6)


def test_the_generator_alone_decides() -> None:
    images = random_images(20, 3, 8, 8)
    first, again, other = (MOCO.draw(20, 8, 8, torch.Generator().manual_seed(seed)).apply(images) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_nothing_is_read_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: nullcontext())  # which "meta" has not
    for name in AUGMENTATIONS:
        channels = 1 if name == "digits" else 3
        augmentation = make_augmentation(name, padding=2, flip=True, channels=channels)
        view = augmentation.draw(20, 8, 8, torch.Generator().manual_seed(0))
        images = torch.zeros(20, channels, 8, 8, dtype=torch.uint8, device="meta")  # holds no value to be read
        assert view.apply(images).shape == images.shape


def test_autocast_changes_nothing() -> None:
    images = random_images(20, 3, 8, 8)
    for name in AUGMENTATIONS:
        augmentation = make_augmentation(name, padding=2, flip=True, channels=3)
        view = augmentation.draw(20, 8, 8, torch.Generator().manual_seed(0))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = view.apply(images)
        assert torch.equal(under, view.apply(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_on_the_gpu_are_those_on_the_cpu() -> None:
    images = random_images(40, 3, 32, 32)
    for name in AUGMENTATIONS:
        augmentation = make_augmentation(name, padding=2, flip=True, channels=3)
        view = augmentation.draw(40, 32, 32, torch.Generator().manual_seed(0))
        torch.testing.assert_close(view.apply(images.cuda()).cpu(), view.apply(images), rtol=0, atol=1e-4)


def test_names_make_the_published_augmentations() -> None:
    made = [make_augmentation(name, padding=4, flip=True, channels=3) for name in AUGMENTATIONS]
    assert made == [PadCropFlip(4, True), MOCO, SIMCLR, SIMCLR_SMALL, Digits()]
    assert (MOCO.scale, MOCO.jitter, MOCO.jitter_share, MOCO.grey, MOCO.blur) == (
        (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5,
    )  # fmt: skip
    assert (SIMCLR.scale, SIMCLR.jitter, SIMCLR.blur) == ((0.08, 1.0), (0.8, 0.8, 0.8, 0.2), 0.5)
    assert (SIMCLR_SMALL.scale, SIMCLR_SMALL.jitter, SIMCLR_SMALL.blur) == ((0.08, 1.0), (0.4, 0.4, 0.4, 0.1), 0)


def test_data_without_flip_are_never_mirrored() -> None:
    for name in AUGMENTATIONS:
        unmirrored = make_augmentation(name, padding=4, flip=False, channels=1)
        assert not unmirrored.draw(1000, 8, 8, torch.Generator().manual_seed(0)).flip.any()


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(RelgraphError, match="unknown augmentation 'simclr-smal': did you mean 'simclr-small'"):
        make_augmentation("simclr-smal", padding=4, flip=True, channels=3)
    with pytest.raises(RelgraphError, match="augmentation 'moco' needs images with 1 or 3 channels, got 4"):
        make_augmentation("moco", padding=4, flip=True, channels=4)
    view = MOCO.draw(3, 8, 8, torch.Generator())
    with pytest.raises(RelgraphError, match="a view of 3 images was applied to 4 images"):
        view.apply(random_images(4, 3, 8, 8))
    with pytest.raises(RelgraphError, match="a contrastive view needs images with 1 or 3 channels, got 2"):
        view.apply(random_images(3, 2, 8, 8))


NEVER = replace(MOCO, jitter_share=0.0, grey=0.0, blur=0.0)
ALWAYS = replace(MOCO, jitter_share=1.0, grey=1.0, blur=1.0, flip=1.0)
KINDS: list[Augmentation] = [
    PadCropFlip(2, True),
    MOCO,
    SIMCLR,
    SIMCLR_SMALL,
    replace(MOCO, size=7),
    NEVER,
    ALWAYS,
    Digits(),
]
SPANS = [slice(0, 12), slice(0, 6), slice(6, 12), slice(3, 7), slice(0, 1), slice(11, 12), slice(5), slice(5, None)]


@pytest.mark.parametrize("shape", [(12, 3, 16, 16), (12, 1, 9, 13)])
def test_a_part_sees_its_rows_of_the_whole(shape: tuple[int, ...]) -> None:
    for augmentation in KINDS:
        for images in (random_images(*shape), torch.rand(shape)):
            drawn = augmentation.draw(12, shape[2], shape[3], torch.Generator().manual_seed(0))
            whole = drawn.apply(images.clone())
            for rows in SPANS:
                part = drawn.part(rows)
                assert type(part) is type(drawn) and torch.equal(part.flip, drawn.flip[rows])
                assert torch.equal(part.apply(images[rows].clone()), whole[rows])


def test_parts_together_are_the_whole() -> None:
    images = random_images(12, 3, 15, 15)
    drawn = MOCO.draw(12, 15, 15, torch.Generator().manual_seed(3))
    for count in (2, 3, 12):
        parts = [drawn.part(rows) for rows in (ProcessGroup(rank, count).rows(12) for rank in range(count))]
        seen = [part.apply(some) for part, some in zip(parts, images.chunk(count), strict=True)]
        assert torch.equal(torch.cat(seen), drawn.apply(images))
        for name in ("grey", "blur"):
            assert sum(len(getattr(part, name)) for part in parts) == len(getattr(drawn, name)) > 0
        assert sum(len(part.jitter.chosen) for part in parts) == len(drawn.jitter.chosen) > 0


def test_a_part_of_a_part() -> None:
    drawn, images = MOCO.draw(12, 8, 8, torch.Generator().manual_seed(0)), random_images(12, 3, 8, 8)
    part = drawn.part(slice(2, 10)).part(slice(3, 6))
    assert torch.equal(part.apply(images[5:8]), drawn.apply(images)[5:8])


def test_a_part_has_rows_that_follow_each_other() -> None:
    for rows in (slice(0, 12, 2), slice(-3, None), slice(0, -1)):
        with pytest.raises(
            RelgraphError, match=r"a part of a batch is a slice from its start to its stop, got slice\("
        ):
            MOCO.draw(12, 8, 8, torch.Generator()).part(rows)
