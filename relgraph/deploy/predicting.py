"""What a trained student says of image files: their classes, with probabilities, or where pixels have classes these."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.decoding import pair
from relgraph.data.images import ImageFiles, names_in_one
from relgraph.data.listing import LeftOut, find_images
from relgraph.data.stream import stream
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.networks.plain import PlainStudent
from relgraph.printing import no_bar, tell

Format = Literal["csv", "json"]


class Prediction(NamedTuple):
    """The most probable classes of an image, the first of them first; of pixels those that most of them have.

    Attributes:
        file: Path of the image.
        classes: Their names.
        probabilities: Theirs, the softmax of the logits over all classes; of pixels the classes' shares of these.
        mask: Path of the map of classes, where one was written.
        of: What the numbers are.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    mask: str | None = None
    of: Literal["probability", "share"] = "probability"

    def cells(self) -> dict[str, str | float]:
        """Return it as a row of a table.

        >>> Prediction("a.png", ("cat", "dog"), (0.75, 0.25)).cells()
        {'file': 'a.png', 'class': 'cat', 'probability': 0.75, 'class_2': 'dog', 'probability_2': 0.25}
        """
        found: dict[str, str | float] = {"file": self.file, **({} if self.mask is None else {"mask": self.mask})}
        for rank, (name, probability) in enumerate(zip(self.classes, self.probabilities, strict=True), start=1):
            ending = "" if rank == 1 else f"_{rank}"
            found |= {f"class{ending}": name, f"{self.of}{ending}": probability}
        return found


class Predicted(NamedTuple):
    """The classes of images, in the order in which these were named.

    Attributes:
        rows: Of each image that could be read.
        skipped: Why others could not, by what was named.
    """

    rows: list[Prediction]
    skipped: dict[str, str]

    def text(self, form: Format) -> str:
        """Return the rows as CSV or JSON."""
        rows = [row.cells() for row in self.rows]
        if form == "json":
            return json.dumps(rows, indent=2) + "\n"
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def format_of(output: Path | None, form: Format | None) -> Format | None:
    """Return the format that is given, or that of a file by its suffix; `None` where there is neither.

    Raises:
        RelgraphError: for another suffix.
    """
    if form is not None or output is None:
        return form
    match output.suffix.lower():
        case ".csv":
            return "csv"
        case ".json":
            return "json"
    raise RelgraphError(f"expected an output FILE.csv or FILE.json, or a format, got {output}")


def predict_files(student: PlainStudent, asked: "Asked", top: int) -> Predicted:
    """Return the `top` most probable classes of each image; a line on standard error names what cannot be read.

    Raises:
        RelgraphError: if no image can be read.
    """
    rows = [
        Prediction(file, tuple(student.classes[number] for number in which), tuple(values))
        for files, _, logits in asked.outputs(student)
        for file, values, which in _most_probable(files, logits, min(top, len(student.classes)))
    ]
    return Predicted(rows, asked.skipped)


def _most_probable(files: Sequence[str], logits: Tensor | None, top: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield each file with its largest probabilities and the numbers of their classes."""
    assert logits is not None
    best = logits.float().softmax(dim=1).topk(top)
    yield from zip(files, best.values.tolist(), best.indices.tolist(), strict=True)


@dataclass
class Asked:
    """Image files that a student is asked about; what cannot be read is named on standard error.

    Attributes:
        places: Files, folders, at any depth, and patterns such as `photos/*.jpg` or `photos/**/*.jpg`.
        title: Of the progress bar.
        batch_size: Images at a time.
        workers: Processes that decode images ahead.
        device: Where to compute.
        skipped: Why what was named could not be read, once it was tried.
    """

    places: Sequence[str]
    title: str
    batch_size: int
    workers: int
    device: torch.device
    skipped: dict[str, str] = field(default_factory=dict)

    def outputs(self, student: PlainStudent) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
        """Yield files that could be read with the student's vectors and logits, in order, a batch at a time.

        Raises:
            RelgraphError: if no image can be read.
        """
        files, count = self.files(), 0
        for part in self._outputs(student.to(self.device), files) if files else ():
            count += len(part[0])
            yield part
        self.ended(count)

    def files(self) -> list[str]:
        """Return the files that are named, each once."""
        return list(dict.fromkeys(_find(self.places, self.skipped)))

    def skip(self, name: str, reason: str) -> None:
        """Remember why a file could not be read, and say so."""
        _skip(self.skipped, name, reason)

    def ended(self, count: int) -> None:
        """Say how many were skipped where `count` could be read.

        Raises:
            RelgraphError: if none could be read.
        """
        if self.skipped:
            told = f"{len(self.skipped):,} of {count + len(self.skipped):,}"
            tell(f"skipped {told} that cannot be read", stream=sys.stderr)
        if count == 0:
            raise RelgraphError("expected images that can be read, found none")

    @torch.inference_mode()
    def _outputs(
        self, student: PlainStudent, files: Sequence[str]
    ) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
        size, device = student.preprocess.image_size, self.device
        images = ImageFiles(Path(), names_in_one(files), pair(size), size)
        prepare = Normalise(student.preprocess.mean, student.preprocess.std, device=device)
        parts = torch.split(torch.arange(len(files)), self.batch_size)
        with (
            closing(stream(images.decode_readable, parts, self.workers, pin_memory=device.type == "cuda")) as batches,
            tqdm(desc=self.title, total=len(files), unit="img", leave=False, disable=no_bar()) as bar,
        ):
            for part, (pixels, faults) in zip(parts, batches, strict=True):
                for number, reason in faults.items():
                    self.skip(files[number], reason)
                kept = [files[number] for number in part.tolist() if number not in faults]
                if kept:
                    yield kept, *student(prepare(pixels.to(device)))
                bar.update(len(part))


def _find(places: Iterable[str], skipped: dict[str, str]) -> Iterator[str]:
    """Yield the files that are named, those in a folder in the order of their names."""
    for place in places:
        for path in [place] if os.path.lexists(place) else sorted(glob(place, recursive=True)) or [place]:
            if os.path.isdir(path):
                yield from _in_folder(path, skipped)
            elif os.path.exists(path):
                yield path
            else:
                _skip(skipped, path, "no such file")


def _in_folder(folder: str, skipped: dict[str, str]) -> Iterator[str]:
    left_out = LeftOut()
    try:
        (names,) = find_images(Path(folder), [(Path(folder), "")], left_out)
    except RelgraphError as error:
        _skip(skipped, folder, str(error))
        return
    tell(*left_out.lines(folder), stream=sys.stderr)
    if not names:
        _skip(skipped, folder, "no image in this folder")
    yield from (os.path.join(folder, name) for name in names)


def _skip(skipped: dict[str, str], name: str, reason: str) -> None:
    skipped[name] = reason
    tell(f"{name}: {reason}", stream=sys.stderr)


def no_classifier(path: Path) -> RelgraphError:
    """Return the error for a run that trained none."""
    output = "feature" if (path / "network.safetensors").is_file() else "embedding"
    instead = f"relgraph embed --teacher checkpoint:{path} --teacher-args output={output}"
    return RelgraphError(f"{path} trained no classifier, which says the classes of images: {instead} gives vectors")
