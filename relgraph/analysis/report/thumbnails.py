"""Images inside the page: thumbnails, the sprite of the graph view, and matrices as pictures."""

import base64
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relgraph.data.images import ImageSet

if TYPE_CHECKING:
    from PIL.Image import Image

SPRITE_TILE = 32  # 2,000 tiles of that many pixels are about 2 MB as a JPEG
PNG_LIMIT = 400_000  # bytes up to which a picture stays without loss


def thumbnails(images: ImageSet, side: int) -> list["Image"]:
    """Return the images, none larger than `side` pixels, as RGB."""
    from PIL.Image import Resampling, fromarray

    small = []
    for number in range(len(images)):  # one at a time: streamed images may be large
        (pixels,) = _decoded(images, number)
        picture = fromarray(np.ascontiguousarray(_rgb(pixels)))
        picture.thumbnail((side, side), Resampling.LANCZOS)
        small.append(picture)
    return small


def sprite(images: ImageSet) -> tuple[dict[str, Any], list[list[int]]]:
    """Return all images as tiles of one picture, and the column and row of each."""
    from PIL.Image import new

    pictures = thumbnails(images, SPRITE_TILE)
    tile = max(max(picture.size) for picture in pictures)
    columns = math.ceil(math.sqrt(len(pictures)))
    canvas = new("RGB", (columns * tile, math.ceil(len(pictures) / columns) * tile))
    places = [[number % columns, number // columns] for number in range(len(pictures))]
    for picture, (column, row) in zip(pictures, places, strict=True):
        margin = (tile - picture.width) // 2, (tile - picture.height) // 2
        canvas.paste(picture, (column * tile + margin[0], row * tile + margin[1]))
    return {"tile": tile, "columns": columns, "data": data_uri(canvas)}, places


def matrix_picture(matrix: Tensor, limit: float) -> str:
    """Return a matrix with values in -limit..limit as a picture of so many pixels, blue over white to red."""
    from matplotlib import colormaps
    from PIL.Image import fromarray

    levels = ((matrix / limit).clamp(-1, 1) * 127 + 127.5).to(torch.uint8).numpy()
    picture = fromarray(levels)
    picture.putpalette(_bytes(colormaps["RdBu_r"](np.linspace(0, 1, 256))[:, :3]))
    return data_uri(picture)


def scale_picture() -> str:
    """Return the colours of `matrix_picture` from the least value, on the left, to the largest."""
    return matrix_picture(torch.linspace(-1, 1, 128)[None], 1.0)


def data_uri(picture: "Image") -> str:
    """Return a picture as an address that holds it: PNG, or JPEG if that would be large."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    kind = "png"
    if len(stream.getvalue()) > PNG_LIMIT and picture.mode == "RGB":
        stream, kind = io.BytesIO(), "jpeg"
        picture.save(stream, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _decoded(images: ImageSet, number: int) -> Tensor:
    return images.select(torch.tensor([number], device=images.labels.device)).sample(1).cpu()


def _rgb(image: Tensor) -> NDArray[np.uint8]:
    """Return an image `(C, H, W)` uint8 with one colour or three as `(H, W, 3)`."""
    pixels: NDArray[np.uint8] = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return pixels


def _bytes(colours: NDArray[np.float64]) -> list[int]:
    found: list[int] = np.rint(colours * 255).astype(int).flatten().tolist()
    return found
