"""Pictures of a run."""

import io
import warnings
from pathlib import Path

from relgraph.analysis.colours import TEN
from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.printing import printable
from relgraph.training.runs import RunDirectory


def learning_curve(path: Path) -> Path:
    """Draw loss and accuracy of a run against its epochs into its `learning_curve.png`, and return that path.

    Raises:
        RelgraphError: if `path` is not a run, or has not finished an epoch.
    """
    from matplotlib.figure import Figure  # not pyplot, whose back end is the caller's choice
    from matplotlib.ticker import MaxNLocator

    run = RunDirectory.open(path)
    if not run.metrics_file.is_file():
        raise RelgraphError(f"{path} has no metrics.csv yet: it has not finished an epoch")
    rows = run.read_metrics()
    split = "test" if any(name.startswith("test_") for row in rows for name in row) else "val"
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    named = {"loss": "all terms"}
    if any(row.get("cross_entropy", 0) > 0 for row in rows):
        named["cross_entropy"] = "cross-entropy"
    called = "validation" if split == "val" else split
    accuracies = {"train_top1": "top-1, training, labelled images", f"{split}_top1": f"top-1, {called}"}
    accuracies |= {f"{split}_knn": f"k-NN on features, {called}", f"{split}_mAP": f"mAP of vectors, {called}"}
    panels = ("training loss", named), ("accuracy in %", accuracies)
    for axis, (label, curves) in zip(figure.subplots(1, 2), panels, strict=True):
        found = {name: [(row["epoch"], row[key]) for row in rows if key in row] for key, name in curves.items()}
        known = [(name, points) for name, points in found.items() if points]
        for (name, points), ink, line in zip(known, TEN, ("-", "--", "-.", ":"), strict=False):
            axis.plot(*zip(*points, strict=True), line, color=ink, marker=".", label=name)
        axis.set(xlabel="epoch", ylabel=label)
        axis.set_ylim(bottom=0, top=1.05 * axis.dataLim.ymax if axis.lines else None)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False)
    figure.suptitle(printable(path.name), parse_math=False)  # the name of a run is no formula
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font lacks some scripts
        figure.savefig(picture, format="png", dpi=120)
    write_atomically(run.curve_file, picture.getvalue())
    return run.curve_file
