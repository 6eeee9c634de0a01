"""Image files as a person sees them: upright, transparent pixels on white, within limits of size."""

import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from relgraph.errors import RelgraphError

T = TypeVar("T")

# No others are opened, whatever a file's name: PIL would hand an EPS to Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
BACKGROUND = (255, 255, 255)  # white, on which browsers show what is transparent
# Pixels of an image: those from which PIL itself warns of decompression bombs, 256 MiB as RGB.
PIXEL_LIMIT = 89_478_485
# Longer side by shorter one: of a longer image only the middle is resized, which its centre is cropped from.
LONGEST = 16
TURNS_ASIDE = range(5, 9)  # orientations whose height is the stored width
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


ImageSize = int | tuple[int, int]  # of a square, or height and width, in pixels


def pair(size: ImageSize) -> tuple[int, int]:
    """Return the height and width of a size.

    >>> pair(32), pair((180, 240))
    ((32, 32), (180, 240))
    """
    return (size, size) if isinstance(size, int) else size


class BadImage(RelgraphError):
    """A file that is no image that can be used, for a `reason`."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}: mend or remove it, or leave such files out by --bad-images skip")
        self.file, self.reason = file, reason


class Unfit(ValueError):
    """An image that is readable and cannot be used."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PIL from warning of every odd file. Not for use in several threads at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_image(file: Path, image_size: ImageSize | None) -> Image.Image:
    """Return the image in `file` as a person sees it, as RGB; of several the first.

    It is turned as its EXIF orientation says, and transparent pixels are composed on white. With an `image_size` it is
    resized to cover it, and its centre cropped.

    Raises:
        RelgraphError: if the file is not a readable image of 8 bits per channel and at most `PIXEL_LIMIT` pixels.
    """
    image = _read(file, _upright)
    return image if image_size is None else fitted(image, image_size)


def read_numbers(file: Path) -> Image.Image:
    """Return as a grey image the numbers that are the pixels of the one in `file`, grey or with a palette.

    Raises:
        RelgraphError: if the file is not a readable image of one channel of 8 bits and at most `PIXEL_LIMIT` pixels.
    """
    try:
        return _read(file, _numbers)
    except BadImage as error:
        raise RelgraphError(f"{file}: {error.reason}") from error


def size_as_seen(file: Path) -> tuple[int, int]:
    """Return the width and height of an image in a file, turned as its EXIF orientation says; it is not decoded.

    Raises:
        BadImage: if it is no image.
    """
    return _read(file, _size_as_seen)


def as_seen(image: Image.Image, image_size: ImageSize | None) -> Image.Image:
    """Return an image that PIL opened as `read_image` does one in a file.

    Raises:
        Unfit: if it has not 8 bits per channel, or more than `PIXEL_LIMIT` pixels.
        Exception: what PIL raises if it cannot decode the image.
    """
    seen = _upright(image)
    return seen if image_size is None else fitted(seen, image_size)


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this PIL knows, AVIF since 11.3."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _read(file: Path, read: Callable[[Image.Image], T]) -> T:
    """Return what a function reads of the image in a file."""
    try:
        # PIL would wait for ever for what is written into a pipe.
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise BadImage(file, "expected a file, found a pipe, a device or a folder")
        with Image.open(file, formats=_formats()) as opened:
            return read(opened)
    except BadImage:
        raise
    except Unfit as error:
        raise BadImage(file, str(error)) from error
    except MemoryError as error:  # the machine's fault, and not to be skipped
        raise RelgraphError(f"{file}: there is not enough memory to decode it") from error
    except Image.DecompressionBombError as error:
        raise BadImage(file, f"expected at most {PIXEL_LIMIT:,} pixels, found more than twice as many") from error
    except Exception as error:  # the decoders of PIL raise nearly everything on a corrupt file
        raise BadImage(file, f"not a readable image ({' '.join(str(error).split())})") from error


def _size_as_seen(opened: Image.Image) -> tuple[int, int]:
    aside = opened.format != "TIFF" and _orientation(opened) in TURNS_ASIDE  # of TIFF it is obeyed already
    return opened.size[::-1] if aside else opened.size


