"""The sections on all runs: results, how near they are to their teachers, options, learning curves, environment."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from markupsafe import Markup

from relgraph.analysis.report.charts import Curve, chart
from relgraph.analysis.report.page import NOTHING, fill, number, percent
from relgraph.analysis.report.summary import FIGURES, Group, Spread, Summary, settings
from relgraph.analysis.sources import title

PARTS = {"": "", " best": "best epoch", " last": "last epoch"}
SPLITS = {"val": "validation", "test": "test"}
BATCHES = "in training batches, as the loss reads them"
# The charts in order: title, then the columns of the metrics, each with its part of the chart.
CHARTS: dict[str, dict[str, str]] = {
    "Training loss": {"loss": ""},
    "Top-1 accuracy in %, training (labelled images)": {"train_top1": ""},
    "Pixel accuracy in %, training (labelled images)": {"train_pixel_accuracy": ""},
    **{
        f"{name} in %, {called}": {f"{split}_{column}": ""}
        for split, called in SPLITS.items()
        for column, name in {"top1": "Top-1 accuracy", "knn": "k-NN accuracy", "mAP": "mAP", "miou": "mIoU",
                             "overlap@8": "Neighbour overlap@8"}.items()
    },
    **{
        f"Label homophily in %, {called}": {f"{split}_homophily_{side}": side for side in ("student", "teacher")}
        for split, called in SPLITS.items()
    },
    f"Neighbour overlap@8 in %, {BATCHES}": {"batch_overlap": ""},
    f"Rank correlation of edges, {BATCHES}": {"batch_edge_rank": ""},
    f"Node match in %, {BATCHES}": {"batch_match": ""},
    f"Label homophily in %, {BATCHES}": {"batch_homophily_student": "student", "batch_homophily_teacher": "teacher"},
}  # fmt: skip
# The measures of the graphs: name, of what, and how its numbers are written.
MEASURES: dict[str, tuple[str, str, Callable[[float | None], str]]] = {
    "overlap": ("Overlap", "neighbours", percent),
    "edge_rank": ("Spearman", "edges", number),
    "pair_rank": ("Spearman", "all pairs", number),
    "match": ("Match", "nodes", percent),
    "homophily_student": ("Homophily", "student", percent),
    "homophily_teacher": ("Homophily", "teacher", percent),
    "nmi_teacher": ("NMI", "with the teacher's", number),
    "nmi_labels": ("NMI", "with labels", number),
}
HEADS = ("Run", "Data", "Seed")
EPOCHS = ("Epochs", "Student of epoch")
OVERLAP = (
    "overlap is the share of the teacher's nearest neighbours that are the student's too; edges are those of either "
    "graph, and one that a single network chose is strong there and weaker in the other, so that their rank "
    "correlation can be below 0; NMI compares the communities of the student's graph"
)
UNFINISHED = "runs that are not finished are measured by their best student so far"
BAND = "A line is the mean over the seeds of a recipe, its band one standard deviation (of the sample) to either side."
SAMPLED = (
    f"Neighbours on a split are sought among the same images in each epoch, at most 1,000, by {title('teacher')}; in a "
    "batch there are few images to choose from, so that more of them are shared."
)


def results(grouped: Sequence[Group], notes: Sequence[str] = ()) -> Markup:
    """Return the table of figures on the test split: a row for each group of runs that differ in the seed alone."""
    known = {name for group in grouped for name in group.figures}
    columns = [(name, when) for name in FIGURES for when in PARTS if name + when in known]
    header = [_two_lines(FIGURES[name], PARTS[when]) for name, when in columns]
    rows = []
    for group in grouped:
        done, shown = dict.fromkeys(run.epochs for run in group.runs), (run.shown or NOTHING for run in group.runs)
        told = (_figure(group.figures.get(name + when), _of_hundred) for name, when in columns)
        rows.append([*_heads(group), ", ".join(done), ", ".join(shown), *told])
    every = [run for group in grouped for run in group.runs]
    of_results = dict.fromkeys(str(run.result["note"]) for run in every if "note" in run.result)
    caption, every_note = f"Test split{_over_seeds(grouped)}", [*of_results, *_apart(grouped), *notes]
    return fill("results.html", caption=caption, header=[*HEADS, *EPOCHS, *header], rows=rows, notes=every_note)


def nearness(grouped: Sequence[Group]) -> Markup | None:
    """Return a sentence for each data set on which run is nearest to its teacher; `None` where nothing is compared."""
    by_data = (list(members) for _, members in groupby(_measured(grouped), key=lambda group: group.runs[0].data))
    told = list(filter(None, map(_nearest, by_data)))
    return fill("nearness.html", told=told) if told else None


def measures(grouped: Sequence[Group]) -> Markup | None:
    """Return the table of how near runs are to their teachers; `None` with fewer than two measured runs."""
    measured = _measured(grouped)
    found = [run.measured for group in measured for run in group.runs if run.measured is not None]
    if len(found) < 2:
        return None
    columns = [name for name in MEASURES if any(name in group.graph for group in measured)]
    rows = [[group.name, *_heads(group)[1:], *(_figure(group.graph.get(name), MEASURES[name][2]) for name in columns)]
            for group in measured]  # fmt: skip
    sources = dict.fromkeys(title(one.source) for one in found if one.source != "student")
    told = f"The teacher's graphs: {' or '.join(sources) or 'none'}; {', '.join(dict.fromkeys(_images(measured)))}"
    unfinished = any(not run.finished for group in measured for run in group.runs)
    notes = [OVERLAP, *([UNFINISHED] if unfinished else []), *_apart(measured)]
    header = [*HEADS, *(_two_lines(*MEASURES[name][:2]) for name in columns)]
    return fill("results.html", caption=f"{told}{_over_seeds(measured)}", header=header, rows=rows, notes=notes)


def _measured(grouped: Sequence[Group]) -> list[Group]:
    return [group for group in grouped if group.graph]


def _apart(grouped: Sequence[Group]) -> list[str]:
    """Return what is to be said where not all runs are on the same data."""
    told = "figures of runs on different data, or on different test images, cannot be compared"
    return [told] if len({group.runs[0].data for group in grouped}) > 1 else []


def _images(measured: Sequence[Group]) -> Iterator[str]:
    """Yield on how many images of which split graphs were measured, by data set."""
    for run in (run for group in measured for run in group.runs):
        if run.measured is not None:
            yield f"{run.measured.images:,} images of {run.data_name} ({run.measured.split} split)"


def _nearest(measured: Sequence[Group]) -> str | None:
    """Return a sentence on which of the finished runs on the same data has most of its teacher's neighbours."""
    known = [group for group in measured if "overlap" in group.graph and group.runs[0].finished]
    if len(known) < 2:
        return None
    first, second, *_ = sorted(known, key=lambda group: -group.graph["overlap"].mean)
    one, other = first.graph["overlap"], second.graph["overlap"]
    widest = max(one.deviation or 0.0, other.deviation or 0.0)
    if one.deviation is None or other.deviation is None:
        apart = "with a single seed the difference may be chance"
    else:
        more = "more" if one.mean - other.mean > widest else "no more"
        apart = f"they are {more} apart than one standard deviation over seeds"
    return (
        f"On {first.runs[0].data_name}, {first.name} is nearest to its teacher: it shares {_counted(one)} of the "
        f"teacher's neighbours, {second.name} {_counted(other)}; {apart}."
    )


