"""Maps of the classes of pixels of image files, by a trained student: PNG files with a palette, and overlays."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from relgraph.analysis.colours import area_colours
from relgraph.analysis.masks import classes_of, mask_picture, overlay
from relgraph.data.decoding import BadImage, quiet, read_image
from relgraph.data.stream import stream
from relgraph.data.views import Normalise
from relgraph.deploy.predicting import Asked, Predicted, Prediction
from relgraph.errors import RelgraphError
from relgraph.files import check_empty, first_line, write_atomically, writing
from relgraph.networks.plain import PlainStudent, Preprocessing
from relgraph.printing import no_bar

LEGEND = "classes.json"
Pixels = NDArray[np.uint8]


class Read(NamedTuple):
    """A file as an image `(H, W, 3)` of its own size, and as the student reads it, `(3, h, w)`; or why not."""

    image: Pixels | None
    prepared: Pixels | None
    reason: str = ""


def segment_files(student: PlainStudent, asked: Asked, top: int, folder: Path | None, overlays: bool) -> Predicted:
    """Return the `top` classes that most pixels of each image have, and write the maps of them into a folder.

    An image is read as a whole, resized until it just covers the size of the training images, and the logits of the
    student are brought to the image's own size (bilinear). The map of `a.jpg` is `a.png`, whose values are the numbers
    of the classes, its overlay `a.overlay.jpg`; they lie in the folder as the images lie below the folder that all of
    them share. `classes.json` has names and colours. Each file is written whole or not at all.

    Args:
        student: The network, whose logits are of pixels.
        asked: The files; images go through the network one by one, since their sizes differ.
        top: Number of classes.
        folder: Where files are written, a new or empty folder; `None` writes none.
        overlays: Whether images under the colours of their classes are written as well.

    Raises:
        RelgraphError: if no image can be read, two maps would be one file, or a file cannot be written.
    """
    files, colours = asked.files(), area_colours(len(student.classes))
    places = dict.fromkeys(files, None) if folder is None else _places(files, folder, overlays)
    rows = list[Prediction]()
    for file, image, mask in _masks(student.to(asked.device), asked, files):
        counts = np.bincount(mask.flatten().numpy(), minlength=len(student.classes))
        order = (-counts).argsort(kind="stable")[:top]
        place = places[file]
        if place is not None and folder is not None:
            if not rows:
                _write_legend(folder, student.classes, colours)
            with writing(place.parent):
                place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, _encoded(mask_picture(mask, colours), "PNG"))
            if overlays:
                write_atomically(_overlay_of(place), _encoded(overlay(image, mask, colours), "JPEG", quality=90))
        names, shares = (student.classes[number] for number in order), (counts[order] / mask.numel()).tolist()
        rows.append(Prediction(file, tuple(names), tuple(shares), None if place is None else str(place), "share"))
    asked.ended(len(rows))
    return Predicted(rows, asked.skipped)


def _places(files: Sequence[str], folder: Path, overlays: bool) -> dict[str, Path]:
    """Return where the map of each image goes.

    Raises:
        RelgraphError: if the folder holds something, or two files would have one place.
    """
    check_empty(folder)
    full = [os.path.abspath(file) for file in files]
    shared = os.path.commonpath([os.path.dirname(file) for file in full]) if full else ""
    places = {file: folder / Path(os.path.relpath(path, shared)).with_suffix(".png")
              for file, path in zip(files, full, strict=True)}  # fmt: skip
    taken = {folder / LEGEND: "the legend"}
    for file, place in places.items():
        for each in (place, _overlay_of(place)) if overlays else (place,):
            if each in taken:
                raise RelgraphError(f"{taken[each]} and {file} would both be written to {each}: name one of them alone")
            taken[each] = file
    return places


def _overlay_of(mask: Path) -> Path:
    return mask.with_suffix(".overlay.jpg")


def _write_legend(folder: Path, classes: Sequence[str], colours: Sequence[str]) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    told = [{"number": n, "name": name, "colour": colour}
            for n, (name, colour) in enumerate(zip(classes, colours, strict=True))]  # fmt: skip
    write_atomically(folder / LEGEND, (json.dumps({"classes": told}, indent=1) + "\n").encode())


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


@torch.inference_mode()
def _masks(student: PlainStudent, asked: Asked, files: Sequence[str]) -> Iterator[tuple[str, Image.Image, Tensor]]:
    """Yield each file that can be read with its image and the map of its classes `(H, W)` uint8, on the CPU."""
    prepare = Normalise(student.preprocess.mean, student.preprocess.std, device=asked.device)
    read, parts = partial(_read, tuple(files), student.preprocess), torch.split(torch.arange(len(files)), 1)
    with (
        closing(stream(read, parts, asked.workers, pin_memory=False)) as decoded,
        tqdm(desc=asked.title, total=len(files), unit="img", leave=False, disable=no_bar()) as bar,
    ):
        for file, found in zip(files, decoded, strict=True):
            if found.image is None or found.prepared is None:
                asked.skip(file, found.reason)
            else:
                batch = prepare(torch.from_numpy(found.prepared)[None].to(asked.device))
                try:
                    _, logits = student(batch)
                except Exception as error:  # of a network that reads only some sizes, of whatever kind
                    told = f"the network cannot read it at {batch.shape[2]} x {batch.shape[3]} pixels"
                    asked.skip(file, f"{told}: {first_line(error)}")
                else:
                    assert logits is not None
                    image = Image.fromarray(found.image)
                    yield file, image, classes_of(logits[0], found.image.shape[:2]).cpu()
            bar.update()


def _read(files: Sequence[str], preprocess: Preprocessing, which: NDArray[np.int64]) -> Read:
    """Return the file at a position."""
    try:
        with quiet():
            image = read_image(Path(files[int(which[0])]), None)
    except BadImage as error:
        return Read(None, None, error.reason)
    try:
        seen = np.asarray(image)
        # Of the pixels alone: the image that was read keeps its EXIF, by which it would be turned once more.
        return Read(seen, preprocess.pixels(Image.fromarray(seen)).numpy())
    except RelgraphError as error:
        return Read(None, None, str(error))
