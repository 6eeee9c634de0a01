"""A run as a command trains it, and the message when Ctrl-C or a scheduler stops it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from .launch import is_first, over_devices
from .show import say

if TYPE_CHECKING:
    from relgraph.training.runs import AnyRecipe


def run(
    command: str, recipe: "AnyRecipe", told: str, out: Path | None, resume: Path | None, devices: int | None,
    allow_code: bool,
) -> tuple[dict[str, Any], Path] | None:  # fmt: skip
    """Train a recipe, after a line that says what, and return its figures and its path: in the first process alone."""
    from relgraph.api import run_recipe
    from relgraph.training.runs import free_name

    with over_devices(devices):
        # Of several processes, the first names the run.
        path = resume or out or (free_name(Path("runs"), recipe) if is_first() else Path("runs"))
        say(f"{told} -> {path}")
        with stoppable(command, path, named=resume is None and out is None):
            result = run_recipe(recipe, path, resume=resume is not None, allow_code=allow_code).result
    return (result, path) if is_first() else None


@contextmanager
def stoppable(command: str, path: Path, *, named: bool) -> Iterator[None]:
    """End the program after a line on what of the run at `path` is kept: by Ctrl-C with status 130, by SIGTERM 143.

    A directory that was `named`, and so made, for the run, and is empty in the end, is removed, and its folder with it.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = "stopped before the training began"
        if (path / "recipe.yaml").is_file():
            kept = f"stopped; finished epochs are kept, continue with: relgraph {command} --resume {quote(str(path))}"
        say("", kept, err=True)
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            where = f"relgraph {command} --resume {quote(str(path))}"
            say("", f"stopped by SIGTERM; all of it is kept, continue with: {where}", err=True)
        raise
    finally:
        with suppress(OSError):
            for folder in (path, path.parent) if named else ():
                folder.rmdir()


@contextmanager
def removing_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an exception, so that files which are not whole yet are removed, with status 143."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # as in a program that runs commands of its own
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what removes the files is not to be stopped
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
