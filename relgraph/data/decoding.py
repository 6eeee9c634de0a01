"""Image files as a person sees them: upright, transparent pixels on white, within limits of size."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image

from relgraph.errors import RelgraphError

# No others are opened, whatever a file's name: PIL would hand an EPS to Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
BACKGROUND = (255, 255, 255)  # white, on which browsers show what is transparent
# Pixels of an image: those from which PIL itself warns of decompression bombs, 256 MiB as RGB.
PIXEL_LIMIT = 89_478_485
# Longer side by shorter one: of a longer image only the middle is resized, which its centre is cropped from.
LONGEST = 16
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


def read_image(file: Path, image_size: int | None, *, crop: bool = True) -> Image.Image:
    """Return the image in `file` as a person sees it, as RGB; of several the first.

    It is turned as its EXIF orientation says, and transparent pixels are composed on white. With an `image_size` its
    shorter side is resized to it and, unless `crop` is false, its centre cropped.

    Raises:
        RelgraphError: if the file is not a readable image of 8 bits per channel and at most `PIXEL_LIMIT` pixels, or
            too long to be resized as a whole.
    """
    try:
        # PIL would wait for ever for what is written into a pipe.
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise BadImage(file, "expected a file, found a pipe, a device or a folder")
        return _fitted(_decoded(file), image_size, crop)
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


def as_seen(image: Image.Image, image_size: int | None, *, crop: bool = True) -> Image.Image:
    """Return an image that PIL opened as `read_image` does one in a file.

    Raises:
        Unfit: if it has not 8 bits per channel, more than `PIXEL_LIMIT` pixels, or is too long to be resized as a
            whole.
        Exception: what PIL raises if it cannot decode the image.
    """
    return _fitted(_upright(image), image_size, crop)


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this PIL knows, AVIF since 11.3."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decoded(file: Path) -> Image.Image:
    with Image.open(file, formats=_formats()) as opened:
        return _upright(opened)


def _upright(opened: Image.Image) -> Image.Image:
    if opened.width * opened.height > PIXEL_LIMIT:
        raise Unfit(f"expected at most {PIXEL_LIMIT:,} pixels, found {opened.width:,} x {opened.height:,}")
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


def _fitted(image: Image.Image, side: int | None, crop: bool) -> Image.Image:
    """Return an image with its shorter side resized to `side`, and its centre cropped to a square if asked for."""
    if side is None:
        return image
    if crop:
        image = _shortened(image)
    elif max(image.size) > LONGEST * min(image.size):
        raise Unfit(f"expected at most {LONGEST} times as long as wide, found {image.width:,} x {image.height:,}")
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side)) if crop else resized


def _shortened(image: Image.Image) -> Image.Image:
    """Return the middle of an image that is so long that resizing all of it would take much memory; others as is."""
    most = LONGEST * min(image.size)
    if max(image.size) <= most + 1:
        return image
    # By an even number, so that the centre stays where it is.
    left, top = (max(0, length - most) // 2 for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))
