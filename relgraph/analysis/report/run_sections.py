"""The sections on all runs: options, results and learning curves, drawn in SVG in the page's colours, light or dark."""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

from relgraph.analysis.report.html import NOTHING, Html, element, figure, joined, legend, paragraph, table
from relgraph.analysis.report.summary import FIGURES, Summary, groups, settings

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 452, 12, 214  # of the plotting area
Axis = Callable[[float], float]
PARTS = {"": "", " best": "best epoch", " last": "last epoch"}
# The charts in order: title, then the columns of the metrics, each with its part of the chart.
CHARTS: dict[str, dict[str, str]] = {
    "Training loss": {"loss": ""},
    "Top-1 accuracy in %, training (labelled images)": {"train_top1": ""},
    "Top-1 accuracy in %, validation": {"val_top1": ""},
    "k-NN accuracy in %, validation": {"val_knn": ""},
    "Top-1 accuracy in %, test": {"test_top1": ""},
    "k-NN accuracy in %, test": {"test_knn": ""},
    "Neighbour overlap": {"overlap": ""},
    "Rank correlation of edges": {"edge_rank": ""},
    "Node-match accuracy": {"match": ""},
    "Label homophily": {"homophily_student": "student", "homophily_teacher": "teacher"},
}


class Curve(NamedTuple):
    """One line of a chart: the number and name of its run, the part that it shows, points (epoch, value)."""

    run: int
    name: str
    part: str
    points: Sequence[tuple[float, float]]


def results(runs: Sequence[Summary]) -> Html:
    """Return the table of figures on the test split: a row for each group of runs that differ in the seed alone."""
    grouped = groups(runs)
    known = {name for group in grouped for name in group.figures}
    columns = [(name, when) for name in FIGURES for when in PARTS if name + when in known]
    rows = []
    for group in grouped:
        runs_of = joined(*(element("span", {"class": "run-name"}, run.name) for run in group.runs))
        seeds = ", ".join(str(run.recipe.seed) for run in group.runs)
        best = (str(run.result.get("best_epoch", NOTHING)) if run.result else "not finished" for run in group.runs)
        found = [group.figures.get(name + when, ()) for name, when in columns]
        told = (" ± ".join(f"{part:.2f}" for part in figure if part is not None) or NOTHING for figure in found)
        rows.append([runs_of, seeds, *told, ", ".join(best)])
    figures = [joined(FIGURES[name], when and element("small", {}, PARTS[when])) for name, when in columns]
    header = ["Run", "Seed", *figures, "Best epoch"]
    spread = ", mean ± standard deviation over seeds (of the sample)" if len(grouped) < len(runs) else ""
    notes = dict.fromkeys(str(run.result["note"]) for run in runs if "note" in run.result)
    below = (paragraph(f"{note[:1].upper()}{note[1:]}.", "note") for note in notes)
    return joined(table(f"Test split, in percent{spread}", header, rows), *below)


def options(runs: Sequence[Summary]) -> Html:
    """Return the table of options: a column for each run, a row for each option that is listed for one of them."""
    rows = []
    for name in dict.fromkeys(chain(*(settings(run.recipe) for run in runs))):
        values = [run.option(name) for run in runs]
        label = element("code", {}, name)
        differs = len({value for value in values if value is not None}) > 1
        rows.append([element("strong", {}, label) if differs else label, *(value or NOTHING for value in values)])
    caption = "Options: the main ones, and all others that differ from the default in one of the runs"
    return table(caption, ["Option", *(run.name for run in runs)], rows, kind="settings")


def environment(runs: Sequence[Summary]) -> Html:
    """Return the table of where the runs were made: versions, commit, hardware, speed.

    The command is left out, since it contains a user's paths.
    """
    columns = []
    of_result = {"Device": "device", "Precision": "precision", "Images per second": "images_per_s"}
    for run in runs:
        known = run.environment
        hardware, versions = known.get("hardware") or {}, known.get("versions") or {}
        found = {"Started": known.get("started"), "Commit": str(known.get("commit") or "")[:12]}
        found |= {"Processor": hardware.get("processor"), "GPU": hardware.get("gpu")}
        found |= {name: run.result.get(entry) for name, entry in of_result.items()}
        found |= {"Python": known.get("python"), **versions}
        columns.append({str(name): str(value) for name, value in found.items() if value})
    rows = [[name, *(one.get(name, NOTHING) for one in columns)] for name in dict.fromkeys(chain(*columns))]
    return table("Where and when the runs were made", ["", *(run.name for run in runs)], rows, kind="settings")


def curves(runs: Sequence[Summary]) -> Html | None:
    """Return the charts of loss, accuracy and diagnostics, all runs overlaid; `None` if no run has an epoch."""
    epochs = [row["epoch"] for run in runs for row in run.metrics]
    overlaid = {title: _curves(runs, columns) for title, columns in CHARTS.items()}
    drawn = [chart(title, found, (min(epochs), max(epochs))) for title, found in overlaid.items() if found]
    if not drawn:
        return None
    keys = ((place, run.name, f"var(--run-{place % 10})") for place, run in enumerate(runs))
    label = element("span", {"class": "visually-hidden"}, "Show or hide the curves of a run:")
    return joined(legend("run", "Runs", keys, label, pressed=True), element("div", {"class": "charts"}, *drawn))


def _curves(runs: Sequence[Summary], columns: dict[str, str]) -> list[Curve]:
    """Return the curves of some columns; each has a name of its own where there are several."""
    found = []
    for number, run in enumerate(runs):
        for column, part in columns.items():
            points = [(row["epoch"], row[column]) for row in run.metrics if math.isfinite(row.get(column, math.nan))]
            if points:
                found.append(Curve(number, run.name, part, points))
    return found


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
    kind = "curve dashed" if curve.part == "teacher" else "curve"
    group = {"class": kind, "data-run": str(curve.run), "style": f"--c:var(--run-{curve.run % 10})"}
    named = {"points": points, "data-name": curve.name, "data-part": curve.part, "data-values": values}
    x, _, y = points.partition(",")
    dot = element("circle", {"cx": x, "cy": y, "r": 3.5}) if len(curve.points) == 1 else ""
    return element("g", group, element("polyline", named), dot)
