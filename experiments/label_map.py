"""When does a teacher help, and how much? Accuracy against the share of labels, a line a method.

    relgraph embed --views 4 ...              # dataset and teacher as in experiments/cifar100_label_map.yaml
    python experiments/label_map.py --config experiments/cifar100_label_map.yaml --minutes 150
    python experiments/label_map.py --draw experiments/results/label_map.png

Every run has the same images, epochs, batches, optimiser and schedule; an epoch passes once through the images without
a label, so that all have as many steps. First each method trains with its published weights. Then it gets one other
weight: of TRIALS factors the one that is best on validation images at a tenth of the labels (seed 0), as many trials
for every method; of the student alone they are factors of its learning rate. The test images are read once, after the
last epoch. "CSD, then labels" trains three quarters of the epochs without labels and is fine-tuned with them for the
rest. The script may be stopped: the same command goes on, and reads what is there.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch

from compare import trained
from relgraph.analysis.colours import TEN
from relgraph.analysis.run_loading import TrainedRun
from relgraph.files import read_yaml, write_atomically
from relgraph.methods import METHODS as CLASSES
from relgraph.training.evaluation import linear_probe
from relgraph.training.runs import RunDirectory, environment

METHODS: dict[str, dict[str, Any]] = {
    "alone": {"method": "none"},
    "KD, trained head": {"method": "kd", "beta": 0.9, "gamma": 0.1, "teacher_head": "sequential"},
    "EGA": {"method": "ega"},
    "EGA, nodes": {"method": "ega", "edge_weight": 0.0},
    "EGA, edges": {"method": "ega", "node_weight": 0.0},
    "EGA, 8 neighbours": {"method": "ega", "graph": "knn", "k": 8},
    "RKD": {"method": "rkd"},
    "CSD, then labels": {"method": "csd", "gamma": 0.0},
}
SEEDS = {1.0: 2, 0.1: 3, 0.01: 2}  # of each share of labels
TRIALS = (0.3, 3.0)
TRIED = 0.1  # share of labels at which weights are tried
FIRST = 0.75  # of the epochs, where labels come after the method
Runs = dict[str, dict[str, Any]]


def tasks(methods: list[str], shares: list[float]) -> Iterator[tuple[str, float, int, float]]:
    """Yield method, share of labels, seed and factor of the weight: published ones first, then trials."""
    for seed in range(max(SEEDS.values())):
        yield from ((name, share, seed, 1.0) for share in shares if seed < SEEDS[share] for name in methods)
    yield from ((name, TRIED, 0, factor) for factor in TRIALS for name in methods if TRIED in shares)


def key_of(name: str, share: float, seed: int, factor: float) -> str:
    return f"{name}, {100 * share:g} % of the labels, seed {seed}, weight x {factor:g}"


def options_of(options: dict[str, Any], name: str, share: float, seed: int, factor: float) -> dict[str, Any]:
    """Return the options of one run."""
    own = {**options, **METHODS[name], "label_fraction": share, "seed": seed, "select": "last"}
    if name == "alone":
        return {**own, "lr": factor * options.get("lr", 0.05)}
    return own if factor == 1.0 else {**own, "beta": factor * own.get("beta", CLASSES[own["method"]].weight)}


def one_run(options: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the figures of one run; of a method without labels those after it was fine-tuned with them."""
    if options.get("gamma") == 0.0:
        epochs, share = round(FIRST * options["epochs"]), options["label_fraction"]
        # An epoch without labels goes once through all images, one with them through those that have none.
        longer = 1.0 if share == 1 else (1 - share) / (1 - options.get("labelled_share", 0.5))
        trained({**options, "epochs": round(longer * epochs)}, path / "first")
        rest = {name: value for name, value in options.items() if name not in ("gamma", "beta")}
        options = {**rest, "method": "none", "epochs": options["epochs"] - epochs, "init_from": str(path / "first")}
        path = path / "labels"
    result = trained(options, path)
    curve = [row["val_top1"] for row in RunDirectory(path).read_metrics()]
    return {"test_top1": result["test"]["last"]["top1"], "val_top1": curve[-1], "curve": curve, "run": str(path),
            "images_per_s": result["images_per_s"]}  # fmt: skip


def chosen(runs: Runs, methods: list[str]) -> dict[str, float]:
    """Return the factor of each method that is best on validation images, of those methods that had every trial."""
    found = {}
    for name in methods:
        tried = {factor: runs.get(key_of(name, TRIED, 0, factor)) for factor in (1.0, *TRIALS)}
        known = {factor: run["val_top1"] for factor, run in tried.items() if run is not None}
        if len(known) == len(tried):
            found[name] = max(known, key=lambda factor: known[factor])
    return found


def probes(runs: Runs, shares: list[float]) -> dict[str, float]:
    """Return the accuracy of a logistic regression on the frozen teacher's own vectors, with EGA's labels."""
    vectors: torch.Tensor | None = None
    found = {}
    for share in shares:
        for seed in range(SEEDS[share]):
            if (done := runs.get(key_of("EGA", share, seed, 1.0))) is None:
                continue
            run = TrainedRun(Path(done["run"]))
            train, test = run.images("train"), run.images("test")
            learned = train.select(train.labels >= 0)
            vectors = run.vectors(test)[1] if vectors is None else vectors
            own = run.vectors(learned)[1]
            assert own is not None and vectors is not None
            found[f"{share:g}, {seed}"] = linear_probe(own, learned.labels, vectors, test.labels)
    return found


