"""When does a teacher help, and how much? Accuracy against the share of labels, a line a method.

    relgraph embed --views 4 ...              # dataset and teacher as in experiments/cifar100_label_map.yaml
    python experiments/label_map.py --config experiments/cifar100_label_map.yaml --minutes 150
    python experiments/label_map.py --draw experiments/results/label_map.png

Every run has the same images, epochs, batches, optimiser and schedule, but the teacher's head of EGA on neighbours in
the data set a smaller learning rate; an epoch passes once through the images without a label, so that all have as many
steps. First each method trains with its published weights. Then it gets one other weight: of TRIALS factors the one
that is best on validation images at a tenth of the labels (seed 0), as many trials for every method; of the student
alone they are factors of its learning rate. The test images are read once, after the last epoch.

"CSD, then labels" trains three quarters of the epochs without labels and is fine-tuned with them for the rest. Of
neighbours in the data set a batch of 64 has some seven images, with 8 neighbours each: there are a ninth of the epochs,
so that no more images pass through the student.

Last, where labels are wrong: NOISE of them at TRIED of the labels, the student alone, KD and SSKD. SSKD's teacher runs
in every step, on four views an image: these runs have --noisy-epochs, all of them, and SSKD's head half as many.

The script may be stopped at any time, and stops by itself after --minutes: the same command goes on. A run that is
whole is read, one that is half done is resumed; by --minutes or SIGTERM after the step that ran, by Ctrl-C after the
last epoch. KD first trains the teacher's head, where --minutes is not read.
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor

from compare import known, trained
from labels import trained_head
from relgraph import Callback
from relgraph.analysis.colours import TEN
from relgraph.analysis.run_loading import TrainedRun
from relgraph.files import read_yaml, replacing, write_atomically
from relgraph.methods import METHODS as CLASSES
from relgraph.training.callbacks import StepEnd
from relgraph.training.evaluation import linear_probe
from relgraph.training.runs import RunDirectory, environment
from relgraph.training.stopping import Stopped

METHODS: dict[str, dict[str, Any]] = {
    "alone": {"method": "none"},
    "KD, trained head": {"method": "kd", "beta": 0.9, "gamma": 0.1, "teacher_head": "sequential"},
    # Weight and temperature of logit standardisation as published (Sun et al., 2024).
    "KD standardised, fitted head": {
        "method": "kd",
        "method_args": ["standardise=true"],
        "beta": 9.0,
        "temperature": 2.0,
        "gamma": 0.1,
        "teacher_head": "fitted",
    },
    "EGA": {"method": "ega"},
    "EGA, nodes": {"method": "ega", "edge_weight": 0.0},
    "EGA, edges": {"method": "ega", "node_weight": 0.0},
    "EGA, 8 neighbours": {"method": "ega", "graph": "knn", "k": 8},
    # A batch has seven seeds here, and few labels among them: at larger rates the teacher's head diverged (README.md).
    "EGA, 8 of the data set": {"method": "ega", "scope": "dataset", "k": 8, "teacher_lr": 0.001},
    "RKD": {"method": "rkd"},
    # Against the teacher's own vectors: a projection would be learned with the labels.
    "CSD, then labels": {"method": "csd", "gamma": 0.0, "target_space": "teacher"},
}
SEEDS = {1.0: 2, 0.1: 3, 0.01: 2}  # of each share of labels
TRIALS = (0.3, 3.0)
TRIED = 0.1  # share of labels at which weights are tried
FIRST = 0.75  # of the epochs, where labels come after the method
NOISY: dict[str, dict[str, Any]] = {
    "alone": METHODS["alone"],
    "KD, trained head": METHODS["KD, trained head"],
    "SSKD": {"method": "sskd"},
}
NOISE, NOISY_SEEDS = 0.3, 4


class Run(NamedTuple):
    """One run: of a method, at a share of labels, with a seed, a factor of the weight, and a share of wrong labels."""

    name: str
    share: float
    seed: int
    factor: float = 1.0
    noise: float = 0.0

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        wrong = f"{100 * self.noise:g} % of them wrong, " if self.noise else ""
        return f"{self.name}, {100 * self.share:g} % of the labels, {wrong}seed {self.seed}, weight x {self.factor:g}"

    def options(self, given: dict[str, Any], noisy_epochs: int) -> dict[str, Any]:
        """Return its options, those of the configuration among them."""
        method = NOISY[self.name] if self.noise else METHODS[self.name]
        own = {**given, **method, "label_fraction": self.share, "seed": self.seed, "select": "last"}
        if self.noise:
            return {**own, "label_noise": self.noise, "epochs": noisy_epochs}
        if self.name == "alone":
            return {**own, "lr": self.factor * given.get("lr", 0.05)}
        if own.get("scope") == "dataset":
            own["epochs"] = max(1, given["epochs"] // (own["k"] + 1))
        return (
            own if self.factor == 1.0 else {**own, "beta": self.factor * own.get("beta", CLASSES[own["method"]].weight)}
        )


Runs = dict[str, dict[str, Any]]


class Until(Callback):
    """Asks a training to stop after the step that runs, once the time is over; a checkpoint holds all of it."""

    def __init__(self, end: float) -> None:
        self.end = end

    def after_step(self, end: StepEnd) -> None:
        """Look at the clock."""
        if time.monotonic() > self.end:
            signal.raise_signal(signal.SIGTERM)


def tasks(methods: list[str], shares: list[float]) -> Iterator[Run]:
    """Yield the runs: published weights first, then trials of others, then wrong labels."""
    for seed in range(max(SEEDS.values())):
        yield from (Run(name, share, seed) for share in shares if seed < SEEDS[share] for name in methods)
    if TRIED in shares:
        yield from (Run(name, TRIED, 0, factor) for factor in TRIALS for name in methods)


def noisy() -> Iterator[Run]:
    """Yield the runs where labels are wrong."""
    yield from (Run(name, TRIED, seed, noise=NOISE) for seed in range(NOISY_SEEDS) for name in NOISY)


def one_run(options: dict[str, Any], path: Path, clock: Callback) -> dict[str, Any]:
    """Return the figures of one run; of a method without labels those after it was fine-tuned with them."""
    if options.get("gamma") == 0.0:
        epochs, share = round(FIRST * options["epochs"]), options["label_fraction"]
        # An epoch without labels goes once through all images, one with them through those that have none.
        longer = 1.0 if share == 1 else (1 - share) / (1 - options.get("labelled_share", 0.5))
        trained({**options, "epochs": round(longer * epochs)}, path / "first", [clock])
        rest = {name: value for name, value in options.items() if name not in ("gamma", "beta", "target_space")}
        options = {**rest, "method": "none", "epochs": options["epochs"] - epochs, "init_from": str(path / "first")}
        path = path / "labels"
    result = trained(options, path, [clock])
    curve = [row["val_top1"] for row in RunDirectory(path).read_metrics()]
    return {"test_top1": result["test"]["last"]["top1"], "val_top1": curve[-1], "curve": curve, "run": str(path),
            "images_per_s": result["images_per_s"], "precision": result["precision"]}  # fmt: skip


def chosen(runs: Runs, methods: list[str]) -> dict[str, float]:
    """Return the factor of each method that is best on validation images, of those methods that had every trial."""
    found = {}
    for name in methods:
        tried = {factor: runs.get(Run(name, TRIED, 0, factor).key) for factor in (1.0, *TRIALS)}
        scores = {factor: run["val_top1"] for factor, run in tried.items() if run is not None}
        if len(scores) == len(tried):
            found[name] = max(scores, key=lambda factor: scores[factor])
    return found


def teacher_vectors(run: TrainedRun, file: Path) -> dict[str, Tensor]:
    """Return the frozen teacher's own vectors, once for all runs of a folder: its pass over all images takes minutes.

    Those of training and validation images, which each seed divides otherwise, are sorted by `index`.
    """
    if not file.exists():
        every = run.images("all")
        vectors, tested = run.vectors(every)[1], every.masks["test_mask"]
        assert vectors is not None
        index, order = every.index[~tested].sort()
        with replacing(file) as part:
            torch.save({"train": vectors[~tested][order], "index": index, "test": vectors[tested]}, part)
    kept: dict[str, Tensor] = torch.load(file)
    return kept


def probe(path: Path, file: Path) -> float:
    """Return the accuracy of a logistic regression on the frozen teacher's own vectors, with the labels of a run."""
    run = TrainedRun(path)
    train, test, kept = run.images("train"), run.images("test"), teacher_vectors(run, file)
    learned = train.select(train.labels >= 0)
    own = kept["train"][torch.searchsorted(kept["index"], learned.index)]
    return linear_probe(own, learned.labels, kept["test"], test.labels)


