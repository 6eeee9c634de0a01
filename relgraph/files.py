"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relgraph.errors import RelgraphError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file beside `path`, which takes its place once the block ends well.

    An interrupt or a full disk leaves what `path` held before.

    Raises:
        RelgraphError: if it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        kept = ", what it held before is untouched" if path.exists() else ""
        raise RelgraphError(f"cannot write {path}: {error.strerror or first_line(error)}{kept}") from error
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or none of it.

    Raises:
        RelgraphError: if it cannot be written; what `path` held before is untouched.
    """
    with replacing(path) as part:
        part.write_bytes(data)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none.

    >>> first_line(OSError("no such file"))
    'no such file'
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
