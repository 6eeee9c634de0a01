"""Folders of images, `PATH/train/CLASS/*.png` with `PATH/val` or `PATH/test`, decoded once into memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relgraph.errors import RelgraphError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision
MEMORY_LIMIT = 8 * 2**30  # bytes: beyond that, images in memory stop being a good idea on common machines

Listing = dict[str, list[Path]]  # the image files of each class


def read_folder(path: Path, image_size: int | None) -> tuple[tuple[str, ...], dict[str, tuple[Tensor, Tensor]]]:
    """Return the classes and, for each split, its images `(N, 3, H, W)` uint8 and labels `(N,)`.

    The splits are `train`, `val` and `test`; a folder with only one of the last two has `train` and `test`. With an
    `image_size` the shorter side is resized to it (bicubic, antialiased) and the centre is cropped; without one all
    images must have the same size.

    Raises:
        RelgraphError: if a folder or a class is missing, an image is unreadable or of another size, or the images need
            too much memory.
    """
    listings = {split: list_images(folder) for split, folder in _find_splits(path).items()}
    classes = _common_classes(path, listings)
    files = {split: [file for name in classes for file in listing[name]] for split, listing in listings.items()}
    width, height = (image_size, image_size) if image_size else read_image(files["train"][0], None).size
    check_memory(sum(map(len, files.values())), 3, height, width)
    read = {}
    for split, listing in listings.items():
        labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(listing[name]) for name in classes]))
        read[split] = (_decode(files[split], image_size, (width, height), split), labels)
    return classes, read


def _find_splits(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise RelgraphError(f"{path}: no such folder")
    train, val, test = (path / split for split in ("train", "val", "test"))
    if not train.is_dir():
        raise RelgraphError(f"{path}: expected a folder train/ in it, found none")
    if val.is_dir() and test.is_dir():
        return {"train": train, "val": val, "test": test}
    if not val.is_dir() and not test.is_dir():
        raise RelgraphError(f"{path}: expected a folder val/ or test/ beside train/, found neither")
    return {"train": train, "test": test if test.is_dir() else val}


def list_images(folder: Path) -> Listing:
    """Return the image files of every class, a folder in `folder`, both in alphabetical order.

    Hidden folders and files do not count; files deeper in a class folder do.

    Raises:
        RelgraphError: if there are fewer than two classes, or a class has no images.
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        found = f"found {classes[0].name}" if classes else "found none"
        raise RelgraphError(f"{folder}: expected one folder for each of at least 2 classes, {found}")
    listing = {entry.name: _list_files(entry) for entry in classes}
    for name, files in listing.items():
        if not files:
            raise RelgraphError(f"{folder / name}: no images in this class folder (looked for {', '.join(SUFFIXES)})")
    return listing


def _list_files(folder: Path) -> list[Path]:
    files = []
    for parent, _, names in os.walk(folder, followlinks=True):
        files += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(files)


def _common_classes(path: Path, listings: dict[str, Listing]) -> tuple[str, ...]:
    expected = set(listings["train"])
    for split, listing in listings.items():
        missing, extra = sorted(expected - set(listing)), sorted(set(listing) - expected)
        if missing or extra:
            parts = [
                f"{word} {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
                for word, names in (("missing", missing), ("not in train/", extra))
                if names
            ]
            raise RelgraphError(f"{path}: the classes of the {split} images differ from train/: {'; '.join(parts)}")
    return tuple(listings["train"])


def check_memory(images: int, channels: int, height: int, width: int) -> None:
    """Refuse images that need more than 8 GiB as uint8.

    Raises:
        RelgraphError: if they do.
    """
    needed = images * channels * height * width
    if needed > MEMORY_LIMIT:
        raise RelgraphError(
            f"{images} images of {channels} x {height} x {width} need {needed / 2**30:.1f} GiB of memory, expected at "
            f"most {MEMORY_LIMIT / 2**30:.0f}: choose a smaller --image-size (large folders cannot be streamed yet)"
        )


def _decode(files: list[Path], image_size: int | None, size: tuple[int, int], split: str) -> Tensor:
    import numpy as np
    from tqdm import tqdm

    width, height = size
    images = torch.empty(len(files), 3, height, width, dtype=torch.uint8)
    pixels = images.numpy()  # the same memory

    def fill(slot: int) -> None:
        image = read_image(files[slot], image_size)
        if image.size != size:
            raise RelgraphError(
                f"{files[slot]}: expected {width} x {height} pixels like the first image, found "
                f"{image.width} x {image.height}: give --image-size to resize them"
            )
        pixels[slot] = np.asarray(image).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        decoded = pool.map(fill, range(len(files)))
        for _ in tqdm(decoded, desc=f"decode {split}", total=len(files), unit="img", leave=False, disable=None):
            pass
    return images


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
