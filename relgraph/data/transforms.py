"""Transforms of batches, each image by its own numbers, on the images' device: colours, resized crops, Gaussian blur.

Changes of colour have torchvision's definitions, on float images `(B, C, H, W)` in 0..1 with one channel or three;
every function of a factor `(B,)` returns new images. Random resized crops and blur are two small matrices per image,
one for its rows and one for its columns.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from relgraph.data.views import Drawn, unit
from relgraph.errors import RelgraphError

TRIES = 10  # torchvision's: then the largest central crop that the ratios allow

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
    return (red * LUMINANCE[0]).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return `factor * image`, clamped to 0..1.

    >>> brightness(torch.tensor([0.2, 0.8]).view(2, 1, 1, 1), torch.tensor([0.5, 1.5])).flatten()
    tensor([0.1000, 1.0000])
    """
    return (images * factor[:, None, None, None]).clamp_(0, 1)


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
    angle = angle.add_(6 * factor[:, None, None, None]).remainder_(6)
    shares = ((angle - 3).abs_().sub_(1), 2 - (angle - 2).abs_(), 2 - (angle - 4).abs_())
    return torch.cat(shares, dim=1).clamp_(0, 1).mul_(spread).add_(low)


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(start, end, factor[:, None, None, None]).clamp_(0, 1)


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


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ image @ columns^T` for each channel of `images` `(B, C, H, W)`: float32 `(B, C, h, w)`.

    `rows` is `(B, h, H)` and `columns` `(B, w, W)`.

    >>> sums = torch.ones(1, 1, 2)
    >>> resample(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), sums, sums)
    tensor([[[[10.]]]])
    """
    height, width = rows.shape[1], columns.shape[1]
    images, rows, columns = _padded_to_fours(images), _padded_to_fours(rows), _padded_to_fours(columns)
    with torch.autocast(images.device.type, enabled=False):
        narrow = images.flatten(1, 2) @ columns.mT
        # Channel by channel: a product over B * C small matrices takes several times as long on a CPU.
        resampled = [(rows @ channel)[:, :height, :width] for channel in narrow.chunk(images.shape[1], dim=1)]
    return torch.stack(resampled, dim=1)


def _padded_to_fours(x: Tensor) -> Tensor:
    """Return matrices with zeros below and on the right, up to multiples of 4.

    A product on a CPU rounds by where its matrices begin in memory; each then begins at 16 bytes, so that an image's
    view is the same to the last bit wherever in a batch, or part of one, it stands.
    """
    down, right = -x.shape[-2] % 4, -x.shape[-1] % 4
    return torch.nn.functional.pad(x, (0, right, 0, down)) if down or right else x


def crop_matrix(start: Tensor, length: Tensor, size: int, out: int, mirror: Tensor | None = None) -> Tensor:
    """Return the matrices `(B, out, size)` that cut `length` pixels from `start` and resize them to `out`.

    Bilinear and antialiased: row i of an image weighs its pixel j by `max(0, 1 - |j + 1/2 - c_i| / s)`, where
    `c_i = start + (i + 1/2) length / out` and `s = max(1, length / out)`; only pixels of the cut count, and the weights
    of a row sum to 1. So the result is that of cropping first and resizing then. With `mirror` `(B,)` the rows of these
    images stand in reverse order.

    >>> crop_matrix(torch.tensor([1]), torch.tensor([2]), size=4, out=2)
    tensor([[[0., 1., 0., 0.],
             [0., 0., 1., 0.]]])
    """
    row = torch.arange(out, device=start.device)
    if mirror is not None:
        row = torch.where(mirror[:, None], out - 1 - row, row)
    step = (length / out)[:, None, None]
    inside = torch.arange(size, device=start.device) - start[:, None, None]
    centre = (row + 0.5).view(-1, out, 1) * step
    weight = (1 - (inside + 0.5 - centre).abs_() / step.clamp_min(1)).clamp_min_(0)
    weight *= (inside >= 0) & (inside < length[:, None, None])
    return weight / weight.sum(2, keepdim=True)


def cut(images: Tensor, box: Tensor, flip: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Return the boxes `(4, B)` of uint8 or float `images`, resized and those with `flip` `(B,)`, if any, mirrored.

    The result is float32 `(B, C, *size)`; a box is top, left, height and width, as `draw_boxes` draws them.

    >>> box = torch.tensor([[0], [1], [1], [2]])
    >>> cut(torch.tensor([[[[0.1, 0.2, 0.3]]]]), box, torch.tensor([True]), (1, 2))
    tensor([[[[0.3000, 0.2000]]]])
    """
    top, left, height, width = box.to(images.device, non_blocking=True)
    mirror = None if flip is None else flip.to(images.device, non_blocking=True)
    rows = crop_matrix(top, height, images.shape[2], size[0])
    columns = crop_matrix(left, width, images.shape[3], size[1], mirror)
    return resample(unit(images), rows, columns)


def blur_matrix(sigma: Tensor, size: int, taps: int) -> Tensor:
    """Return the matrices `(B, size, size)` of a Gaussian blur over an odd number of `taps` pixels.

    Pixel j at distance d weighs `exp(-d^2 / (2 sigma^2))`, normalised; beyond the border the image is reflected.

    >>> blur_matrix(torch.tensor([1.0]), size=3, taps=3)
    tensor([[[0.4519, 0.5481, 0.0000],
             [0.2741, 0.4519, 0.2741],
             [0.0000, 0.5481, 0.4519]]])
    """
    offset = torch.arange(taps, device=sigma.device) - taps // 2
    weight = torch.softmax(-0.5 * (offset / sigma[:, None]) ** 2, dim=1)
    pixel = torch.arange(size, device=sigma.device)
    reached = (pixel[:, None] + offset).abs()
    reached = torch.where(reached < size, reached, 2 * (size - 1) - reached)
    pattern = (reached.T[:, :, None] == pixel).float().flatten(1)
    with torch.autocast(sigma.device.type, enabled=False):
        return torch.mm(weight, pattern).view(-1, size, size)


def blur_taps(side: int) -> int:
    """Return the odd number nearest to a tenth of an image's side, at least 3, as SimCLR chooses its blur's width.

    A side of less than 3 pixels gives 1, which does not blur: an image cannot be reflected beyond its own width.

    >>> blur_taps(32), blur_taps(96), blur_taps(224)
    (3, 9, 23)
    """
    return 1 if side < 3 else max(3, 2 * round((side / 10 - 1) / 2) + 1)


def draw_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draw n boxes in an image, `(4, n)` whole numbers: top, left, height, width.

    As torchvision's RandomResizedCrop: a share of the area uniform in `scale` and a ratio of width to height
    log-uniform in `ratio`, rounded to pixels; the first of ten draws that fits into the image, else the largest central
    box that the ratios allow. Its place is uniform.

    >>> draw_boxes(1, 8, 8, (1.0, 1.0), (1.0, 1.0), torch.Generator()).flatten()
    tensor([0, 0, 8, 8])
    """
    area = _uniform(n, scale, generator) * height * width
    shape = _uniform(n, (math.log(ratio[0]), math.log(ratio[1])), generator).exp()
    tall, wide = (area / shape).sqrt().round().long(), (area * shape).sqrt().round().long()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first, found = fits.byte().argmax(dim=1, keepdim=True), fits.any(dim=1)
    sides = zip((tall, wide), _central(height, width, ratio), strict=True)
    size = torch.stack([torch.where(found, drawn.gather(1, first)[:, 0], instead) for drawn, instead in sides])
    rest = torch.tensor([[height], [width]]) - size
    place = torch.rand(2, n, generator=generator, dtype=torch.float64) * (rest + 1)
    return torch.cat((torch.where(found, place.long(), rest // 2), size))


def _central(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def _uniform(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return torch.rand(n, TRIES, generator=generator, dtype=torch.float64) * (bounds[1] - bounds[0]) + bounds[0]
