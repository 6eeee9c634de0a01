"""Random augmentations of whole batches, on the images' device: one draw per image, from a generator on the CPU.

An augmentation draws first and is applied then, so that two networks can be given one view, the views are the same on
every device, and nothing is read back from a device. Where several processes share a batch, each draws for all images
and applies the draws of its own part, so that n processes together have the views that one process has.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from relgraph.data import AUGMENTATIONS, transforms
from relgraph.data.pixel_views import PixelAugmentation
from relgraph.data.views import DrawnViews, PadCropFlip, unit
from relgraph.errors import RelgraphError, unknown


@dataclass(frozen=True)
class ContrastiveAugmentation:
    """The views of contrastive learning: random resized crop, flip, colour jitter, greying and Gaussian blur.

    Each image has its own draws, all parts drawn independently. Crops (`scale`, `ratio`), factors of the jitter and
    greying are torchvision's RandomResizedCrop, ColorJitter and RandomGrayscale; the blur reaches over a tenth of the
    side (`blur_taps`). On images of one channel, saturation, hue and greying change nothing.

    Sources: Chen et al. 2020 (SimCLR, arXiv 2002.05709, appendix A); Chen et al. 2020 (MoCo v2, arXiv 2003.04297),
    whose values are the default. MoCo's code blurs by PIL, which approximates a Gaussian of any width by box filters;
    SimCLR's cuts it at a tenth of the side, and so does this one: 3 pixels at 32.

    Args:
        scale: Bounds of the crop's share of the area.
        ratio: Bounds of its ratio of width to height.
        flip: Share of the images that are mirrored left to right.
        jitter: Strengths of brightness, contrast, saturation and hue; each image has its own order of the four.
        jitter_share: Share of the images whose colours are jittered.
        grey: Share of the images that turn grey.
        blur: Share of the images that are blurred.
        sigma: Bounds of the blur's deviation in pixels.
        size: Side of the views; None keeps that of the images.

    >>> view = ContrastiveAugmentation(size=24).draw(2, 32, 32, torch.Generator().manual_seed(0))
    >>> views = view.apply(torch.full((2, 3, 32, 32), 255, dtype=torch.uint8))
    >>> views.shape, views.dtype
    (torch.Size([2, 3, 24, 24]), torch.float32)
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_share: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    size: int | None = None

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> "ContrastiveView":
        """Draw one view for each of `n` images of `height` x `width` pixels."""
        box = transforms.draw_boxes(n, height, width, self.scale, self.ratio, generator)
        flip = torch.rand(n, generator=generator) < self.flip
        jitter = transforms.draw_jitter(torch.rand(n, generator=generator) < self.jitter_share, self.jitter, generator)
        grey, blur = (torch.rand(n, generator=generator) < share for share in (self.grey, self.blur))
        (low, high), sigma = self.sigma, torch.zeros(n)
        sigma[blur] = low + (high - low) * torch.rand(int(blur.sum()), generator=generator)
        out = (height, width) if self.size is None else (self.size, self.size)
        return ContrastiveView(box, flip, jitter, grey, sigma, out)


