"""Random resized crops and Gaussian blur as two small matrices per image, one for its rows and one for its columns."""

import math

import torch
from torch import Tensor

TRIES = 10  # torchvision's: then the largest central crop that the ratios allow


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
