"""One image file becomes pixels, in the same way every time."""

from pathlib import Path
from typing import TYPE_CHECKING

from relgraph.errors import RelgraphError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_image(file: Path, image_size: int | None) -> "Image":
    """Return the image in `file` as RGB; with an `image_size`, its shorter side resized to it and its centre cropped.

    Raises:
        RelgraphError: if the file is not a readable image of 8 bits per channel.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            mode = opened.mode
            # By way of RGBA, or PIL warns about every such file.
            opaque = opened.convert("RGBA") if "transparency" in opened.info else opened
            image = opaque.convert("RGB")
    except Exception as error:  # the decoders of PIL raise nearly everything on a corrupt file
        raise RelgraphError(f"{file}: not a readable image ({' '.join(str(error).split())})") from error
    if mode.startswith(("I", "F")):  # PIL clips those to white without a word
        raise RelgraphError(f"{file}: expected 8 bits per channel, found PIL's mode {mode}")
    return image if image_size is None else _fit(image, image_size)


def _fit(image: "Image", size: int) -> "Image":
    from PIL import Image

    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