def _check_size(opened: Image.Image) -> None:
    if opened.width * opened.height > PIXEL_LIMIT:
        raise Unfit(f"expected at most {PIXEL_LIMIT:,} pixels, found {opened.width:,} x {opened.height:,}")


def _numbers(opened: Image.Image) -> Image.Image:
    _check_size(opened)
    if opened.mode not in ("1", "L", "P"):
        told = (
            "save the number of each pixel's class as a grey image (mode L); docs/data-and-runs.md does so of colours"
        )
        raise Unfit(f"expected a number of 8 bits for each pixel, found PIL's mode {opened.mode}: {told}")
    return Image.fromarray(np.asarray(opened).astype(np.uint8))  # of a palette its indices, of black and white 0 and 1


def _upright(opened: Image.Image) -> Image.Image:
    _check_size(opened)
    if opened.mode.startswith(("I", "F")):  # PIL clips those to white without a word
        raise Unfit(f"expected 8 bits per channel, found PIL's mode {opened.mode}")
    opened.load()  # some formats know their orientation, or that they are transparent, only then
    image = _opaque(opened)
    turn = TURNS.get(_orientation(opened))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; of TIFF it is obeyed already, and damaged EXIF says nothing."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # PIL's reader raises nearly everything
        return 1


def _opaque(image: Image.Image) -> Image.Image:
    """Return an image as RGB, composed on the background where it is transparent."""
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info and palette != "RGBA":
        return image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    background = Image.new("RGB", image.size, BACKGROUND)
    background.paste(image, mask=image)
    return background


def fitted(
    image: Image.Image, image_size: ImageSize, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Return an image resized until it just covers a size, and its centre cropped to it."""
    return _cropped(covering(_shortened(image, image_size), image_size, resample), pair(image_size))


def covering(
    image: Image.Image, image_size: ImageSize, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Return an image resized until it just covers a size, nothing of it cropped."""
    height, width = covering_size((image.height, image.width), image_size)
    return image.resize((width, height), resample)


def covering_size(own: tuple[int, int], image_size: ImageSize) -> tuple[int, int]:
    """Return to what height and width an image of these is resized so that it just covers a size.

    >>> covering_size((64, 64), (16, 32)), covering_size((480, 640), 32)
    ((32, 32), (32, 43))
    """
    height, width = pair(image_size)
    scale = max(Fraction(height, own[0]), Fraction(width, own[1]))  # exact, as the exported program's is
    return max(height, round(own[0] * scale)), max(width, round(own[1] * scale))


def uncovered(image: Image.Image, image_size: ImageSize) -> Image.Image:
    """Return the part of an image that is left of it in `fitted`, at its own resolution."""
    image = _shortened(image, image_size)
    return _cropped(image, uncovered_size((image.height, image.width), image_size))


def uncovered_size(own: tuple[int, int], image_size: ImageSize) -> tuple[int, int]:
    """Return the height and width of the middle that is left of an image of these where it covers a size.

    >>> uncovered_size((64, 64), (16, 32)), uncovered_size((480, 640), 32)
    ((32, 64), (480, 480))
    """
    height, width = pair(image_size)
    scale = max(height / own[0], width / own[1])
    return min(own[0], round(height / scale)), min(own[1], round(width / scale))


def centre(own: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the centre, of a height and width, of an image of these.

    >>> centre((32, 64), (32, 32))
    (slice(0, 32, None), slice(16, 48, None))
    """
    top, left = (own[0] - size[0]) // 2, (own[1] - size[1]) // 2
    return slice(top, top + size[0]), slice(left, left + size[1])


def _cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    rows, columns = centre((image.height, image.width), size)
    return image.crop((columns.start, rows.start, columns.stop, rows.stop))


def _shortened(image: Image.Image, image_size: ImageSize) -> Image.Image:
    """Return the middle of an image that is so long that resizing all of it would take much memory; others as is."""
    least, largest = sorted(pair(image_size))
    most = LONGEST * -(-largest // least) * min(image.size)
    if max(image.size) <= most + 1:
        return image
    # By an even number, so that the centre stays where it is.
    left, top = (max(0, length - most) // 2 for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))
