"""Draw validation accuracy over epochs of every variant in files of compare.py: mean and range of the seeds.

python experiments/curves.py experiments/results/cifar100_quarter.json -o curves.png
"""

import json
from pathlib import Path

import click

INK = {"cross-entropy": "#777777", "dense": "#1f77b4", "knn": "#d62728"}


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "out", required=True, type=click.Path(path_type=Path))
def main(files: tuple[Path, ...], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(files), 3.8), layout="constrained")
    for axes, file in zip(figure.subplots(1, len(files), squeeze=False)[0], files, strict=True):
        for name, runs in json.loads(file.read_text())["runs"].items():
            values = list(zip(*(run["curve"] for run in runs), strict=True))  # of each epoch, the seeds
            epochs, ink = range(1, len(values) + 1), INK.get(name)
            label = f"{name} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
            axes.plot(epochs, [sum(v) / len(v) for v in values], label=label, color=ink)
            axes.fill_between(epochs, [min(v) for v in values], [max(v) for v in values], alpha=0.2, color=ink)
        axes.set(xlabel="epoch", ylabel="validation top-1 in %", title=file.stem.replace("_", " "), ylim=(0, None))
        axes.legend(loc="lower right", frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
