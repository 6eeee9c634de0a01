"""Loggers of a run besides its own `metrics.csv`: TensorBoard, and any that has Lightning's interface."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.names import check_permitted
from relgraph.names import logger as find_logger
from relgraph.own_code import telling
from relgraph.printing import tell
from relgraph.training.board import Board
from relgraph.training.recipe import BaseRecipe
from relgraph.training.runs import RunDirectory

NEEDED = ("log_metrics", "log_hyperparams", "finalize")  # of Lightning's `Logger`, those that are called


class LightningLogger:
    """A logger with the interface of Lightning's `Logger`: epochs are its steps.

    Where it fails, the run goes on without it and says so once.

    Args:
        target: Such a logger, or a class or function that returns one, called with those of `root_dir`, `save_dir`
            (the run's directory) and `name` (its last part) that it takes.
        spelling: Its name in messages.
        recipe: The recipe, whose options are the hyper-parameters.
        run: The run.

    Raises:
        RelgraphError: if it is no logger, or cannot be made.
    """

    def __init__(self, target: Any, spelling: str, recipe: BaseRecipe, run: RunDirectory) -> None:
        self.spelling, self.broken = spelling, False
        with telling(f"the logger {spelling} cannot be made"):
            self.logger = target if all(hasattr(target, name) for name in NEEDED) and not inspect.isclass(target) else (
                target(**_taken(target, {"root_dir": run.path, "save_dir": run.path, "name": run.path.name}))
            )  # fmt: skip
        if lacking := [name for name in NEEDED if not hasattr(self.logger, name)]:
            raise RelgraphError(
                f"the logger {spelling} has no {lacking[0]}: expected Lightning's interface of a logger"
            )
        self._call("log_hyperparams", recipe.plain())

    def write(self, row: Mapping[str, float], measured: Sequence[Mapping[str, float]]) -> None:
        """Write an epoch; measured steps are left to the run's own files."""
        self._call("log_metrics", {name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))

    def close(self) -> None:
        """End the log."""
        self._call("finalize", "success")

    def _call(self, name: str, *arguments: Any) -> None:
        if self.broken:
            return
        try:
            getattr(self.logger, name)(*arguments)
        except Exception as error:  # what code of another's raises
            self.broken = True
            tell(f"the logger {self.spelling} failed: {first_line(error)}: the run goes on without it")


Logger = Board | LightningLogger
Found = tuple[Any, str]  # what a spelling stands for, and the spelling


def find_loggers(recipe: BaseRecipe, run: str | None) -> list[Found]:
    """Return what the loggers that a recipe names are made of; of a `run` that is resumed, its file names them.

    Raises:
        RelgraphError: for one that is unknown, or code of one's own that was not permitted or cannot be imported.
    """
    specs = [spec for spec in recipe.logger if spec != "none"]
    for spec in specs if run else ():
        check_permitted(str(spec), run or "")
    return [(Board, spec) if spec == "tensorboard" else find_logger(spec) for spec in specs]


def open_loggers(found: Sequence[Found], recipe: BaseRecipe, run: RunDirectory, epochs: int, step: int) -> list[Logger]:
    """Return loggers for a run with so many epochs written already, and the last measured step; -1 for none.

    Raises:
        RelgraphError: for one that cannot be made, or is none.
    """
    board = partial(Board, run.path / "tensorboard", recipe.plain(), epochs, step)
    return [board() if target is Board else LightningLogger(target, name, recipe, run) for target, name in found]


def _taken(function: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that a function takes by name."""
    return {name: value for name, value in offered.items() if name in inspect.signature(function).parameters}
