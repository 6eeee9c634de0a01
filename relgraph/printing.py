"""Lines for a terminal. Names of classes and files are another's: in a line they are text, and never commands."""

import sys
from typing import IO


def printable(text: str, stream: IO[str] | None = None) -> str:
    r"""Return one line, with what would move a terminal's cursor or change its colours written as in Python.

    So is what the encoding of a stream lacks, if one is given.

    >>> printable("a\x1b[2J\n")
    'a\\x1b[2J\\n'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def no_bar(*, shown: bool = True) -> bool | None:
    """Return what tqdm takes as `disable`: a bar that is `shown` appears on a terminal and in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    in_notebook = hasattr(shell, "kernel")  # a program may import ipykernel without being one
    return (False if in_notebook else None) if shown else True


def tell(*lines: str, stream: IO[str] | None = None) -> None:
    """Print lines above the progress bars, to standard output or another stream."""
    from tqdm import tqdm

    stream = stream or sys.stdout
    for line in lines:
        tqdm.write(printable(line, stream), stream)
