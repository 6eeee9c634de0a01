"""The views on which the embedded teacher of digits was trained: warped, bent, dimmed, noisy, in part erased."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from relgraph.data.views import DrawnViews, unit
from relgraph.errors import RelgraphError


@dataclass(frozen=True)
class Digits:
    """Views of grey digits, never mirrored; each image has its own draws, uniform unless stated otherwise.

    Rotated by up to 15 degrees, sheared by up to a quarter, scaled along each axis by 0.8 to 1.2 and shifted by up to a
    tenth of the side; bent by a smooth random field; taken to a power between exp(-1/2) and exp(1/2); multiplied by 0.7
    to 1.2; with Gaussian noise of a deviation up to 0.1; and half of them with a black square of 0.2 to 0.45 of the
    width. Noise and gain may leave 0..1.

    >>> view = Digits().draw(2, 8, 8, torch.Generator().manual_seed(0))
    >>> view.apply(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).dtype
    torch.float32
    """

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> "DigitsView":
        """Draw one view for each of `n` images of `height` x `width` pixels."""

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, generator=generator)

        angle, shear = uniform(-15, 15).deg2rad(), uniform(-0.25, 0.25)
        across, down = uniform(0.8, 1.2), uniform(0.8, 1.2)
        cos, sin = angle.cos(), angle.sin()
        rows = (
            torch.stack((cos * across, shear * cos - sin * down, uniform(-0.2, 0.2)), dim=1),
            torch.stack((sin * across, shear * sin + cos * down, uniform(-0.2, 0.2)), dim=1),
        )
        # Of all that was tried for the embedded teacher, bending helped most (see assets/README.md).
        bend = 0.08 * torch.randn(n, 2, 4, 4, generator=generator)
        power, gain = uniform(-0.5, 0.5).exp(), uniform(0.7, 1.2)
        noise = uniform(0, 0.1)[:, None, None, None] * torch.randn(n, 1, height, width, generator=generator)
        side, erased = uniform(0.2, 0.45) * width, torch.rand(n, generator=generator) < 0.5
        square = torch.stack((uniform(0, height), uniform(0, width), side), dim=1)
        flip = torch.zeros(n, dtype=torch.bool)
        return DigitsView(flip, torch.stack(rows, dim=1), bend, power, gain, noise, square, erased)


@dataclass(frozen=True, eq=False)
class DigitsView(DrawnViews):
    """The draws of `Digits` for B images, which are the first axis here: everything lies on the CPU.

    Attributes:
        flip: All False, `(B,)`.
        affine: The matrices of `affine_grid`, `(B, 2, 3)`.
        bend: Shifts at 4 x 4 points, in halves of the side, `(B, 2, 4, 4)`.
        power: Exponents, `(B,)`.
        gain: Factors, `(B,)`.
        noise: What is added to every channel, `(B, 1, H, W)`.
        square: Centre (y, x) and side of the square in pixels, `(B, 3)`.
        erased: Whether it is made black, `(B,)`.
    """

    flip: Tensor
    affine: Tensor
    bend: Tensor
    power: Tensor
    gain: Tensor
    noise: Tensor
    square: Tensor
    erased: Tensor

    def part(self, rows: slice) -> "DigitsView":
        """Return the draws of these images alone."""
        return DigitsView(*(getattr(self, item.name)[rows] for item in fields(self)))

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of uint8 or float (0..1) `images` `(B, C, H, W)`, float32 and of the same shape.

        Raises:
            RelgraphError: if the number of images is not the number of draws.
        """
        if len(images) != len(self.flip):
            raise RelgraphError(f"a view of {len(self.flip)} images was applied to {len(images)} images")
        drawn = (self.affine, self.bend, self.power, self.gain, self.noise)
        affine, bend, power, gain, noise = (draw.to(images.device, non_blocking=True) for draw in drawn)
        with torch.autocast(images.device.type, enabled=False):  # positions in half precision are a pixel off
            grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        field = functional.interpolate(bend, size=images.shape[2:], mode="bicubic", align_corners=True)
        views = functional.grid_sample(
            unit(images), grid + field.permute(0, 2, 3, 1), mode="bicubic", align_corners=False
        ).clamp_(0, 1)
        views = views.pow_(power[:, None, None, None]).mul_(gain[:, None, None, None]).add_(noise)
        return views.masked_fill_(self._erased_pixels(images), 0)

    def _erased_pixels(self, images: Tensor) -> Tensor:
        """Return the pixels of the squares, `(B, 1, H, W)`."""
        erased: Tensor
        y, x, side = self.square.to(images.device, non_blocking=True).T[:, :, None]
        rows, columns = (torch.arange(size, device=images.device) + 0.5 for size in images.shape[2:])
        erased = ((rows - y).abs() < side / 2)[:, :, None] & ((columns - x).abs() < side / 2)[:, None, :]
        erased &= self.erased.to(images.device, non_blocking=True)[:, None, None]
        return erased[:, None]