def figures(runs: Runs, run: Run, what: str = "test_top1") -> list[float]:
    """Return a figure of all seeds of a run of which it is there."""
    keys = [run._replace(seed=seed).key for seed in range(max(NOISY_SEEDS, *SEEDS.values()))]
    return [runs[key][what] for key in keys if what in runs.get(key, {})]


def summary(runs: Runs, methods: list[str], shares: list[float], factors: dict[str, float]) -> dict[str, Any]:
    """Return mean and deviation over seeds of each method at each share: weights published, chosen, labels wrong."""
    rows = [(name, title, {"factor": factor}, {f"{share:g}": Run(name, share, 0, factor) for share in shares})
            for name in methods for title, factor in (("published", 1.0), ("chosen", factors.get(name)))
            if factor is not None]  # fmt: skip
    wrong = f"{NOISE:g} of the labels wrong"
    rows += [(name, wrong, {}, {f"{TRIED:g}": Run(name, TRIED, 0, noise=NOISE)}) for name in NOISY]
    table: dict[str, Any] = {}
    for name, title, facts, cells in rows:
        found = {share: values for share, run in cells.items() if (values := figures(runs, run))}
        if found:
            table.setdefault(name, {})[title] = facts | {
                share: {"mean": round(mean(values), 2), "n": len(values),
                        "deviation": round(stdev(values), 2) if len(values) > 1 else None}
                for share, values in found.items()
            }  # fmt: skip
    return table