@dataclass(frozen=True, eq=False)
class ContrastiveView(DrawnViews):
    """The draws of `ContrastiveAugmentation` for B images: everything lies on the CPU.

    Attributes:
        box: Top, left, height and width of each crop in pixels, `(4, B)`.
        flip: Which images are mirrored, `(B,)`.
        jitter: The colour jitter of those that have one.
        grey: Which images turn grey, `(B,)`.
        sigma: Deviation of each image's blur in pixels, `(B,)`, 0 where there is none.
        size: Height and width of the views.
    """

    box: Tensor
    flip: Tensor
    jitter: transforms.Jitter
    grey: Tensor
    sigma: Tensor
    size: tuple[int, int]

    def apply(self, images: Tensor) -> Tensor:
        """Return the views of uint8 or float (0..1) `images`, float32 `(B, C, height, width)` in 0..1.

        Raises:
            RelgraphError: if the images are not as many as the draws, or have neither 1 nor 3 channels.
        """
        if len(images) != len(self.flip):
            raise RelgraphError(f"a view of {len(self.flip)} images was applied to {len(images)} images")
        transforms.check_channels("a contrastive view", images.shape[1])
        views = self.jitter.apply_(transforms.cut(images, self.box, self.flip, self.size))
        if images.shape[1] == 3 and self.grey.any():
            at = self.grey.nonzero()[:, 0].to(images.device, non_blocking=True)
            views.index_copy_(0, at, transforms.to_grey(views.index_select(0, at)).expand(-1, 3, -1, -1))
        if self.sigma.any():
            drawn = self.sigma.nonzero()[:, 0], self.sigma[self.sigma > 0]
            at, sigma = (each.to(images.device, non_blocking=True) for each in drawn)
            rows, columns = (transforms.blur_matrix(sigma, side, transforms.blur_taps(side)) for side in self.size)
            views.index_copy_(0, at, transforms.resample(views.index_select(0, at), rows, columns))
        return views.clamp_(0, 1)


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
        right, below = uniform(-0.2, 0.2), uniform(-0.2, 0.2)
        affine = (cos * across, shear * cos - sin * down, right, sin * across, shear * sin + cos * down, below)
        # Of all that was tried for the embedded teacher, bending helped most (see assets/README.md).
        bend = 0.08 * torch.randn(n, 2, 4, 4, generator=generator)
        power, gain = uniform(-0.5, 0.5).exp(), uniform(0.7, 1.2)
        noise = uniform(0, 0.1)[:, None, None, None] * torch.randn(n, 1, height, width, generator=generator)
        # Half of the squares have no side.
        side, erased = uniform(0.2, 0.45) * width, torch.rand(n, generator=generator) < 0.5
        square = torch.stack((uniform(0, height), uniform(0, width), side * erased), dim=1)
        flip = torch.zeros(n, dtype=torch.bool)
        return DigitsView(flip, torch.stack(affine, dim=1).view(n, 2, 3), bend, power, gain, noise, square)


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
        square: Centre (y, x) and side in pixels of the square that is made black, `(B, 3)`; without one the side is 0.
    """

    flip: Tensor
    affine: Tensor
    bend: Tensor
    power: Tensor
    gain: Tensor
    noise: Tensor
    square: Tensor

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
        drawn = (self.affine, self.bend, self.power, self.gain, self.noise, self.square)
        affine, bend, power, gain, noise, square = (draw.to(images.device, non_blocking=True) for draw in drawn)
        with torch.autocast(images.device.type, enabled=False):  # positions in half precision are a pixel off
            grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        field = functional.interpolate(bend, size=images.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
        views = functional.grid_sample(unit(images), grid, mode="bicubic", align_corners=False).clamp_(0, 1)
        views = views.pow_(power[:, None, None, None]).mul_(gain[:, None, None, None]).add_(noise)
        y, x, side = square.T[:, :, None]
        rows, columns = (torch.arange(size, device=images.device) + 0.5 for size in images.shape[2:])
        erased = ((rows - y).abs() < side / 2)[:, :, None] & ((columns - x).abs() < side / 2)[:, None, :]
        return views.masked_fill_(erased[:, None], 0)


Augmentation = PadCropFlip | ContrastiveAugmentation | Digits | PixelAugmentation

# Chen et al. 2020, arXiv 2003.04297: SimCLR's parts with a weaker jitter and larger crops.
MOCO = ContrastiveAugmentation()
# Chen et al. 2020, arXiv 2002.05709, appendix A, for ImageNet: crops from 8 % of the area, jitter of strength 1.
SIMCLR = ContrastiveAugmentation(scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2))
# The same, appendix B.9, for CIFAR-10: jitter of strength 1/2 and no blur.
SIMCLR_SMALL = ContrastiveAugmentation(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0)

CONTRASTIVE = {"moco": MOCO, "simclr": SIMCLR, "simclr-small": SIMCLR_SMALL}


def make_augmentation(name: str, *, padding: int, flip: bool, channels: int) -> Augmentation:
    """Return the augmentation of a name; data without `flip` (digits) are never mirrored, whatever the name.

    Args:
        name: "crop" (padding, crop, flip), "moco" (`MOCO`), "simclr" (`SIMCLR`, for large images), "simclr-small"
            (`SIMCLR_SMALL`), "digits" (`Digits`) or "pixels" (`PixelAugmentation`, for classes of pixels).
        padding: Black pixels on every side, for "crop".
        flip: Whether an image may be mirrored.
        channels: Of the images.

    Raises:
        RelgraphError: if the name is unknown, or does not fit the number of channels.

    >>> make_augmentation("moco", padding=4, flip=False, channels=1).flip
    0.0
    """
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    if name == "crop":
        return PadCropFlip(padding, flip)
    if name == "pixels":
        return PixelAugmentation(flip=flip)
    transforms.check_channels(f"augmentation {name!r}", channels)
    if name == "digits":
        return Digits()
    return CONTRASTIVE[name] if flip else replace(CONTRASTIVE[name], flip=0.0)
