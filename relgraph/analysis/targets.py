"""What a command that is often repeated may write over: a file of its own, and nobody else's."""

import os
from collections.abc import Callable
from pathlib import Path

from relgraph.errors import RelgraphError
from relgraph.files import reading


def check_own(path: Path, what: str, is_own: Callable[[bytes], bool]) -> None:
    """Check that a path is free, or has a file that may be written over.

    Args:
        path: Where a file shall be.
        what: Of which kind it is.
        is_own: Whether the content of a file is of this kind.

    Raises:
        RelgraphError: if anything else is there, or it cannot be read.
    """
    if not os.path.lexists(path):
        return
    own = False
    if path.is_file():
        with reading(path):
            own = is_own(path.read_bytes())
    if not own:
        raise RelgraphError(f"{path} is there already, and is no {what}: remove it, or choose another name")
