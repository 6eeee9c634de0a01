"""A run's metrics for TensorBoard, without the thread of its own writers, which a full disk ends with a traceback."""

import io
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from relgraph.data.images import ImageSet
from relgraph.printing import tell

Row = tuple[int, Mapping[str, float]]
SPLITS = ("train", "val", "test", "batch")  # what names of metrics begin with, and an underscore
OF_RUN = ("lr", "images_per_s", "degenerate")
EMBEDDING = """embeddings {
  tensor_name: "%(name)s"
  tensor_path: "%(name)s.tsv"
  metadata_path: "images.tsv"
  sprite { image_path: "images.png" single_image_dim: %(tile)d single_image_dim: %(tile)d }
}
"""


class Board:
    """Writes a run's metrics for TensorBoard; where they cannot be written, the run goes on without, and says so once.

    Epochs are the steps of one log, steps of the training those of another, in `steps`. The options of the recipe are
    its hyper-parameters.

    Args:
        folder: Where they are written.
        options: Every option of the recipe.
        epochs: Epochs that are written already.
        step: The last measured step that is; -1 for none.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], epochs: int, step: int) -> None:
        self.folder, self.options, self.broken = folder, options, False
        self.epochs, self.steps = Events(folder, epochs), Events(folder / "steps", step)

    def write(self, row: Mapping[str, float], measured: Sequence[Mapping[str, float]]) -> None:
        """Write an epoch and its measured steps."""
        if self.broken:
            return
        try:
            told = [] if self.epochs.begun else hyper_parameters(self.options, row)
            self.epochs.write([(int(row["epoch"]), row)], told)
            self.steps.write((int(found["step"]), found) for found in measured)
        except OSError as error:
            self.broken = True  # what follows half a record cannot be read
            tell(f"cannot write {self.folder}: {error.strerror or error}: the run goes on without it")

    def close(self) -> None:
        """End the log: each epoch is in the file already."""


class Events:
    """One file of TensorBoard's: each row is the scalars of a step. Those up to `done` are written elsewhere."""

    def __init__(self, folder: Path, done: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self.path, self.done, self.begun = folder / name, done, False

    def write(self, rows: Iterable[Row], others: Sequence[Any] = ()) -> None:
        """Write rows, and before them other summaries.

        Raises:
            OSError: if they cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        events, data = [Event(summary=summary) for summary in others], io.BytesIO()
        if not self.begun:
            # Steps after the last checkpoint of a stopped run are hidden, since they are trained again.
            start = SessionLog(status=SessionLog.START)
            events[:0] = [Event(file_version="brain.Event:2"), Event(step=self.done + 1, session_log=start)]
        for step, row in rows:
            kept = {name: value for name, value in row.items() if name not in ("epoch", "step")}
            values = [Summary.Value(tag=tag(name), simple_value=value) for name, value in kept.items()]
            events.append(Event(step=step, summary=Summary(value=values)))
        for event in events:
            event.wall_time = time.time()
            RecordWriter(data).write(event.SerializeToString())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab" if self.begun else "xb") as stream:
            stream.write(data.getvalue())
        self.begun = True


def tag(name: str) -> str:
    """Return a metric's name for TensorBoard, which groups what stands before a slash.

    >>> tag("val_top1"), tag("cross_entropy"), tag("batch"), tag("lr")
    ('val/top1', 'loss/cross_entropy', 'loss/batch', 'run/lr')
    """
    split = split_of(name)
    return f"{split}/{name[len(split) + 1 :]}" if split else f"{'run' if name in OF_RUN else 'loss'}/{name}"


def split_of(name: str) -> str:
    """Return the split, or "batch", that a metric's name begins with; empty for the others, such as terms of a loss.

    >>> split_of("val_top1"), split_of("batch")
    ('val', '')
    """
    split, _, rest = name.partition("_")
    return split if rest and split in SPLITS else ""


def hyper_parameters(options: Mapping[str, Any], row: Mapping[str, float]) -> list[Any]:
    """Return the summaries of a run's options for TensorBoard's table, beside the loss and what is evaluated."""
    from torch.utils.tensorboard.summary import hparams

    known = {name: value for name, value in options.items() if value is not None}
    told = {name: value if isinstance(value, int | float) else str(value) for name, value in known.items()}
    shown = {tag(name): value for name, value in row.items() if name == "loss" or name.startswith(("val_", "test_"))}
    return list(hparams(told, shown))  # type: ignore[no-untyped-call]


def write_projector(folder: Path, vectors: Mapping[str, Tensor], images: ImageSet) -> None:
    """Write vectors `(N, D)` of images by network for TensorBoard's projector, with classes and thumbnails.

    Where they cannot be written, the run goes on without, and says so.
    """
    from relgraph.analysis.pictures import tiles

    canvas, tile, _ = tiles(images)
    names = [*(" ".join(name.split()) for name in images.classes), "no label"]
    rows = [f"{names[label]}\t{number}" for label, number in
            zip(images.true_labels.clamp_min(-1).tolist(), images.index.tolist(), strict=True)]  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        canvas.save(folder / "images.png")
        (folder / "images.tsv").write_text("\n".join(["class\timage", *rows]) + "\n", encoding="utf-8")
        for name, each in vectors.items():
            lines = ("\t".join(f"{number:.5g}" for number in row) for row in each.tolist())
            (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        # It comes last: what it names is whole.
        config = "".join(EMBEDDING % {"name": name, "tile": tile} for name in vectors)
        (folder / "projector_config.pbtxt").write_text(config, encoding="utf-8")
    except OSError as error:
        tell(f"cannot write {folder}: {error.strerror or error}: the run goes on without it")
