"""Maps of classes as pictures: in colours, over their image, and where two networks differ."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from relgraph.analysis.colours import NO_CLASS, rgb
from relgraph.data.label_maps import IGNORED

SHARE = 0.5  # of a class's colour over an image


def classes_of(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return the class of each pixel, `(H, W)` uint8, by logits `(C, h, w)` at another size.

    They are resized as torch does (bilinear, corners not aligned), a class at a time: one map more than the result is
    held, whatever the number of classes. Of equal ones the first wins, as by `argmax`.

    >>> classes_of(torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]]]), (2, 4))
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0]], dtype=torch.uint8)
    """
    height, width = size
    best = torch.full((height, width), -torch.inf, device=logits.device)
    found = torch.zeros(height, width, dtype=torch.uint8, device=logits.device)
    for number, each in enumerate(logits.float()):
        resized = functional.interpolate(each[None, None], (height, width), mode="bilinear")[0, 0]
        found[resized > best] = number
        best = torch.maximum(best, resized)
    return found


def mask_picture(mask: Tensor, colours: Sequence[str]) -> Image.Image:
    """Return a map of classes `(H, W)` uint8 as a picture with a palette, whose values are the classes' numbers.

    `colours` `#rrggbb` are those of the classes, such as `area_colours`; where the map is 255 it is grey.
    """
    palette = [*colours, *["#000000"] * (IGNORED - len(colours)), NO_CLASS]
    picture = Image.fromarray(mask.cpu().contiguous().numpy())
    picture.putpalette([value for colour in palette for value in rgb(colour)])
    return picture


def overlay(image: Image.Image, mask: Tensor, colours: Sequence[str]) -> Image.Image:
    """Return an image with the colours of a map of classes `(H, W)` over it; where it is 255 the image alone.

    >>> shown = overlay(Image.new("RGB", (2, 1)), torch.tensor([[0, 255]], dtype=torch.uint8), ["#1868e8"])
    >>> shown.getpixel((0, 0)), shown.getpixel((1, 0))
    ((12, 52, 116), (0, 0, 0))
    """
    counts = Image.fromarray(((mask != IGNORED).to(torch.uint8) * round(255 * SHARE)).cpu().numpy())
    return Image.composite(mask_picture(mask, colours).convert("RGB"), image.convert("RGB"), counts)


SAME, GAINED, LOST, WRONG = range(4)
# Green and red differ in lightness too.
DIFFERENCE = {SAME: "#d4d8dd", GAINED: "#35b04a", LOST: "#c4202f", WRONG: "#40464e"}


def difference(before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    """Return where a map of classes is right that another one got wrong, `(H, W)` uint8: see `DIFFERENCE`.

    GAINED where `after` alone is right, LOST where `before` alone is, SAME where both are, WRONG where none is, and 255
    where the label is.

    >>> before, after, labels = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 0, 255]])
    >>> difference(before, after, labels).tolist() == [SAME, GAINED, LOST, WRONG, IGNORED]
    True
    """
    was, is_now = before == labels, after == labels
    kind = torch.where(was, torch.where(is_now, SAME, LOST), torch.where(is_now, GAINED, WRONG))
    return kind.to(torch.uint8).masked_fill(labels == IGNORED, IGNORED)
