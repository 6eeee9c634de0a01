"""TensorBoard's files of a run: a row an epoch, and one for each step whose graphs were measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from relgraph.training.runs import Run


class Board:
    """Writes a run's metrics for TensorBoard.

    Args:
        run: The run.
        epochs: Epochs that are written already.
        measured: Measured steps that are.
    """

    def __init__(self, run: Run, epochs: int, measured: int) -> None:
        self.measured = measured
        self.epochs, self.steps = _logger(run, epochs), _logger(run, measured, "steps")

    def write(self, row: Mapping[str, float], measured: Sequence[Mapping[str, float]]) -> None:
        """Write an epoch and its measured steps."""
        for step in measured:
            self.measured += 1
            self.steps.log_metrics({name: value for name, value in step.items() if name != "epoch"}, step=self.measured)
        figures = {name: value for name, value in row.items() if name != "epoch"}
        self.epochs.log_metrics(figures, step=int(row["epoch"]))
        self.epochs.save()
        self.steps.save()

    def close(self) -> None:
        """Close the files."""
        self.epochs.finalize("success")
        self.steps.finalize("success")


def _logger(run: Run, done: int, version: str = "") -> Any:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    # Steps after the last checkpoint of a stopped run are hidden, since they are trained again.
    return TensorBoardLogger(
        run.path, name="tensorboard", version=version, default_hp_metric=False, purge_step=done + 1
    )
