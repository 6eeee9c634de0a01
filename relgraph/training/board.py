"""A run's metrics for TensorBoard, without the thread of its own writers, which a full disk ends with a traceback."""

import io
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from relgraph.printing import tell

Row = tuple[int, Mapping[str, float]]


class Board:
    """Writes a run's metrics for TensorBoard; where they cannot be written, the run goes on without, and says so once.

    Args:
        folder: Where they are written.
        epochs: Epochs that are written already.
        measured: Measured steps that are.
    """

    def __init__(self, folder: Path, epochs: int, measured: int) -> None:
        self.folder, self.measured, self.broken = folder, measured, False
        self.epochs, self.steps = Events(folder, epochs), Events(folder / "steps", measured)

    def write(self, row: Mapping[str, float], measured: Sequence[Mapping[str, float]]) -> None:
        """Write an epoch and its measured steps."""
        if self.broken:
            return
        numbered = enumerate(measured, self.measured + 1)
        self.measured += len(measured)
        try:
            self.epochs.write([(int(row["epoch"]), row)])
            self.steps.write(numbered)
        except OSError as error:
            self.broken = True  # what follows half a record cannot be read
            tell(f"cannot write {self.folder}: {error.strerror or error}: the run goes on without it")

    def close(self) -> None:
        """End the log: each epoch is in the file already."""


class Events:
    """One file of TensorBoard's: each row is the scalars of a step. `done` steps are written elsewhere already."""

    def __init__(self, folder: Path, done: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self.path, self.done = folder / name, done

    def write(self, rows: Iterable[Row]) -> None:
        """Write rows.

        Raises:
            OSError: if they cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        events, data, new = [], io.BytesIO(), not self.path.exists()
        if new:
            # Steps after the last checkpoint of a stopped run are hidden, since they are trained again.
            start = SessionLog(status=SessionLog.START)
            events += [Event(file_version="brain.Event:2"), Event(step=self.done + 1, session_log=start)]
        for step, row in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"]
            events.append(Event(step=step, summary=Summary(value=values)))
        for event in events:
            event.wall_time = time.time()
            RecordWriter(data).write(event.SerializeToString())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("xb" if new else "ab") as stream:
            stream.write(data.getvalue())