def _counted(figure: Spread) -> str:
    return f"{_figure(figure, percent)} (n = {figure.runs})"


def _heads(group: Group) -> list[Any]:
    names = Markup().join(Markup('<span class="run-name">{}</span>').format(run.name) for run in group.runs)
    seeds = ", ".join(str(run.recipe.seed) for run in group.runs)
    return [names, group.runs[0].data_name, f"{seeds} (n = {len(group.runs)})" if len(group.runs) > 1 else seeds]


def _two_lines(name: str, part: str) -> Markup:
    return Markup("{}<small>{}</small>").format(name, part) if part else Markup("{}").format(name)


def _figure(figure: Spread | None, written: Callable[[float | None], str]) -> str:
    """Return a mean, with its deviation if there is one; a unit stands once."""
    if figure is None or figure.deviation is None:
        return written(None if figure is None else figure.mean)
    value, deviation = written(figure.mean), written(figure.deviation)
    return f"{value.removesuffix('%').rstrip()} ± {deviation}"


def _of_hundred(value: float | None) -> str:
    return percent(None if value is None else value / 100)


def _over_seeds(grouped: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in grouped)
    return ", mean ± standard deviation over seeds (of the sample)" if several else ""


def options(runs: Sequence[Summary]) -> Markup:
    """Return the table of options: a column for each run, a row for each option that is listed for one of them.

    Those in which runs differ come first.
    """
    names = dict.fromkeys(chain(*(settings(run.recipe) for run in runs)))
    values = {name: [run.option(name) for run in runs] for name in names}
    differing = {name for name in names if len({*values[name]}) > 1}
    rows = []
    for name in sorted(names, key=lambda name: name not in differing):
        label = Markup("<strong><code>{}</code></strong>" if name in differing else "<code>{}</code>").format(name)
        rows.append([label, *(value or NOTHING for value in values[name])])
    caption = "Options: the main ones, and all others that differ from the default in one of the runs"
    return fill("options.html", caption=caption, header=["Option", *(run.name for run in runs)], rows=rows)


