"""The sections on all runs: options, results and learning curves."""

import math
from collections.abc import Sequence
from itertools import chain

from markupsafe import Markup

from relgraph.analysis.report.charts import Curve, chart
from relgraph.analysis.report.page import NOTHING, fill
from relgraph.analysis.report.summary import FIGURES, Summary, groups, settings

PARTS = {"": "", " best": "best epoch", " last": "last epoch"}
# The charts in order: title, then the columns of the metrics, each with its part of the chart.
CHARTS: dict[str, dict[str, str]] = {
    "Training loss": {"loss": ""},
    "Top-1 accuracy in %, training (labelled images)": {"train_top1": ""},
    "Top-1 accuracy in %, validation": {"val_top1": ""},
    "k-NN accuracy in %, validation": {"val_knn": ""},
    "mAP in %, validation": {"val_mAP": ""},
    "Top-1 accuracy in %, test": {"test_top1": ""},
    "k-NN accuracy in %, test": {"test_knn": ""},
    "mAP in %, test": {"test_mAP": ""},
    "Neighbour overlap": {"overlap": ""},
    "Rank correlation of edges": {"edge_rank": ""},
    "Node-match accuracy": {"match": ""},
    "Label homophily": {"homophily_student": "student", "homophily_teacher": "teacher"},
}


def results(runs: Sequence[Summary]) -> Markup:
    """Return the table of figures on the test split: a row for each group of runs that differ in the seed alone."""
    grouped = groups(runs)
    known = {name for group in grouped for name in group.figures}
    columns = [(name, when) for name in FIGURES for when in PARTS if name + when in known]
    rows = []
    for group in grouped:
        names = Markup().join(Markup('<span class="run-name">{}</span>').format(run.name) for run in group.runs)
        seeds = ", ".join(str(run.recipe.seed) for run in group.runs)
        best = (str(run.result.get("best_epoch", NOTHING)) if run.result else "not finished" for run in group.runs)
        found = [group.figures.get(name + when, ()) for name, when in columns]
        told = (" ± ".join(f"{part:.2f}" for part in figure if part is not None) or NOTHING for figure in found)
        rows.append([names, seeds, *told, ", ".join(best)])
    small = {when: Markup("<small>{}</small>").format(part) if part else "" for when, part in PARTS.items()}
    header = ["Run", "Seed", *(Markup("{}{}").format(FIGURES[name], small[when]) for name, when in columns)]
    spread = ", mean ± standard deviation over seeds (of the sample)" if len(grouped) < len(runs) else ""
    notes = list(dict.fromkeys(str(run.result["note"]) for run in runs if "note" in run.result))
    if len({run.tested_on for run in runs if run.tested_on is not None}) > 1:
        notes.append("the test images of these runs are not the same: their figures cannot be compared")
    caption = f"Test split, in percent{spread}"
    return fill("results.html", caption=caption, header=[*header, "Best epoch"], rows=rows, notes=notes)


def options(runs: Sequence[Summary]) -> Markup:
    """Return the table of options: a column for each run, a row for each option that is listed for one of them."""
    rows = []
    for name in dict.fromkeys(chain(*(settings(run.recipe) for run in runs))):
        values = [run.option(name) for run in runs]
        differs = len({value for value in values if value is not None}) > 1
        label = Markup("<strong><code>{}</code></strong>" if differs else "<code>{}</code>").format(name)
        rows.append([label, *(value or NOTHING for value in values)])
    caption = "Options: the main ones, and all others that differ from the default in one of the runs"
    return fill("options.html", caption=caption, header=["Option", *(run.name for run in runs)], rows=rows)


def environment(runs: Sequence[Summary]) -> Markup:
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
    caption = "Where and when the runs were made"
    return fill("options.html", caption=caption, header=["", *(run.name for run in runs)], rows=rows)


def curves(runs: Sequence[Summary]) -> Markup | None:
    """Return the charts of loss, accuracy and diagnostics, all runs overlaid; `None` if no run has an epoch."""
    epochs = [row["epoch"] for run in runs for row in run.metrics]
    overlaid = {title: _curves(runs, columns) for title, columns in CHARTS.items()}
    drawn = [chart(title, found, (min(epochs), max(epochs))) for title, found in overlaid.items() if found]
    return fill("curves.html", charts=drawn, runs=[run.name for run in runs]) if drawn else None


def _curves(runs: Sequence[Summary], columns: dict[str, str]) -> list[Curve]:
    """Return the curves of some columns; each has a name of its own where there are several."""
    found = []
    for number, run in enumerate(runs):
        for column, part in columns.items():
            points = [(row["epoch"], row[column]) for row in run.metrics if math.isfinite(row.get(column, math.nan))]
            if points:
                found.append(Curve(number, run.name, part, points))
    return found
