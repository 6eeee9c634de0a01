"""Pictures of a run."""

import io
from pathlib import Path

from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.training.runs import Run


def learning_curve(path: Path) -> Path:
    """Draw loss and accuracy of a run against its epochs into its `learning_curve.png`, and return that path.

    Raises:
        RelgraphError: if `path` is not a run, or has not finished an epoch.
    """
    from matplotlib.figure import Figure  # not pyplot, whose back end is the caller's affair
    from matplotlib.ticker import MaxNLocator

    run = Run.open(path)
    if not run.metrics_file.is_file():
        raise RelgraphError(f"{path} has no metrics.csv yet: it has not finished an epoch")
    rows = run.read_metrics()
    split = run.recipe().select
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    losses.plot(epochs, [row["loss"] for row in rows], marker=".", label="student, all terms")
    losses.plot(epochs, [row["cross_entropy"] for row in rows], marker=".", label="cross-entropy")
    losses.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    accuracies.plot(epochs, [row["train_top1"] for row in rows], marker=".", label="training, labelled images")
    accuracies.plot(
        epochs, [row[f"{split}_top1"] for row in rows], marker=".", label="validation" if split == "val" else split
    )
    accuracies.set(xlabel="epoch", ylabel="top-1 accuracy in %", ylim=(0, 101))
    for axis in (losses, accuracies):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(path.name)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(run.curve_file, picture.getvalue())
    return run.curve_file