def environment(runs: Sequence[Summary]) -> Markup:
    """Return the table of where the runs were made: versions, commit, hardware, speed.

    The command is left out, since it contains a user's paths.
    """
    columns = []
    for run in runs:
        known = run.environment
        hardware, versions = known.get("hardware") or {}, known.get("versions") or {}
        found: dict[str, Any] = {
            "Started": _minute(str(known.get("started") or "")),
            "Commit": str(known.get("commit") or "")[:12],
        }
        found |= {"Processor": hardware.get("processor"), "GPU": hardware.get("gpu")}
        found |= {"Device": run.result.get("device"), "Precision": run.result.get("precision")}
        speed = run.result.get("images_per_s")
        found |= {"Images per second": f"{speed:,.0f}" if isinstance(speed, int | float) else None}
        found |= {"Python": known.get("python"), **versions}
        columns.append({str(name): str(value) for name, value in found.items() if value})
    rows = [[name, *(one.get(name, NOTHING) for one in columns)] for name in dict.fromkeys(chain(*columns))]
    caption = "Where and when the runs were made"
    return fill("options.html", caption=caption, header=["", *(run.name for run in runs)], rows=rows)


def _minute(time: str) -> str:
    """Return a time as ISO 8601 writes it, to the minute.

    >>> _minute("2026-11-29T14:17:37+00:00")
    '2026-11-29 14:17 UTC'
    """
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*?(\+00:00)?$", lambda m: " ".join(
        [m[1], m[2], *(["UTC"] if m[3] else [])]), time)  # fmt: skip


def curves(grouped: Sequence[Group]) -> Markup | None:
    """Return the charts of loss, accuracy and diagnostics, runs on the same data overlaid; `None` without an epoch."""
    numbered = [(place, group) for place, group in enumerate(grouped) if any(run.metrics for run in group.runs)]
    if not numbered:
        return None
    by_data = [list(part) for _, part in groupby(numbered, key=lambda one: one[1].runs[0].data)]
    drawn = [(part[0][1].runs[0].data_name if len(by_data) > 1 else "", _charts(part)) for part in by_data]
    columns = {column for _, group in numbered for run in group.runs for row in run.metrics for column in row}
    notes = [BAND] if any(len(group.runs) > 1 for group in grouped) else []
    notes += [SAMPLED] if any("overlap@8" in column for column in columns) else []
    return fill("curves.html", drawn=drawn, names=[(place, group.label) for place, group in numbered], notes=notes)


def _charts(numbered: Sequence[tuple[int, Group]]) -> list[Markup]:
    epochs = [row["epoch"] for _, group in numbered for run in group.runs for row in run.metrics]
    overlaid = {title: _curves(numbered, columns) for title, columns in CHARTS.items()}
    return [chart(title, found, (min(epochs), max(epochs)), _counted_edges(numbered, CHARTS[title]),
                  most=100 if "in %" in title else math.inf) for title, found in overlaid.items() if found]  # fmt: skip


def _curves(numbered: Sequence[tuple[int, Group]], columns: dict[str, str]) -> list[Curve]:
    """Return the curves of some columns; each has a name of its own where there are several."""
    found = []
    for place, group in numbered:
        for column, part in columns.items():
            points = {epoch: one for epoch, one in group.curve(column).items() if math.isfinite(one.mean)}
            if points:
                found.append(Curve(place, group.label, part, [(epoch, one.mean) for epoch, one in points.items()],
                                   [one.deviation for one in points.values()]))  # fmt: skip
    return found


def _counted_edges(numbered: Sequence[tuple[int, Group]], columns: dict[str, str]) -> str:
    """Return how many edges a homophily in batches is of: with few labels they are few."""
    if "batch_homophily_student" not in columns:
        return ""
    column = "batch_homophily_edges"
    counts = [row[column] for _, group in numbered for run in group.runs for row in run.metrics if column in row]
    fewest, most = (f"{round(count(counts, default=0)):,}" for count in (min, max))
    told = fewest if fewest == most else f"{fewest} to {most}"
    return f"of the {told} edges an epoch that were measured and whose both ends have a label"
