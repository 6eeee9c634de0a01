"""Lines for a terminal. Names of classes and files are another's: in a line they are text, and never commands."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, TypeVar

T = TypeVar("T")


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


class Lines:
    """Lines on standard error in place of a bar that is not shown, one in so many seconds: what is quick needs none."""

    def __init__(self, pause: float) -> None:
        self.pause, self.told = pause, time.monotonic()

    def __call__(self, bar: Any, line: str) -> None:
        """Tell a line if it is due."""
        if bar.disable and time.monotonic() - self.told >= self.pause:
            tell(line, stream=sys.stderr)
            self.told = time.monotonic()


class Stages:
    """The progress of work in named stages: a bar on a terminal, elsewhere a line now and then.

    Args:
        title: What is done.
        total: Number of stages.
    """

    PAUSE = 5.0

    def __init__(self, title: str, total: int) -> None:
        from tqdm import tqdm

        self.title, self.done, self.lines = title, 0, Lines(self.PAUSE)
        self.bar = tqdm(total=total, desc=title, leave=False, disable=no_bar())

    def __call__(self, stage: str) -> None:
        """Begin a stage."""
        self.bar.set_postfix_str(stage)
        self.lines(self.bar, f"{self.title}: {stage}, {self.done} of {self.bar.total} done")
        self.bar.update(self.done > 0)
        self.done += 1

    def each(self, parts: Iterable[T], stage: str) -> Iterator[T]:
        """Yield parts, each of them a stage."""
        for part in parts:
            self(stage)
            yield part

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
