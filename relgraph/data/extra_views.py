"""Extra views of each image, in addition to its base view: rotations, transformations, small patches."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from relgraph.data.augment import MOCO, Augmentation, ContrastiveAugmentation, ContrastiveView, cut
from relgraph.data.colour import Jitter, draw_jitter, to_grey
from relgraph.data.resample import draw_boxes
from relgraph.data.views import View, draw_view, unit
from relgraph.errors import RelgraphError, unknown

KINDS = ("rotations", "transformations", "patches")
PATCH_SCALE = (0.05, 0.14)  # share of the area: SwAV's small crops; SEED's own could not be verified


class DrawnExtraViews(Protocol):
    """V extra views drawn for each of B images."""

    def part(self, rows: slice) -> Self:
        """Return the V views of these images alone.

        Raises:
            RelgraphError: if the rows do not follow each other, or are counted from the end.
        """
        ...

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of `images` `(B, C, H, W)`, `(V * B, C, h, w)`: row `v * B + i` is view v of image i."""
        ...


class ExtraViews(Protocol):
    """A way to draw extra views of images, in addition to their base view."""

    @property
    def each(self) -> int:
        """Number V of extra views of each image."""
        ...

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> DrawnExtraViews:
        """Draw views of `n` images of `height` x `width` pixels whose base view is mirrored where `flip` `(n,)`."""
        ...


@dataclass(frozen=True)
class Rotations:
    """Each image turned by 90, 180 and 270 degrees counter-clockwise, as SSKD's official code has it.

    A rotation has the flip of the base view and a crop of its own after `padding` black pixels on every side. Views
    keep the type of the images. Source: Xu et al. 2020 (arXiv 2006.07114).

    >>> views = Rotations(padding=0).draw(1, 2, 2, torch.tensor([False]), torch.Generator())
    >>> views.apply(torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8))[0, 0]
    tensor([[2, 4],
            [1, 3]], dtype=torch.uint8)
    """

    padding: int

    @property
    def each(self) -> int:
        """Three."""
        return 3

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> "RotationsView":
        """Draw the crops.

        Raises:
            RelgraphError: if the images are not square.
        """
        _check_square(height, width)
        return RotationsView(_crops(n, self.each, self.padding, flip, generator))


@dataclass(frozen=True, eq=False)
class RotationsView:
    """The draws of `Rotations`: one crop for each rotation of each image."""

    crops: View

    def part(self, rows: slice) -> "RotationsView":
        """Return the three views of these images alone."""
        return RotationsView(_part(self.crops, 3, rows))

    def apply(self, images: Tensor) -> Tensor:
        """Return the rotations of uint8 or float `images` `(B, C, H, H)`, `(3 B, C, H, H)`."""
        # To turn a crop is to crop the turned image: the offsets are drawn alike in all four directions.
        parts = self.crops.apply(images.repeat(3, 1, 1, 1)).chunk(3)
        return torch.cat([part.rot90(turns, (2, 3)) for turns, part in enumerate(parts, start=1)])


@dataclass(frozen=True)
class Transformations:
    """One each of the four transformations in SSKD's paper: rotation, colour dropping, distortion, crop and resize.

    In this order: turned by a random one of 90, 180 and 270 degrees; grey; colours jittered by the strengths (0.4, 0.4,
    0.4, 0.1) of brightness, contrast, saturation and hue; a random crop of 0.2 to 1 of the area, resized. Each starts
    from a padded crop of its own with the flip of the base view. Paper: Xu et al. 2020 (arXiv 2006.07114), which names
    the four and no strengths (those here are MoCo v2's); the official code has rotations only.

    >>> views = Transformations(padding=4).draw(2, 32, 32, torch.tensor([False, True]), torch.Generator())
    >>> views.apply(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([8, 3, 32, 32])
    """

    padding: int

    @property
    def each(self) -> int:
        """Four."""
        return 4

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> "TransformationsView":
        """Draw crops, angles, factors and boxes.

        Raises:
            RelgraphError: if the images are not square.
        """
        _check_square(height, width)
        crops = _crops(n, self.each, self.padding, flip, generator)
        turns = torch.randint(1, 4, (n,), generator=generator)
        jitter = draw_jitter(torch.arange(n), MOCO.jitter, generator)
        box = draw_boxes(n, height, width, MOCO.scale, MOCO.ratio, generator)
        return TransformationsView(crops, turns, jitter, box)


