"""The message of a command when Ctrl-C stops a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import click


@contextmanager
def stoppable(command: str, path: Path) -> Iterator[None]:
    """Let Ctrl-C in the block end the program with status 130, after a line on what of the run at `path` is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "stopped before the training began"
        if (path / "recipe.yaml").is_file():
            kept = f"stopped; finished epochs are kept, continue with: relgraph {command} --resume {quote(str(path))}"
        click.echo(f"\n{kept}", err=True)
        raise SystemExit(130) from None
