"""The one exception that is meant to be read by people."""

from collections.abc import Iterable
from difflib import get_close_matches


class RelgraphError(ValueError):
    """A mistake in the input, told in one sentence with expected and found.

    The command line prints it as one line and exits with status 1, without a traceback.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> RelgraphError:
    """Return the error for a name that is not among the known ones, with the nearest of them.

    >>> print(unknown("student", "resnet9", ["resnet8", "vgg8"]))
    unknown student 'resnet9': did you mean 'resnet8'? (known: resnet8, vgg8)
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return RelgraphError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