@dataclass(frozen=True, eq=False)
class TransformationsView:
    """The draws of `Transformations` for B images, on the CPU.

    Attributes:
        crops: The padded crop and the flip of each view, of `4 B`.
        turns: Quarters of a turn, counter-clockwise, `(B,)`.
        jitter: The colour distortion of all images.
        box: Top, left, height and width of the crops that are resized, `(4, B)`.
    """

    crops: View
    turns: Tensor
    jitter: Jitter
    box: Tensor

    def part(self, rows: slice) -> "TransformationsView":
        """Return the four views of these images alone.

        Raises:
            RelgraphError: if the rows do not follow each other, or are counted from the end.
        """
        crops, jitter = _part(self.crops, 4, rows), self.jitter.part(rows)
        return TransformationsView(crops, self.turns[rows], jitter, self.box[:, rows])

    def apply(self, images: Tensor) -> Tensor:
        """Return the four views of uint8 or float (0..1) `images` `(B, C, H, H)`: float32 `(4 B, C, H, H)` in 0..1.

        Raises:
            RelgraphError: if the images have neither 1 nor 3 channels.
        """
        if images.shape[1] not in (1, 3):
            raise RelgraphError(f"transformations need images with 1 or 3 channels, got {images.shape[1]}")
        views = unit(self.crops.apply(images.repeat(4, 1, 1, 1)))
        turned, grey, distorted, resized = views.chunk(4)
        self._turn_(turned)
        grey.copy_(to_grey(grey).expand_as(grey))
        self.jitter.apply_(distorted)
        none = torch.zeros_like(self.crops.flip[: len(images)])
        resized.copy_(cut(resized, self.box, none, (images.shape[2], images.shape[3])).clamp_(0, 1))
        return views

    def _turn_(self, images: Tensor) -> None:
        for turns in (1, 2, 3):
            at = (self.turns == turns).nonzero()[:, 0].to(images.device, non_blocking=True)
            images.index_copy_(0, at, images.index_select(0, at).rot90(turns, (2, 3)))


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

    def draw(self, n: int, height: int, width: int, flip: Tensor, generator: torch.Generator) -> "PatchesView":
        """Draw the patches; the flip of the base view plays no part."""
        small = replace(self.augmentation, scale=PATCH_SCALE, size=self.size)
        return PatchesView(tuple(small.draw(n, height, width, generator) for _ in range(self.each)))


@dataclass(frozen=True, eq=False)
class PatchesView:
    """The draws of `Patches`: V views of all images."""

    views: tuple[ContrastiveView, ...]

    def part(self, rows: slice) -> "PatchesView":
        """Return the V views of these images alone.

        Raises:
            RelgraphError: if the rows do not follow each other, or are counted from the end.
        """
        return PatchesView(tuple(view.part(rows) for view in self.views))

    def apply(self, images: Tensor) -> Tensor:
        """Return the patches of uint8 or float (0..1) `images` `(B, C, H, W)`: float32 `(V B, C, size, size)`."""
        pixels = unit(images)
        return torch.cat([view.apply(pixels) for view in self.views])


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
    if kind == "patches":
        return _make_patches(each, flip, augmentation, side)
    views = Rotations(padding) if kind == "rotations" else Transformations(padding)
    if each != views.each:
        raise RelgraphError(f"there are {views.each} {kind} of an image, got {each}")
    return views


def _make_patches(each: int, flip: bool, augmentation: Augmentation, side: int) -> Patches:
    if each < 1:
        raise RelgraphError(f"the number of patches must be at least 1, got {each}")
    if not isinstance(augmentation, ContrastiveAugmentation):
        raise RelgraphError(
            "patches are small views of a contrastive augmentation (moco, simclr or simclr-small), "
            f"got {type(augmentation).__name__}"
        )
    return Patches(augmentation if flip else replace(augmentation, flip=0.0), each, patch_size(side))


def _check_square(height: int, width: int) -> None:
    if height != width:
        raise RelgraphError(f"views that are turned want square images, got {height} x {width}")


def _crops(n: int, each: int, padding: int, flip: Tensor, generator: torch.Generator) -> View:
    if len(flip) != n:
        raise RelgraphError(f"the base view must have one flip for each of {n} images, got {len(flip)}")
    return replace(draw_view(each * n, padding, False, generator), flip=flip.repeat(each))


def _part(crops: View, each: int, rows: slice) -> View:
    """Return the crops of some images, `each` of an image; crop `v * B + i` is crop v of image i."""
    draws = (crops.dx, crops.dy, crops.flip)
    return View(*(draw.view(each, -1)[:, rows].flatten() for draw in draws))
