"""A batch in pieces, as a network without gradients computes it on a processor."""

import torch
from torch import Tensor

# Of 160 x 160 or 224 x 224 pixels ten or five images. What most networks hold between two layers is then below the size
# from which the C library gives memory back to the system, which clears it anew for each layer: of 256 images of 160
# pixels that took MobileNetV2 most of its time.
PIXELS = 2**18


def pieces(images: Tensor) -> tuple[Tensor, ...]:
    """Return the images of a batch `(N, C, H, W)` in pieces that a network computes one after the other.

    On a processor none has more than 2^18 pixels, unless it is one image; on any other device there is one piece.
    """
    if images.device.type != "cpu":
        return (images,)
    return torch.split(images, max(1, PIXELS // (images.shape[-2] * images.shape[-1])))
