"""The message of a command when Ctrl-C or a scheduler stops a run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

from .show import say


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
