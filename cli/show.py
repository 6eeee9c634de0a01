"""What a command prints: lines, and the format of tables."""

import sys
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap

import click

from relgraph.printing import printable

# What figures of accuracy are called above a column, in the order in which they are shown.
COLUMNS = {
    "top1": "top-1", "top5": "top-5", "knn": "k-NN", "linear": "linear probe", "knn_few": "k-NN, few labels",
    "linear_few": "probe, few labels", **{name: name for name in ("recall@1", "recall@5", "recall@10", "mAP", "mAP@R")},
    "miou": "mIoU", "pixel_accuracy": "pixel accuracy",
}  # fmt: skip


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


def say(*lines: str, err: bool = False) -> None:
    """Print lines, to standard error if `err`, without control characters: all that a command prints passes here."""
    stream = sys.stderr if err else sys.stdout
    click.echo("\n".join(printable(line, stream) for line in lines), err=err)


def say_all(text: str) -> None:
    """Print a text of several lines."""
    say(*text.split("\n"))


def entry(name: str, text: str, indent: int = 10) -> str:
    """Return a name and lines of text beside it."""
    after = indent * " "
    return "\n".join(
        wrap(text, 110, initial_indent=name.ljust(indent), subsequent_indent=after, break_on_hyphens=False)
    )


def accuracies(title: str, networks: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the accuracies that any of the networks has; an empty text if there is none."""
    found = [name for name in COLUMNS if any(name in row for row in networks.values())]
    rows = [[network, *(row.get(name) for name in found)] for network, row in networks.items()]
    return table([title, *(f"{COLUMNS[name]} %" for name in found)], rows) if found else ""


def by_class(networks: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the intersection over union of each class; an empty text if the networks have none."""
    names = list(dict.fromkeys(name for row in networks.values() for name in row if name.startswith("iou_")))
    rows = [[name.removeprefix("iou_"), *(row.get(name) for row in networks.values())] for name in names]
    return table(["class", *(f"{network}, IoU %" for network in networks)], rows) if names else ""


def say_registered(kind: str) -> None:
    """Print the names that installed packages register, and where they come from, if there are any."""
    from relgraph.own_code import registered

    rows = [
        [name, entry.value, f"{entry.dist.name} {entry.dist.version}" if entry.dist else "-"]
        for name, entry in sorted(registered(kind).items())
    ]
    if rows:
        say("", "registered by installed packages:")
        say_all(columns([[kind, "code", "package"], *rows]))


def _aligned(rows: Sequence[Sequence[str]], align: Callable[[str, int], str]) -> str:
    rows = [[printable(cell, sys.stdout) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
