"""Random views of images, fixed ones that are stored, and a network's input: batched, on the images' device."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from relgraph.data.decoding import ImageSize, pair
from relgraph.errors import RelgraphError
from relgraph.seeding import generator

LUMINANCE = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R 601, as PIL turns colour into grey


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is random of the views of B images, drawn but not applied yet; the last axis of a tensor is the images'."""

    def part(self, rows: slice) -> Self:
        """Return the draws of these images alone: applied to them, they give the views that the whole gives them."""
        return replace(self, **{item.name: _part(getattr(self, item.name), rows) for item in fields(self)})

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of uint8 or float (0..1) `images` `(B, C, H, W)`, on their device."""
        raise NotImplementedError


class DrawnViews(Drawn):
    """One view drawn for each of B images; those with `flip` `(B,)` are mirrored left to right."""

    flip: Tensor


def _part(drawn: Any, rows: slice) -> Any:
    if isinstance(drawn, Drawn):
        return drawn.part(rows)
    if isinstance(drawn, tuple):
        return tuple(_part(each, rows) for each in drawn)
    return drawn[..., rows] if isinstance(drawn, Tensor) else drawn


@dataclass(frozen=True, eq=False)
class View(DrawnViews):
    """One random crop and flip per image: three tensors of shape `(B,)`.

    Pixel `(y, x)` of the crop is pixel `(y + dy, x + dx)` of the image, black where that lies outside; then the images
    with `flip` are mirrored left to right.

    >>> PadCropFlip(1, True).draw(4, 8, 8, torch.Generator()).part(slice(1, 3)).flip.shape
    torch.Size([2])
    """

    dx: Tensor
    dy: Tensor
    flip: Tensor

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
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        pixel = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        moved = images.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1))
        return moved.view(images.shape) * inside[:, None]


@dataclass(frozen=True)
class PadCropFlip:
    """A crop of the image's size after `padding` black pixels on every side, mirrored by half if `flip`.

    Every image has its own draw, uniform over the `(2 padding + 1)^2` crops; with `flip` it is mirrored with
    probability 1/2. Views keep the type of the images.

    >>> view = PadCropFlip(padding=0, flip=False).draw(2, 2, 2, torch.Generator())
    >>> images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    >>> torch.equal(view.apply(images), images)
    True
    """

    padding: int
    flip: bool

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> View:
        """Draw one view for each of `n` images; their size plays no part, and the generator lives on the CPU."""
        dx, dy = (torch.randint(-self.padding, self.padding + 1, (n,), generator=generator) for _ in range(2))
        mirrored = torch.rand(n, generator=generator) < 0.5 if self.flip else torch.zeros(n, dtype=torch.bool)
        return View(dx, dy, mirrored)


class FixedViews:
    """View 0 of an image is the image itself; view v >= 1 is one crop and flip, drawn by `(seed, v)`.

    A view of an image is the same whatever `count` is, and on every device: `n` images are drawn in their order by a
    generator on the CPU.

    Args:
        n: number of images.
        count: views of each, at least 1.
        padding: black pixels on every side before a crop.
        flip: whether half the crops are mirrored.
        seed: what the crops depend on.
    """

    def __init__(self, n: int, count: int, *, padding: int, flip: bool, seed: int) -> None:
        if n < 1 or count < 1:
            raise RelgraphError(f"fixed views need at least 1 image and 1 view, got {n} and {count}")
        # 16 bits, filled a view at a time: a million images with many views stay small beside their embeddings.
        self.dx, self.dy = torch.zeros(2, count, n, dtype=torch.int16)
        self.flip = torch.zeros(count, n, dtype=torch.bool)
        for v in range(1, count):
            drawn = PadCropFlip(padding, flip).draw(n, 0, 0, generator("stored views", seed, v))
            self.dx[v], self.dy[v], self.flip[v] = drawn.dx, drawn.dy, drawn.flip

    def to(self, device: torch.device | str) -> "FixedViews":
        """Move the draws to a device, where `take` then gathers them, and return this."""
        self.dx, self.dy, self.flip = self.dx.to(device), self.dy.to(device), self.flip.to(device)
        return self

    def take(self, view: Tensor, index: Tensor) -> View:
        """Return view `view` `(B,)` of the images `index` `(B,)`, both on the device of the draws.

        >>> views = FixedViews(5, 2, padding=1, flip=True, seed=0)
        >>> images = torch.arange(3 * 9, dtype=torch.uint8).view(3, 1, 3, 3)
        >>> view = views.take(torch.tensor([0, 0, 0]), torch.tensor([4, 2, 2]))
        >>> torch.equal(view.apply(images), images)
        True
        """
        return View(self.dx[view, index].long(), self.dy[view, index].long(), self.flip[view, index])


class Normalise:
    """Map from images `(B, C, H, W)` to the input of a network: float32 `(B, channels, height, width)`, normalised.

    Images are uint8, which is divided by 255, or float in 0..1, as augmentations return them. The result is
    `(pixel - mean) / std` per channel. Images of another size are resized (bicubic, antialiased, clamped to `[0, 1]`);
    `size` None keeps theirs. Grey is repeated to colour, colour becomes its luminance.

    Args:
        mean: What is subtracted, one number for each channel of the network's input.
        std: What the rest is divided by, likewise.
        channels: Of the input, 1 or 3; by default as many as there are numbers.
        size: Side of the input in pixels, or its height and width.
        device: Where the images usually lie; for others the numbers are copied with each batch.

    Raises:
        RelgraphError: if mean and std are not one number per channel; when it is called, if the images' channels cannot
            become those of the network.

    >>> Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), size=4)(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int | None = None,
        size: ImageSize | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        channels = len(mean) if channels is None else channels
        if not len(mean) == len(std) == channels:
            got = f"got {len(mean)} and {len(std)}"
            raise RelgraphError(f"mean and std must hold one number for each of {channels} channels, {got}")
        self._mean, self._std, self._luminance = (
            torch.tensor(each, dtype=torch.float32, device=device)[:, None, None] for each in (mean, std, LUMINANCE)
        )
        self._channels, self._size = channels, None if size is None else pair(size)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's input of uint8 or float (0..1) `images`, on their device."""
        pixels, size = unit(images), self._size
        # non_blocking: a plain copy to a GPU would wait for all the work queued there.
        mean, std = (each.to(pixels.device, non_blocking=True) for each in (self._mean, self._std))
        if size is not None and pixels.shape[-2:] != size:
            pixels = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        if (pixels.shape[1], self._channels) == (3, 1):
            pixels = (pixels * self._luminance.to(pixels.device, non_blocking=True)).sum(1, keepdim=True)
        elif pixels.shape[1] != self._channels and (pixels.shape[1], self._channels) != (1, 3):
            told = f"images with {pixels.shape[1]} channels cannot become images with {self._channels}"
            raise RelgraphError(f"{told}: expected 1 or 3")
        normalised = (pixels - mean) / std  # which repeats grey to as many channels as these have
        # Convolutions run 1.2 to 1.5 times as fast with the channels last.
        return normalised.contiguous(memory_format=torch.channels_last)


def unit(images: Tensor) -> Tensor:
    """Return images as float32 in 0..1: uint8 is divided by 255, float is 0..1 already.

    >>> unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