def summary(runs: Runs, methods: list[str], shares: list[float], factors: dict[str, float]) -> dict[str, Any]:
    """Return mean and deviation over seeds of each method at each share, with published and with chosen weights."""
    table: dict[str, Any] = {}
    for name in methods:
        for title, factor in (("published", 1.0), ("chosen", factors.get(name, 1.0))):
            for share in shares:
                keys = [key_of(name, share, seed, factor) for seed in range(SEEDS[share])]
                values = [runs[key]["test_top1"] for key in keys if key in runs]
                if values:
                    deviation = round(stdev(values), 2) if len(values) > 1 else None
                    row = {"mean": round(mean(values), 2), "deviation": deviation, "n": len(values)}
                    table.setdefault(name, {}).setdefault(title, {"factor": factor})[f"{share:g}"] = row
    return table


def draw(report: dict[str, Any], file: Path) -> None:
    """Draw accuracy against the share of labels, mean and range of the seeds, and the curves of EGA's two terms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = [float(share) for share in report["shares"]]
    for number, name in enumerate(report["summary"]):
        found = [[report["runs"][key]["test_top1"] for seed in range(SEEDS[share])
                  if (key := key_of(name, share, seed, 1.0)) in report["runs"]] for share in shares]  # fmt: skip
        known = [(100 * share, values) for share, values in zip(shares, found, strict=True) if values]
        x, ink, line = [at for at, _ in known], TEN[number % len(TEN)], ("-", "--", "-.")[number % 3]
        left.plot(x, [mean(values) for _, values in known], line, marker="o", label=name, color=ink)
        left.fill_between(x, [min(v) for _, v in known], [max(v) for _, v in known], alpha=0.15, color=ink, lw=0)
        key = key_of(name, shares[0], 0, 1.0)
        if name in ("alone", "EGA", "EGA, nodes", "EGA, edges") and key in report["runs"]:
            curve = report["runs"][key]["curve"]
            right.plot(range(1, len(curve) + 1), curve, line, label=name, color=ink)
    by_share = {share: [value for key, value in report["probes"].items() if key.startswith(f"{share:g}, ")]
                for share in shares}  # fmt: skip
    probed = [(100 * share, mean(values)) for share, values in by_share.items() if values]
    left.plot([x for x, _ in probed], [y for _, y in probed], ":", color="black", label="the teacher's linear probe")
    left.set(xscale="log", xlabel="labels in %", ylabel="test top-1 in %", title="bands: lowest to highest seed")
    right.set(xlabel="epoch", ylabel="validation top-1 in %", title=f"{100 * shares[0]:g} % of the labels, seed 0")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, handlelength=3)
    figure.savefig(file, dpi=120)


@click.command(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), help="Options of relgraph train, as a YAML file.")
@click.option("--methods", default=":".join(METHODS), help="Names with colons between.")
@click.option("--shares", default="1,0.1,0.01", show_default=True)
@click.option("--epochs", default=40, show_default=True, type=click.IntRange(min=4))
@click.option("--minutes", default=600.0, show_default=True, help="No run is begun after that many.")
@click.option("--runs", "folder", default="runs/label-map", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", default="experiments/results/label_map.json", type=click.Path(path_type=Path))
@click.option("--draw", "picture", type=click.Path(path_type=Path), help="Draw what is there, and train nothing.")
def main(config: Path | None, methods: str, shares: str, epochs: int, minutes: float, folder: Path, out: Path,
         picture: Path | None) -> None:  # fmt: skip
    if picture is not None:
        draw(json.loads(out.read_text()), picture)
        return
    end, options = time.monotonic() + 60 * minutes, {} if config is None else read_yaml(config)
    options |= {"epochs": epochs, "schedule": "cosine", "schedule_by": "step"}
    names, numbers, found = methods.split(":"), [float(share) for share in shares.split(",")], Runs()
    todo, report = list(tasks(names, numbers)), dict[str, Any]()
    while todo and time.monotonic() < end:
        name, share, seed, factor = todo.pop(0)
        key = key_of(name, share, seed, factor)
        path = folder / key.replace(", ", "-").replace(" ", "_").replace("%", "percent")
        found[key] = one_run(options_of(options, name, share, seed, factor), path)
        factors = chosen(found, names)
        if not todo:  # with the chosen weights, where they are not the published ones
            more = [(n, s, i, f) for n, f in factors.items() for s in numbers for i in range(SEEDS[s])]
            todo = [task for task in more if key_of(*task) not in found]
        report |= {"environment": environment(0), "options": options, "methods": METHODS, "shares": numbers,
                   "factors": factors, "probes": {}, "summary": summary(found, names, numbers, factors),
                   "runs": found}  # fmt: skip
        write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
        click.echo(f"{key}: {found[key]['test_top1']:.2f} %")
    click.echo("the time is over; the same command goes on" if todo else "all runs are there")
    report["probes"] = probes(found, numbers)
    write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
