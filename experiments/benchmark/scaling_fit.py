"""A picture of how time and memory of the loss grow with the batch."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relgraph.analysis.colours import TEN
from relgraph.files import write_atomically

NAMES = {"matrix": "matrix", "factored": "factored", "blocked": "blocked", "knn": "{k} neighbours, blocked"}
STYLES = {"matrix": ("s-", TEN[0]), "factored": ("o--", TEN[1]), "blocked": ("^-.", TEN[2]), "knn": ("D:", TEN[3])}

RowValue = Callable[[dict[str, Any]], float | None]


def draw_scaling(report: dict[str, Any], file: Path) -> None:
    """Draw the report of `measure_scaling` into a PNG file: time, and memory where it was measured, against N."""
    from matplotlib.figure import Figure  # not pyplot, whose back end is the caller's choice

    halves: list[tuple[str, str, RowValue]] = [
        ("time", "time of a step in ms: median, fastest and slowest", _milliseconds)
    ]
    if any(row["bytes"] for row in report["rows"]):
        halves.append(("memory", "memory beside the embeddings in MiB", _mebibytes))
    canvas = Figure(figsize=(5 * len(halves) + 0.5, 4.2), layout="constrained", facecolor="white")
    axes = canvas.subplots(1, len(halves), squeeze=False)[0]
    for axis, (what, unit, value_of) in zip(axes, halves, strict=True):
        _draw(axis, report, what, value_of)
        axis.set(xlabel="nodes in a batch, N", ylabel=unit)
    settings, machine = report["settings"], report["machine"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    where = f"{machine['device']}, {threads}" if machine["type"] == "cpu" else machine["device"]
    canvas.suptitle(f"{settings['method']}, D = {settings['dim']}: forward and backward, {where}", fontsize=10)
    picture = io.BytesIO()
    canvas.savefig(picture, format="png", dpi=120)
    write_atomically(file, picture.getvalue())


def _draw(axis: Any, report: dict[str, Any], what: str, value_of: RowValue) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    for form, powers in report["exponents"].items():
        found = ((row["n"], value_of(row)) for row in report["rows"] if row["form"] == form)
        points = [(n, value) for n, value in found if value]
        if points:
            name, power = NAMES[form].format(k=report["settings"]["k"]), powers[what]
            label = name if power is None else f"{name}: $N^{{{power:.2f}}}$"
            line, ink = STYLES[form]
            axis.plot(*zip(*points, strict=True), line, color=ink, markersize=4, label=label)
            if what == "time":
                rows = [(row["n"], row["time"]) for row in report["rows"] if row["form"] == form]
                bounds = ([1e3 * time[end] for _, time in rows] for end in ("min", "max"))
                axis.fill_between([n for n, _ in rows], *bounds, color=ink, alpha=0.2, linewidth=0)
    sizes = sorted({row["n"] for row in report["rows"]})
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, ha="right", fontsize=8)
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
    axis.grid(alpha=0.3)
    if axis.lines:
        told = "form, and the power of N that fits"
        axis.legend(frameon=False, fontsize=8, handlelength=4, title=told, title_fontsize=8)


def _milliseconds(row: dict[str, Any]) -> float | None:
    return 1e3 * float(row["time"]["median"])


def _mebibytes(row: dict[str, Any]) -> float | None:
    return row["bytes"] / 2**20 if row["bytes"] else None
