"""Images as small pictures: PNG files beside a graph, and inside a page thumbnails, a sprite and drawn matrices."""

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from relgraph.data.images import SPLITS, ImageSet
from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.printing import no_bar

LARGEST = 96
SPRITE_TILE = 32  # 2,000 tiles of that many pixels are about 2 MB as a JPEG
PNG_LIMIT = 400_000  # bytes up to which a picture stays without loss


def write_thumbnails(images: ImageSet, folder: Path) -> list[str]:
    """Write each image into a folder and return the files' paths from where the folder stands, in order.

    A file is named after the image's `index`, its position in the data set's original split, behind the split where
    they are of several, and is at most 96 pixels wide and high; smaller images stay as they are. What else is in the
    folder stays there.

    Raises:
        RelgraphError: if a file cannot be written, or a streamed image cannot be read.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RelgraphError(f"cannot make the folder {folder}: {error.strerror}") from error
    names = [f"{number}.png" for number in images.index.tolist()]
    if images.part is not None:
        names = [f"{SPLITS[part]}-{name}" for part, name in zip(images.part.tolist(), names, strict=True)]
    small = _small(images, LARGEST, Image.Resampling.BICUBIC)
    for name, picture in zip(names, tqdm(small, "thumbnails", len(names), leave=False, disable=no_bar()), strict=True):
        write_atomically(folder / name, _encoded(picture, "PNG"))
    return [f"{folder.name}/{name}" for name in names]


def thumbnails(images: ImageSet, side: int) -> list[Image.Image]:
    """Return the images, none larger than `side` pixels, as RGB."""
    return [picture.convert("RGB") for picture in _small(images, side, Image.Resampling.LANCZOS)]


def tiles(images: ImageSet) -> tuple[Image.Image, int, list[list[int]]]:
    """Return all images as tiles of one picture, their size, and the column and row of each."""
    pictures = thumbnails(images, SPRITE_TILE)
    tile = max(max(picture.size) for picture in pictures)
    columns = math.ceil(math.sqrt(len(pictures)))
    canvas = Image.new("RGB", (columns * tile, math.ceil(len(pictures) / columns) * tile))
    places = [[number % columns, number // columns] for number in range(len(pictures))]
    for picture, (column, row) in zip(pictures, places, strict=True):
        margin = (tile - picture.width) // 2, (tile - picture.height) // 2
        canvas.paste(picture, (column * tile + margin[0], row * tile + margin[1]))
    return canvas, tile, places


def sprite(images: ImageSet) -> tuple[dict[str, Any], list[list[int]]]:
    """Return the tiles of images for a page, and the column and row of each."""
    canvas, tile, places = tiles(images)
    return {"tile": tile, "columns": canvas.width // tile, "data": data_uri(canvas)}, places


def matrix_picture(matrix: Tensor, low: float, high: float, colours: str = "RdBu_r") -> str:
    """Return a matrix as a picture of so many pixels, its values from `low` to `high` in matplotlib's colours."""
    from matplotlib import colormaps

    picture = Image.fromarray((((matrix - low) / (high - low)).clamp(0, 1) * 255).to(torch.uint8).numpy())
    palette = colormaps[colours](np.linspace(0, 1, 256))[:, :3]
    picture.putpalette(np.rint(palette * 255).astype(int).flatten().tolist())
    return data_uri(picture)


def data_uri(picture: Image.Image) -> str:
    """Return a picture as an address that holds it: PNG, or JPEG if that would be large."""
    kind, content = "png", _encoded(picture, "PNG", optimize=True)
    if len(content) > PNG_LIMIT and picture.mode == "RGB":
        kind, content = "jpeg", _encoded(picture, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _small(images: ImageSet, side: int, resampling: Image.Resampling) -> Iterator[Image.Image]:
    """Yield the images, grey or RGB, none larger than `side` pixels: one at a time, since files may be large."""
    for (pixels,) in images.batches(torch.split(torch.arange(len(images)), 1)):
        grey = len(pixels) == 1
        picture = Image.fromarray((pixels[0] if grey else pixels.permute(1, 2, 0)).cpu().contiguous().numpy())
        picture.thumbnail((side, side), resampling)
        yield picture


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()
