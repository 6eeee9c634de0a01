"""Random views of images, and images prepared as the input of a network: batched tensor work on the images' device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from relgraph.errors import RelgraphError

LUMINANCE = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R 601, as PIL turns colour into grey


@dataclass(frozen=True, eq=False)
class View:
    """One random crop and flip per image: three tensors of shape `(B,)`.

    Pixel `(y, x)` of the crop is pixel `(y + dy, x + dx)` of the image, black where that lies outside; then the images
    with `flip` are mirrored left to right.
    """

    dx: Tensor
    dy: Tensor
    flip: Tensor

    def part(self, rows: slice) -> "View":
        """Return the draws of these images alone.

        >>> draw_view(4, 1, True, torch.Generator()).part(slice(1, 3)).flip.shape
        torch.Size([2])
        """
        return View(self.dx[rows], self.dy[rows], self.flip[rows])

    def apply(self, images: Tensor) -> Tensor:
        """Return the view of `images` `(B, C, H, W)`, same shape and type, on the images' device.

        Raises:
            RelgraphError: if the number of images is not the number of draws.
        """
        if len(images) != len(self.dx):
            raise RelgraphError(f"a view of {len(self.dx)} images was applied to {len(images)} images")
        height, width = images.shape[-2:]
        dx, dy, flip = (draw.to(images.device, non_blocking=True)[:, None] for draw in (self.dx, self.dy, self.flip))
        x = torch.arange(width, device=images.device)
        rows = torch.arange(height, device=images.device) + dy
        columns = torch.where(flip, width - 1 - x, x) + dx
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
        pixel = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        moved = images.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1))
        return moved.view(images.shape) * inside[:, None]


def positions_of(chosen: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Return which of the positions `chosen` `(M,)` lie in `rows`, `(M,)`, and those, counted from their start.

    Raises:
        RelgraphError: if the rows do not follow each other, or are counted from the end.

    >>> positions_of(torch.tensor([0, 2, 3]), slice(2, 4))
    (tensor([False,  True,  True]), tensor([0, 1]))
    """
    start, stop = rows.start or 0, rows.stop
    if rows.step not in (None, 1) or start < 0 or (stop is not None and stop < 0):
        raise RelgraphError(f"a part of a batch is a slice from its start to its stop, got {rows}")
    inside = chosen >= start
    if stop is not None:
        inside &= chosen < stop
    return inside, chosen[inside] - start


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)


def draw_view(n: int, padding: int, flip: bool, generator: torch.Generator) -> View:
    """Draw a view for each of `n` images: a crop after `padding` black pixels on every side, mirrored if `flip`.

    Every image has its own draw, uniform over the `(2 padding + 1)^2` crops; with `flip` it is mirrored with
    probability 1/2. The generator lives on the CPU, so that the views are the same on every device.

    >>> view = draw_view(2, padding=0, flip=False, generator=torch.Generator())
    >>> images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    >>> torch.equal(view.apply(images), images)
    True
    """
    dx = torch.randint(-padding, padding + 1, (n,), generator=generator)
    dy = torch.randint(-padding, padding + 1, (n,), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    return View(dx, dy, mirrored)


def prepare(images: Tensor, size: int | None, channels: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `images` `(B, C, H, W)` as the input of a network: float32 `(B, channels, size, size)`, normalised.

    Images are uint8, which is divided by 255, or float in 0..1, as augmentations return them. The result is
    `(pixel - mean) / std` per channel. Images of another size are resized (bicubic, antialiased, clamped to `[0, 1]`);
    `size` None keeps theirs. Grey is repeated to colour, colour becomes its luminance.

    Raises:
        RelgraphError: if the channels are neither 1 nor 3, or mean and std are not one number per channel.

    >>> prepare(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), 4, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).shape
    torch.Size([1, 3, 4, 4])
    """
    if not len(mean) == len(std) == channels:
        raise RelgraphError(
            f"mean and std must hold one number for each of {channels} channels, got {len(mean)} and {len(std)}"
        )
    pixels = unit(images)
    if size is not None and pixels.shape[-2:] != (size, size):
        pixels = functional.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    pixels = _with_channels(pixels, channels)
    return (pixels - _per_channel(mean, pixels)) / _per_channel(std, pixels)


def unit(images: Tensor) -> Tensor:
    """Return images as float32 in 0..1: uint8 is divided by 255, float is 0..1 already.

    >>> unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    found = pixels.shape[1]
    if found == channels:
        return pixels
    if (found, channels) == (1, 3):
        return pixels.expand(-1, 3, -1, -1)
    if (found, channels) == (3, 1):
        return (pixels * _per_channel(LUMINANCE, pixels)).sum(1, keepdim=True)
    raise RelgraphError(f"images with {found} channels cannot become images with {channels}: expected 1 or 3")


def _per_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    # non_blocking: a plain copy to a GPU would wait for all the work queued there.
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)[:, None, None]