def markdown(report: dict[str, Any]) -> str:
    """Return the summary as a table: test top-1 in %, mean +- standard deviation (number of seeds)."""
    shares = [f"{share:g}" for share in report["shares"]]
    lines = ["| method | weight | " + " | ".join(f"{100 * float(share):g} % of the labels" for share in shares) + " |",
             "|---" * (2 + len(shares)) + "|"]  # fmt: skip
    for name, weights in report["summary"].items():
        for title, row in weights.items():
            told = ["" if cell is None else f"{cell['mean']:.1f}{_deviation(cell['deviation'])} ({cell['n']})"
                    for cell in map(row.get, shares)]  # fmt: skip
            factor = f"{title} x {row['factor']:g}" if title == "chosen" else title
            lines.append(f"| {name} | {factor} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def _deviation(value: float | None) -> str:
    return "" if value is None else f" +- {value:.1f}"


def draw(report: dict[str, Any], file: Path) -> None:
    """Draw accuracy against the share of labels, mean and range of the seeds, and the curves of EGA's two terms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares, runs = [float(share) for share in report["shares"]], report["runs"]
    names = [name for name, weights in report["summary"].items() if "published" in weights]
    for number, name in enumerate(names):
        known = [(100 * share, values) for share in shares if (values := figures(runs, Run(name, share, 0)))]
        x, ink, line = [at for at, _ in known], TEN[number % len(TEN)], ("-", "--", "-.")[number % 3]
        left.plot(x, [mean(values) for _, values in known], line, marker="o", label=name, color=ink)
        left.fill_between(x, [min(v) for _, v in known], [max(v) for _, v in known], alpha=0.15, color=ink, lw=0)
        key = Run(name, shares[0], 0).key
        if name in ("alone", "EGA", "EGA, nodes", "EGA, edges") and key in runs:
            curve = runs[key]["curve"]
            right.plot(range(1, len(curve) + 1), curve, line, label=name, color=ink)
    probed = [(100 * share, mean(values)) for share in shares
              if (values := figures(runs, Run("EGA", share, 0), "teacher_probe"))]  # fmt: skip
    if probed:
        left.plot(*zip(*probed, strict=True), ":", marker="x", color="black", label="the teacher's linear probe")
    left.set(
        xscale="log",
        xlabel="labels in %",
        ylabel="test top-1 in %",
        title="band: lowest to highest seed, where there are several",
    )
    right.set(xlabel="epoch", ylabel="validation top-1 in %", title=f"{100 * shares[0]:g} % of the labels, seed 0")
    left.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    left.minorticks_off()
    for axes, beside in ((left, {"loc": "upper left", "bbox_to_anchor": (1, 1)}), (right, {"loc": "lower right"})):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, handlelength=3, **beside)
    figure.savefig(file, dpi=120)


def remaining(found: Runs, methods: list[str], shares: list[float], noisy_epochs: int) -> list[Run]:
    """Return the runs that are not there: with published weights, in trials, with the chosen ones, with wrong labels.

    Those with chosen weights are known once all trials are there.
    """
    first = list(tasks(methods, shares))
    more = [Run(name, share, seed, factor) for name, factor in chosen(found, methods).items() for share in shares
            for seed in range(SEEDS[share])]  # fmt: skip
    last = list(noisy()) if noisy_epochs else []
    todo = [run for run in first if run.key not in found]
    return todo or [run for run in dict.fromkeys([*more, *last]) if run.key not in found]


@click.command(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), help="Options of relgraph train, as a YAML file.")
@click.option("--methods", default=":".join(METHODS), help="Names with colons between; '' for wrong labels alone.")
@click.option("--shares", default="1,0.1,0.01", show_default=True)
@click.option("--epochs", default=40, show_default=True, type=click.IntRange(min=4))
@click.option("--noisy-epochs", default=4, show_default=True, type=click.IntRange(min=0), help="0: no wrong labels.")
@click.option("--precision", help="In place of the configuration's, on a processor without bf16; a run tells its own.")
@click.option("--minutes", default=600.0, show_default=True, help="The script stops after that many.")
@click.option("--runs", "folder", default="runs/label-map", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", default="experiments/results/label_map.json", type=click.Path(path_type=Path))
@click.option("--draw", "picture", type=click.Path(path_type=Path), help="Draw and print what is there; no training.")
def main(config: Path | None, methods: str, shares: str, epochs: int, noisy_epochs: int, precision: str | None,
         minutes: float, folder: Path, out: Path, picture: Path | None) -> None:  # fmt: skip
    if picture is not None:
        report = json.loads(out.read_text(encoding="utf-8"))
        draw(report, picture)
        click.echo(markdown(report))
        return
    end, options = time.monotonic() + 60 * minutes, {} if config is None else read_yaml(config)
    options |= {"epochs": epochs, "schedule": "cosine", "schedule_by": "step"}
    names, of_text = [name for name in methods.split(":") if name], {f"{share:g}": share for share in SEEDS}
    if unknown := [*(set(names) - METHODS.keys()), *(set(shares.split(",")) - of_text.keys())]:
        told = f"methods of {', '.join(map(repr, METHODS))} and shares of {', '.join(of_text)}"
        raise click.UsageError(f"expected {told}, got {unknown[0]!r}")
    numbers = [of_text[share] for share in shares.split(",")]
    told = {"options": options, "noisy_epochs": noisy_epochs, "methods": METHODS, "noisy": NOISY}
    found: Runs = known(out, told)
    if precision is not None:  # after what is told: those of another precision stand beside the others
        options = {**options, "precision": precision}
    try:
        while (todo := remaining(found, names, numbers, noisy_epochs)) and time.monotonic() < end:
            run = todo[0]
            own = run.options(options, noisy_epochs)
            if own["method"] == "sskd":
                own["ss_head"] = trained_head(options, max(1, noisy_epochs // 2), folder / "ss-head", [Until(end)])
            path = folder / run.key.replace(", ", "-").replace(" ", "_").replace("%", "percent")
            found[run.key] = one_run(own, path, Until(end))
            if run.name == "EGA" and run.factor == 1.0:
                found[run.key]["teacher_probe"] = probe(path, folder / "teacher.pt")
            factors, every = chosen(found, [*METHODS]), [*SEEDS]  # also of runs that an earlier call made
            report = {"environment": environment(0), **told, "shares": every, "factors": factors,
                      "summary": summary(found, [*METHODS], every, factors), "runs": found}  # fmt: skip
            write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
            click.echo(f"{run.key}: {found[run.key]['test_top1']:.2f} %")
    except Stopped:
        pass
    click.echo("stopped; the same command goes on" if todo else "all runs are there")


if __name__ == "__main__":
    main()
