"""The format of tables on a terminal."""

from collections.abc import Callable, Mapping, Sequence

COLUMNS = {
    "top1": "top-1 %",
    "top5": "top-5 %",
    "knn": "k-NN %",
    "linear": "linear probe %",
    "knn_few": "k-NN, few labels %",
    "linear_few": "probe, few labels %",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    """Return a table of text: words to the left, numbers with two digits to the right, `-` where there is none."""
    return _aligned([header, *([_cell(value) for value in row] for row in rows)], str.rjust)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of words, the first of them a header, each column as wide as its widest word."""
    return _aligned(rows, str.ljust)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.2f}"


def printable(text: str) -> str:
    r"""Return a text with what would move a terminal's cursor or change its colours written as in Python.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def accuracies(title: str, networks: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the accuracies that any of the networks has; an empty text if there is none."""
    found = [name for name in COLUMNS if any(name in row for row in networks.values())]
    rows = [[network, *(row.get(name) for name in found)] for network, row in networks.items()]
    return table([title, *(COLUMNS[name] for name in found)], rows) if found else ""


def _aligned(rows: Sequence[Sequence[str]], align: Callable[[str, int], str]) -> str:
    rows = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
