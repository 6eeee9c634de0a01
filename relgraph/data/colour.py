"""Changes of colour, each image by its own factor: batched, on the images' device, with torchvision's definitions.

Images are float `(B, C, H, W)` in 0..1 with one channel or three. Every function of a factor `(B,)` returns new images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from relgraph.data.views import Drawn, unit
from relgraph.errors import RelgraphError

# What torchvision turns colour into grey with; `views.LUMINANCE`, which is PIL's, has one digit more.
LUMINANCE = (0.2989, 0.587, 0.114)


def check_channels(what: str, channels: int) -> None:
    """Raise RelgraphError unless images have one channel or three, which `what` needs."""
    if channels not in (1, 3):
        raise RelgraphError(f"{what} needs images with 1 or 3 channels, got {channels}")


def to_grey(images: Tensor) -> Tensor:
    """Return the grey of colour images, `(B, 1, H, W)`; images of one channel as they are.

    >>> to_grey(torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1)).item()
    0.3559
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.chunk(3, dim=1)
    grey = red * LUMINANCE[0]
    return grey.add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return `factor * image`, clamped to 0..1.

    >>> brightness(torch.tensor([0.2, 0.8]).view(2, 1, 1, 1), torch.tensor([0.5, 1.5])).flatten()
    tensor([0.1000, 1.0000])
    """
    return (images * _per_image(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return `factor * image + (1 - factor) * m`, clamped to 0..1; m is the mean of the image's grey.

    >>> contrast(torch.tensor([0.2, 0.8]).view(1, 1, 1, 2), torch.tensor([0.5])).flatten()
    tensor([0.3500, 0.6500])
    """
    return _blend(to_grey(images.mean((2, 3), keepdim=True)), images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return `factor * image + (1 - factor) * grey`, clamped to 0..1; images of one channel as they are.

    >>> saturation(torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1), torch.tensor([0.5])).flatten()
    tensor([0.6780, 0.1780, 0.4280])
    """
    return images if images.shape[1] == 1 else _blend(to_grey(images), images, factor)


def hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor`, in full circles (-1/2 to 1/2); lightest and darkest channel keep their values.

    >>> hue(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten()  # red to green
    tensor([0., 1., 0.])
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.chunk(3, dim=1)
    # Several times as fast on a CPU as torch.aminmax over so short an axis.
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    spread = high - low
    # A sixth of the circle is 1: red stands at 0, green at 2, blue at 4. What has no spread has no hue, and needs none.
    extra = torch.where(high == green, blue - red + 2 * spread, red - green + 4 * spread)
    angle = torch.where(high == red, green - blue, extra).div_(spread.masked_fill(spread == 0, 1))
    angle = angle.add_(6 * _per_image(factor)).remainder_(6)
    shares = ((angle - 3).abs_().sub_(1), 2 - (angle - 2).abs_(), 2 - (angle - 4).abs_())
    return torch.cat(shares, dim=1).clamp_(0, 1).mul_(spread).add_(low)


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(start, end, _per_image(factor)).clamp_(0, 1)


def _per_image(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]


CHANGES = (brightness, contrast, saturation, hue)


@dataclass(frozen=True, eq=False)
class Jitter(Drawn):
    """A colour jitter for the chosen ones of B images, on the CPU: the four `CHANGES` in an order of its own.

    Attributes:
        chosen: Which images are changed, `(B,)`.
        factors: Of brightness, contrast, saturation and hue, `(4, B)`; what is not chosen has zeros.
        order: `order[s, i]` is the change that image i undergoes as number s, `(4, B)`.
    """

    chosen: Tensor
    factors: Tensor
    order: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Return changed uint8 or float images `(B, C, H, W)`, float32 in 0..1."""
        return self.apply_(unit(images).clone())

    def apply_(self, images: Tensor) -> Tensor:
        """Change float `images` `(B, C, H, W)` in place and return them."""
        # Sorted on the CPU by their change, so that each change has its images and no device is waited for.
        change, column = self.order[:, self.chosen].sort(dim=1)
        counts = [row.bincount(minlength=len(CHANGES)).tolist() for row in change]
        column = self.chosen.nonzero()[:, 0][column]
        positions = column.to(images.device, non_blocking=True)
        factors = self.factors[change, column].to(images.device, non_blocking=True)
        for where, factor, count in zip(positions, factors, counts, strict=True):
            for apply, at, by in zip(CHANGES, where.split(count), factor.split(count), strict=True):
                if len(at):
                    images.index_copy_(0, at, apply(images.index_select(0, at), by))
        return images


def draw_jitter(chosen: Tensor, strength: tuple[float, float, float, float], generator: torch.Generator) -> Jitter:
    """Draw a jitter for the images that are `chosen` `(B,)`, as torchvision's ColorJitter does.

    Factors are uniform in `1 +- strength` (at least 0), that of the hue in `+- strength`; each image has an order of
    the four changes of its own.

    >>> draw_jitter(torch.tensor([True, False]), (0.4, 0.4, 0.4, 0.1), torch.Generator()).factors.shape
    torch.Size([4, 2])
    """
    bounds = [(max(0.0, 1 - s), 1 + s) for s in strength[:3]] + [(-strength[3], strength[3])]
    low, high = (torch.tensor(side)[:, None] for side in zip(*bounds, strict=True))
    count, factors = int(chosen.sum()), torch.zeros(4, len(chosen))
    factors[:, chosen] = low + (high - low) * torch.rand(4, count, generator=generator)
    order = torch.zeros(4, len(chosen), dtype=torch.int64)
    order[:, chosen] = torch.rand(4, count, generator=generator).argsort(dim=0)
    return Jitter(chosen, factors, order)
