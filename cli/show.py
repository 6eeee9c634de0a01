"""The format of tables on a terminal."""

from collections.abc import Mapping, Sequence

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
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.2f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of words, the first of them a header, each column as wide as its widest word."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def accuracies(title: str, networks: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the accuracies that any of the networks has; an empty text if there is none."""
    found = [name for name in COLUMNS if any(name in row for row in networks.values())]
    rows = [[network, *(row.get(name) for name in found)] for network, row in networks.items()]
    return table([title, *(COLUMNS[name] for name in found)], rows) if found else ""
