"""Extra views of each image, in addition to its base view: rotations, transformations, small patches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from relgraph.data.augment import MOCO, Augmentation, ContrastiveAugmentation
from relgraph.data.transforms import check_channels, cut, draw_boxes, draw_jitter, to_grey
from relgraph.data.views import Drawn, PadCropFlip, View, unit
from relgraph.errors import RelgraphError, unknown

KINDS = ("rotations", "transformations", "patches")
PATCH_SCALE = (0.05, 0.14)  # share of the area: SwAV's small crops; SEED's own could not be verified


@dataclass(frozen=True, eq=False)
class Joined(Drawn):
    """V views of each of B images: `apply` returns `(V * B, C, h, w)`, whose row `v * B + i` is view v of image i."""

    views: tuple[Drawn, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of uint8 or float (0..1) `images` `(B, C, H, W)`."""
        return torch.cat([view.apply(images) for view in self.views])


@dataclass(frozen=True, eq=False)
class Chain(Drawn):
    """A view of a view: each step is applied to what the step before it returned."""

    steps: tuple[Drawn, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of uint8 or float (0..1) `images` `(B, C, H, W)`."""
        for step in self.steps:
            images = step.apply(images)
        return images


@dataclass(frozen=True, eq=False)
class Changed(Drawn):
    """A change of images, `change(images, *arguments)`, by what was drawn for it, if anything is random."""

    change: Callable[..., Tensor]
    arguments: tuple[Any, ...] = ()

    def apply(self, images: Tensor) -> Tensor:
        """Return the changed `images`."""
        return self.change(images, *self.arguments)


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Return images `(B, C, H, H)` turned counter-clockwise, each by its own number of quarters, `turns` `(B,)`."""
    turned = images.clone()
    for number in (1, 2, 3):
        at = (turns == number).nonzero()[:, 0].to(images.device, non_blocking=True)
        turned.index_copy_(0, at, images.index_select(0, at).rot90(number, (2, 3)))
    return turned


def _resized_box(images: Tensor, box: Tensor) -> Tensor:
    return cut(images, box, None, (images.shape[2], images.shape[3])).clamp_(0, 1)


def _to_grey(images: Tensor) -> Tensor:
    check_channels("a grey view", images.shape[1])
    return to_grey(images).expand_as(images)


@dataclass(frozen=True)
class _Turning:
    """Views of which some are turned, each of a padded crop of its own with the flip of the base view."""

    padding: int
    each: ClassVar[int]

    def _crops(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> list[View]:
        """Draw as many crops of each image as there are views."""
        if height != width:
            raise RelgraphError(f"views that are turned want square images, got {height} x {width}")
        if len(flip) != n:
            raise RelgraphError(f"the base view must have one flip for each of {n} images, got {len(flip)}")
        crop = PadCropFlip(self.padding, False)
        return [replace(crop.draw(n, height, width, generator), flip=flip) for _ in range(self.each)]


@dataclass(frozen=True)
class Rotations(_Turning):
    """Each image turned by 90, 180 and 270 degrees counter-clockwise, as SSKD's official code has it.

    A rotation has the flip of the base view and a crop of its own after `padding` black pixels on every side. Views
    keep the type of the images. Source: Xu et al. 2020 (arXiv 2006.07114).

    >>> views = Rotations(padding=0).draw(1, 2, 2, torch.tensor([False]), torch.Generator())
    >>> views.apply(torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8))[0, 0]
    tensor([[2, 4],
            [1, 3]], dtype=torch.uint8)
    """

    each: ClassVar[int] = 3

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> Joined:
        """Draw the crops.

        Raises:
            RelgraphError: if the images are not square, or there is not one flip for each.
        """
        # To turn a crop is to crop the turned image: the offsets are drawn alike in all four directions.
        crops = self._crops(n, height, width, flip, generator)
        quarters = (Changed(torch.rot90, (turns, (2, 3))) for turns in (1, 2, 3))
        return Joined(tuple(map(Chain, zip(crops, quarters, strict=True))))


@dataclass(frozen=True)
class Transformations(_Turning):
    """One each of the four transformations in SSKD's paper: rotation, colour dropping, distortion, crop and resize.

    In this order: turned by a random one of 90, 180 and 270 degrees; grey; colours jittered by the strengths (0.4, 0.4,
    0.4, 0.1) of brightness, contrast, saturation and hue; a random crop of 0.2 to 1 of the area, resized. Each starts
    from a padded crop of its own with the flip of the base view. Paper: Xu et al. 2020 (arXiv 2006.07114), which names
    the four and no strengths (those here are MoCo v2's); the official code has rotations only.

    >>> views = Transformations(padding=4).draw(2, 32, 32, torch.tensor([False, True]), torch.Generator())
    >>> views.apply(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([8, 3, 32, 32])
    """

    each: ClassVar[int] = 4

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> Joined:
        """Draw the four views; applied to images with neither 1 nor 3 channels, they raise RelgraphError.

        Raises:
            RelgraphError: if the images are not square, or there is not one flip for each.
        """
        crops = self._crops(n, height, width, flip, generator)
        steps: tuple[Drawn, ...] = (
            Changed(turn, (torch.randint(1, 4, (n,), generator=generator),)),
            Changed(_to_grey),
            draw_jitter(torch.ones(n, dtype=torch.bool), MOCO.jitter, generator),
            Changed(_resized_box, (draw_boxes(n, height, width, MOCO.scale, MOCO.ratio, generator),)),
        )
        return Joined(tuple(Chain((crop, Changed(unit), step)) for crop, step in zip(crops, steps, strict=True)))


@dataclass(frozen=True)
class Patches:
    """Small random crops of each image: the views of `augmentation` with 0.05 to 0.14 of the area, `size` pixels wide.

    Each patch has flip and colours of its own. Source: Fang et al. 2021 (SEED, arXiv 2101.04731), whose official code
    adds six patches of 96 pixels to the view of 224; the shares are SwAV's (Caron et al. 2020, arXiv 2006.09882).

    >>> patches = Patches(ContrastiveAugmentation(), each=6, size=patch_size(32))
    >>> views = patches.draw(2, 32, 32, torch.zeros(2), torch.Generator())
    >>> views.apply(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([12, 3, 14, 14])
    """

    augmentation: ContrastiveAugmentation
    each: int
    size: int

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> Joined:
        """Draw the patches; the flip of the base view plays no part."""
        small = replace(self.augmentation, scale=PATCH_SCALE, size=self.size)
        return Joined(tuple(small.draw(n, height, width, generator) for _ in range(self.each)))


ExtraViews = Rotations | Transformations | Patches


def patch_size(side: int) -> int:
    """Return the side of a patch of an image, in pixels: 96 for 224, as published, and so in proportion.

    >>> patch_size(32)
    14
    """
    return max(1, round(side * 96 / 224))


def make_extra_views(
    kind: str, each: int, *, padding: int, flip: bool, augmentation: Augmentation, side: int
) -> ExtraViews:
    """Return the extra views of a kind, as `methods.base.Views` names them.

    Args:
        kind: "rotations", "transformations" or "patches".
        each: Number of extra views of each image.
        padding: Black pixels on every side before the crops of rotations and transformations.
        flip: Whether a patch may be mirrored; rotations and transformations have the flip of the base view.
        augmentation: That of the base view; patches have its colours.
        side: Of the images in pixels.

    Raises:
        RelgraphError: if the kind is unknown, does not come in so many, or does not fit the augmentation.

    >>> make_extra_views("rotations", 3, padding=4, flip=True, augmentation=ContrastiveAugmentation(), side=32)
    Rotations(padding=4)
    """
    if kind not in KINDS:
        raise unknown("kind of extra views", kind, KINDS)
    if kind != "patches":
        views = Rotations(padding) if kind == "rotations" else Transformations(padding)
        if each != views.each:
            raise RelgraphError(f"there are {views.each} {kind} of an image, got {each}")
        return views
    if each < 1:
        raise RelgraphError(f"the number of patches must be at least 1, got {each}")
    if not isinstance(augmentation, ContrastiveAugmentation):
        told = "patches are small views of a contrastive augmentation (moco, simclr or simclr-small), got "
        raise RelgraphError(told + type(augmentation).__name__)
    return Patches(augmentation if flip else replace(augmentation, flip=0.0), each, patch_size(side))
