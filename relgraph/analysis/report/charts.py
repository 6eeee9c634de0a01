"""Drawings of the page in SVG, whose colours are those of the page, light or dark."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from relgraph.analysis.colours import NO_CLASS
from relgraph.analysis.report.html import Html, element, figure

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 452, 12, 214  # of the plotting area
Axis = Callable[[float], float]
MANY = 800  # points of a map that would hide each other


class Curve(NamedTuple):
    """One line of a chart: the number and name of its run, the part that it shows, points (epoch, value), dashed."""

    run: int
    name: str
    part: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def chart(title: str, curves: Sequence[Curve], epochs: tuple[float, float]) -> Html:
    """Return a chart of values against epochs, from the first to the last of `epochs`; 0 is on the value axis."""
    values = [value for curve in curves for _, value in curve.points]
    rows, columns = ticks(min(0.0, *values), max(0.0, *values)), ticks(*epochs, integers=True)
    x_of, y_of = _axis(*epochs, LEFT, RIGHT), _axis(rows[0], rows[-1], BOTTOM, TOP)
    drawn = []
    for tick in rows:
        y = f"{y_of(tick):.1f}"
        drawn.append(element("line", {"x1": LEFT, "x2": RIGHT, "y1": y, "y2": y, "class": "grid"}))
        drawn.append(_tick(LEFT - 8, f"{y_of(tick) + 4:.1f}", "end", tick, rows))
    shown = [tick for tick in columns if epochs[0] <= tick <= epochs[1]]
    drawn += [_tick(f"{x_of(tick):.1f}", BOTTOM + 18, "middle", tick, columns) for tick in shown]
    drawn.append(element("text", {"x": RIGHT, "y": HEIGHT - 4, "text-anchor": "end", "class": "axis"}, "epoch"))
    drawn += [_line(curve, x_of, y_of) for curve in curves]
    cursor = {"x1": LEFT, "x2": LEFT, "y1": TOP, "y2": BOTTOM}
    drawn.append(element("line", {"class": "cursor", **cursor, "visibility": "hidden"}))
    # For screen readers, the last value of each line.
    last = [f"{curve.name}{' ' + curve.part if curve.part else ''} {curve.points[-1][1]:.4g}" for curve in curves]
    told = f"{title} by epoch, at the end: {'; '.join(last)}"
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": told}
    return figure(title, element("svg", box, *drawn), kind="chart")


def scatter(places: Tensor, labels: Sequence[int], colours: Sequence[str], name: str) -> Html:
    """Return points `(n, 2)` within -1..1 as a drawing, a path for each class, those without a label first."""
    points: dict[int, list[str]] = {}
    for (x, y), label in zip(places.tolist(), labels, strict=True):
        points.setdefault(label, []).append(f"M{x:.3f} {-y:.3f}h0")
    paths = []
    for label in sorted(points):
        stroke = colours[label] if label >= 0 else NO_CLASS
        paths.append(element("path", {"data-class": label, "stroke": stroke, "d": "".join(points[label])}))
    size = "many" if len(labels) > MANY else "few"
    box = "-1.06 -1.06 2.12 2.12"
    return element("svg", {"viewBox": box, "role": "img", "aria-label": name, "class": size}, *paths)


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


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    """Return a map from values between `low` and `high` to pixels between `start` and `end`; one value is midway."""
    span = high - low
    return lambda value: start + (value - low) / span * (end - start) if span else (start + end) / 2


def _tick(x: float | str, y: float | str, anchor: str, tick: float, among: Sequence[float]) -> Html:
    digits = max(0, -math.floor(math.log10(among[1] - among[0]) + 1e-9))
    return element("text", {"x": x, "y": y, "text-anchor": anchor}, f"{tick:.{digits}f}")


def _line(curve: Curve, x_of: Axis, y_of: Axis) -> Html:
    points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in curve.points)
    values = " ".join(f"{x:g}:{y:.4g}" for x, y in curve.points)
    kind = "curve dashed" if curve.dashed else "curve"
    group = {"class": kind, "data-run": str(curve.run), "style": f"--c:var(--run-{curve.run % 10})"}
    named = {"points": points, "data-name": curve.name, "data-part": curve.part, "data-values": values}
    x, _, y = points.partition(",")
    dot = element("circle", {"cx": x, "cy": y, "r": 3.5}) if len(curve.points) == 1 else ""
    return element("g", group, element("polyline", named), dot)
