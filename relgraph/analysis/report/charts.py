"""Drawings of the page in SVG, whose colours are those of the page, light or dark."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

from relgraph.analysis.report.page import fill

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 452, 12, 214  # of the plotting area


class Curve(NamedTuple):
    """One line of a chart: the number and name of its run, the part that it shows, points (epoch, value)."""

    run: int
    name: str
    part: str
    points: Sequence[tuple[float, float]]


def chart(title: str, curves: Sequence[Curve], epochs: tuple[float, float]) -> Markup:
    """Return a chart of values against epochs, from the first to the last of `epochs`; 0 is on the value axis."""
    values = [value for curve in curves for _, value in curve.points]
    rows, columns = ticks(min(0.0, *values), max(0.0, *values)), ticks(*epochs, integers=True)

    def x(epoch: float) -> float:
        return _between(epoch, *epochs, LEFT, RIGHT)

    def y(value: float) -> float:
        return _between(value, rows[0], rows[-1], BOTTOM, TOP)

    lines = [
        (curve, [f"{x(e):.1f},{y(v):.1f}" for e, v in curve.points], [f"{e:g}:{v:.4g}" for e, v in curve.points])
        for curve in curves
    ]
    last = [f"{curve.name}{' ' + curve.part if curve.part else ''} {curve.points[-1][1]:.4g}" for curve in curves]
    return fill(
        "chart.html",
        title=title,
        told=f"{title} by epoch, at the end: {'; '.join(last)}",  # for screen readers: the last value of each line
        rows=[(y(tick), _number(tick, rows)) for tick in rows],
        columns=[(x(tick), _number(tick, columns)) for tick in columns if epochs[0] <= tick <= epochs[1]],
        lines=lines,
        **{"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    )


def ticks(low: float, high: float, *, integers: bool = False, most: int = 6) -> list[float]:
    """Return round numbers at even distances from at most `low` to at least `high`.

    >>> ticks(0.0, 97.0), ticks(1, 8, integers=True)
    ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.0, 2.0, 4.0, 6.0, 8.0])
    """
    from matplotlib.ticker import MaxNLocator

    if not high > low:
        low, high = (low, low + 1) if integers else (low - 0.5, low + 0.5)
    found = MaxNLocator(most - 1, steps=[1, 2, 5, 10], integer=integers, min_n_ticks=1).tick_values(low, high)
    return [float(round(tick, 12)) for tick in found]


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    """Return the pixel between `start` and `end` of a value between `low` and `high`."""
    return (start + end) / 2 if high == low else start + (value - low) / (high - low) * (end - start)


def _number(value: float, among: Sequence[float]) -> str:
    step = min((b - a for a, b in pairwise(among)), default=1.0)
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
