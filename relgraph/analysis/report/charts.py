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
    """One line of a chart: the number and name of its run, the part that it shows, points (epoch, value).

    `deviations` are those of the points, where a line is a mean; it has a band then.
    """

    run: int
    name: str
    part: str
    points: Sequence[tuple[float, float]]
    deviations: Sequence[float | None] = ()

    @property
    def band(self) -> list[tuple[float, float, float]]:
        """Epoch, lower and upper end of the points that have a deviation."""
        both = zip(self.points, self.deviations, strict=False)
        return [(epoch, value - d, value + d) for (epoch, value), d in both if d is not None and math.isfinite(d)]


def chart(
    title: str, curves: Sequence[Curve], epochs: tuple[float, float], note: str = "", *, most: float = math.inf
) -> Markup:
    """Return a chart of values against epochs, from the first to the last of `epochs`; 0 is on the value axis.

    Bands are cut off at 0 and at `most`, if no value is beyond: a share cannot be.
    """
    values = [value for curve in curves for _, value in curve.points]
    least, most = min(0.0, *values), max(most, *values)
    highest = max(0.0, *values, *(min(high, most) for curve in curves for *_, high in curve.band))
    rows, columns = ticks(least, highest), ticks(*epochs, integers=True)

    def x(epoch: float) -> float:
        return _between(epoch, *epochs, LEFT, RIGHT)

    def y(value: float) -> float:
        return _between(value, rows[0], rows[-1], BOTTOM, TOP)

    def told(curve: Curve) -> list[str]:
        spread = {epoch: f"±{(high - low) / 2:.2g}" for epoch, low, high in curve.band}
        return [f"{e:g}:{v:.4g}{spread.get(e, '')}" for e, v in curve.points]

    def around(curve: Curve) -> list[str]:
        band = curve.band if len(curve.band) > 1 else []
        ends = [(e, max(low, least)) for e, low, _ in band] + [(e, min(high, most)) for e, _, high in reversed(band)]
        return [f"{x(e):.1f},{y(v):.1f}" for e, v in ends]

    points = ([f"{x(e):.1f},{y(v):.1f}" for e, v in curve.points] for curve in curves)
    lines = [(curve, drawn, told(curve), around(curve)) for curve, drawn in zip(curves, points, strict=True)]
    teacher = [len(curve.points) for curve in curves if curve.part == "teacher"]
    last = [f"{curve.name}{' ' + curve.part if curve.part else ''} {curve.points[-1][1]:.4g}" for curve in curves]
    return fill(
        "chart.html",
        title=title,
        told=f"{title} by epoch, at the end: {'; '.join(last)}",  # for screen readers: the last value of each line
        rows=[(y(tick), _number(tick, rows)) for tick in rows],
        columns=[(x(tick), _number(tick, columns)) for tick in columns if epochs[0] <= tick <= epochs[1]],
        lines=lines,
        teacher=" or ".join(["dashed"] * (max(teacher, default=1) > 1) + ["a ring"] * (1 in teacher)),
        note=note,
        **{"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    )


def ticks(low: float, high: float, *, integers: bool = False, most: int = 6) -> list[float]:
    """Return round numbers at even distances from at most `low` to at least `high`.

    >>> ticks(0.0, 97.0), ticks(1, 8, integers=True)
    ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.0, 2.0, 4.0, 6.0, 8.0])
    """
    from matplotlib.ticker import MaxNLocator

    if not high > low:
        low, high = low, low + 1
    found = MaxNLocator(most - 1, steps=[1, 2, 5, 10], integer=integers, min_n_ticks=1).tick_values(low, high)
    return [float(round(tick, 12)) for tick in found]


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    """Return the pixel between `start` and `end` of a value between `low` and `high`."""
    return (start + end) / 2 if high == low else start + (value - low) / (high - low) * (end - start)


def _number(value: float, among: Sequence[float]) -> str:
    step = min((b - a for a, b in pairwise(among)), default=1.0)
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
