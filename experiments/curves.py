"""Draw validation accuracy over epochs of every variant in files of compare.py: mean and range of the seeds.

python experiments/curves.py experiments/results/cifar100_quarter.json -o curves.png
"""

import json
from pathlib import Path

import click

from relgraph.analysis.colours import TEN

# Colour and line: either of them tells the curves apart.
STYLES = {"cross-entropy": (TEN[1], "--"), "dense": (TEN[0], "-"), "knn": (TEN[2], "-.")}
NAMES = {"cross-entropy": "cross-entropy alone", "dense": "+ EGA, all pairs", "knn": "+ EGA, nearest neighbours"}


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "out", required=True, type=click.Path(path_type=Path))
def main(files: tuple[Path, ...], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(files), 3.8), layout="constrained")
    for axes, file in zip(figure.subplots(1, len(files), squeeze=False)[0], files, strict=True):
        for name, runs in json.loads(file.read_text())["runs"].items():
            values = list(zip(*(run["curve"] for run in runs), strict=True))  # of each epoch, the seeds
            epochs, (ink, line) = range(1, len(values) + 1), STYLES.get(name, (None, ":"))
            label = f"{NAMES.get(name, name)} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
            axes.plot(epochs, [sum(v) / len(v) for v in values], line, label=label, color=ink)
            least, most = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(epochs, least, most, alpha=0.2, color=ink, linewidth=0)
        axes.set(xlabel="epoch", ylabel="validation top-1 in %", title=file.stem.replace("_", " "), ylim=(0, None))
        axes.legend(loc="lower right", frameon=False, handlelength=3)
        axes.grid(alpha=0.3)
    figure.supxlabel("lines: mean of the seeds; bands: from the lowest to the highest of them", fontsize=9)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
