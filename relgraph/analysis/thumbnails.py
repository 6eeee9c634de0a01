"""Images as small PNG files beside a graph."""

import io
from pathlib import Path

import torch

from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.files import write_atomically

LARGEST = 96


def write_thumbnails(images: ImageSet, folder: Path) -> list[str]:
    """Write each image into a folder and return the files' paths from where the folder stands, in order.

    A file is named after the image's `index`, its position in the data set's original split, and is at most 96 pixels
    wide and high; smaller images stay as they are. What else is in the folder stays there.

    Raises:
        RelgraphError: if a file cannot be written, or a streamed image cannot be read.
    """
    from PIL import Image
    from tqdm import tqdm

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RelgraphError(f"cannot make the folder {folder}: {error.strerror}") from error
    names = [f"{number}.png" for number in images.index.tolist()]
    remaining = iter(names)
    parts = [part for part in torch.arange(len(images)).tensor_split(len(images) // 256 + 1) if len(part)]
    with tqdm(desc="thumbnails", total=len(images), unit="img", leave=False, disable=None) as bar:
        for batch in images.batches(parts):
            for pixels in batch.cpu():
                grey = len(pixels) == 1
                picture = Image.fromarray((pixels[0] if grey else pixels.permute(1, 2, 0)).contiguous().numpy())
                picture.thumbnail((LARGEST, LARGEST))
                stream = io.BytesIO()
                picture.save(stream, format="PNG")
                write_atomically(folder / next(remaining), stream.getvalue())
                bar.update()
    return [f"{folder.name}/{name}" for name in names]
