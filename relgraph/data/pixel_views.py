"""Random views of images and of the labels of their pixels, from one draw: scale, crop and flip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from relgraph.data.label_maps import IGNORED
from relgraph.data.transforms import resample
from relgraph.data.views import DrawnViews, unit
from relgraph.errors import RelgraphError


@dataclass(frozen=True)
class PixelAugmentation:
    """The views of semantic segmentation: each image scaled, cropped at a random place and mirrored by half.

    The factor is uniform in `scale`, and the place uniform among those where the crop lies within the scaled image, or
    covers it: what is outside of the image is black, and 255 in labels. Every image has its own draw, which `apply`
    reads for images (bilinear, antialiased) and `apply_labels` for labels (nearest).

    Source: torchvision's references/segmentation (`SegmentationPresetTrain`): a scale of 0.5 to 2, a crop, flips.

    Args:
        scale: Bounds of the factor.
        crop: Height and width of the views; None takes those of the images.
        flip: Whether half of the images are mirrored left to right.

    >>> view = PixelAugmentation(scale=(1, 1), crop=(2, 4), flip=False).draw(1, 2, 2, torch.Generator().manual_seed(0))
    >>> view.apply_labels(torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8))
    tensor([[[  0,   1, 255, 255],
             [  2,   3, 255, 255]]], dtype=torch.uint8)
    """

    scale: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] | None = None
    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> "PixelView":
        """Draw one view for each of `n` images of `height` x `width` pixels; the generator lives on the CPU."""
        low, high = self.scale
        scale, down, right, mirrored = torch.rand(4, n, generator=generator)
        scale, size = low + (high - low) * scale, (height, width) if self.crop is None else self.crop
        # The room is negative where the crop is larger than the image; whole pixels, so that a scale of 1 is exact.
        top, left = (
            (place * (scale * side - out)).round()
            for place, side, out in ((down, height, size[0]), (right, width, size[1]))
        )
        return PixelView(scale, top, left, (mirrored < 0.5) & self.flip, size)


@dataclass(frozen=True, eq=False)
class PixelView(DrawnViews):
    """The draws of `PixelAugmentation` for B images, on the CPU.

    Pixel `(i, j)` of a view shows the point `((i + 1/2 + top) / scale, (j + 1/2 + left) / scale)` of the image, whose
    pixel `(y, x)` is the square from there to `(y + 1, x + 1)`; then those with `flip` are mirrored left to right.

    Attributes:
        scale: Factors, `(B,)`.
        top: First row of the crop in pixels of the scaled image, `(B,)`.
        left: Its first column, `(B,)`.
        flip: Which images are mirrored, `(B,)`.
        size: Height and width of the views.
    """

    scale: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor
    size: tuple[int, int]

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of uint8 or float (0..1) `images` `(B, C, H, W)`, float32 `(B, C, *size)`.

        Raises:
            RelgraphError: if the number of images is not the number of draws.
        """
        rows, columns = self._points(images)
        step = (1 / self.scale).to(images.device, non_blocking=True)
        down, across = (_weights(points, step, side) for points, side in
                        zip((rows, columns), images.shape[2:], strict=True))  # fmt: skip
        return resample(unit(images), down, across)

    def apply_labels(self, maps: Tensor) -> Tensor:
        """Return the views of label maps `(B, H, W)` uint8, `(B, *size)` uint8: of each point the pixel that it is in.

        Raises:
            RelgraphError: if the number of maps is not the number of draws.
        """
        height, width = maps.shape[1:]
        rows, columns = (points.floor().long() for points in self._points(maps))
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        image = torch.arange(len(maps), device=maps.device)[:, None, None]
        found = maps[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
        return torch.where(inside, found, IGNORED)

    def _points(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the rows `(B, h)` and the columns `(B, w)` of the views lie in the images, in their pixels."""
        if len(images) != len(self.scale):
            raise RelgraphError(f"a view of {len(self.scale)} images was applied to {len(images)} images")
        drawn = (self.scale, self.top, self.left, self.flip)
        scale, top, left, flip = (each.to(images.device, non_blocking=True)[:, None] for each in drawn)
        row, column = (torch.arange(side, device=images.device) for side in self.size)
        column = torch.where(flip, self.size[1] - 1 - column, column)
        return (row + 0.5 + top) / scale, (column + 0.5 + left) / scale


def _weights(points: Tensor, step: Tensor, size: int) -> Tensor:
    """Return the matrices `(B, n, size)` that interpolate between pixels at the points `(B, n)`.

    A point c weighs pixel j by `max(0, 1 - |j + 1/2 - c| / s)`, where `s = max(1, step)` and `step` `(B,)` is how far
    neighbouring points lie apart; the weights of a point in the image sum to 1, those of another are 0.
    """
    pixel = torch.arange(size, device=points.device) + 0.5
    weight = (1 - (pixel - points[:, :, None]).abs() / step.clamp_min(1)[:, None, None]).clamp_min(0)
    inside = ((points >= 0) & (points < size))[:, :, None]
    return weight * inside / weight.sum(2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
