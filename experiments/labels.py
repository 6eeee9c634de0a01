"""Does a teacher help where labels are few or wrong? The student alone against KD, EGA and SSKD, with several seeds.

    python experiments/labels.py --seeds 5 --out experiments/results/digits_labels.json
    python experiments/labels.py --config experiments/cifar100_labels.yaml --seeds 2 --out cifar100_labels.json

SSKD's self-supervision head is trained first, unless the configuration names one (`ss_head`). Every method trains with
the same images, schedule and seeds, at its published weights. A run that is there already (in --runs) is resumed or, if
it is finished, read.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from compare import run_once
from relgraph.files import read_yaml, write_atomically
from relgraph.training.callbacks import Callbacks
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import pretrain
from relgraph.training.runs import RunDirectory, environment

METHODS: dict[str, dict[str, Any]] = {
    "alone": {"method": "none"},
    "kd": {"method": "0.9*kd", "gamma": 0.1},
    "ega": {"method": "ega"},
    "sskd": {"method": "sskd"},
}
SETTINGS = "1:0,1:0.3,0.25:0,0.25:0.3,0.1:0,0.1:0.3"
OF_THE_TEACHER = (
    "dataset",
    "root",
    "image_size",
    "images",
    "workers",
    "teacher",
    "teacher_weights",
    "teacher_size",
    "teacher_mean",
    "teacher_std",
    "teacher_args",
    "device",
    "precision",
    "threads",
)


def trained_head(options: dict[str, Any], epochs: int, path: Path, callbacks: Callbacks = ()) -> str:
    """Return the run of a self-supervision head for the teacher, trained now if it is not there."""
    given = {name: options[name] for name in OF_THE_TEACHER if name in options}
    given.setdefault("teacher", "embedded:digits")
    recipe = resolve_pretraining({**given, "objective": "sskd-head", "epochs": epochs})
    started = (path / "recipe.yaml").is_file()
    if not RunDirectory(path).result_file.is_file():
        pretrain(recipe, path, resume=started, callbacks=callbacks)
    return str(path)


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return mean and standard deviation over the seeds of the test accuracy after the last epoch."""
    found = {}
    for name, runs in results.items():
        top1 = [run["test"]["last"]["top1"] for run in runs]
        found[name] = {
            "mean": round(mean(top1), 2),
            "stdev": round(stdev(top1), 2) if len(top1) > 1 else None,
            "last": [round(value, 2) for value in top1],
        }
    return found


@click.command(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), help="Options of relgraph train, as a YAML file.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--settings", default=SETTINGS, show_default=True, help="Share of labels : share of them that is wrong.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--head-epochs", default=20, show_default=True, type=click.IntRange(min=1), help="Of SSKD's head.")
@click.option("--runs", default="runs/labels", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(config: Path | None, methods: str, settings: str, seeds: int, head_epochs: int, runs: Path, out: Path) -> None:
    grid = [(float(share), float(noise)) for share, noise in (setting.split(":") for setting in settings.split(","))]
    options = {"labels_per_class": 0, **({} if config is None else read_yaml(config))}
    ss_head = options.pop("ss_head", None) or trained_head(options, head_epochs, runs / "ss-head")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for share, noise in grid:
            for name in methods.split(","):
                own = {"ss_head": ss_head} if name == "sskd" else {}
                labels = {"label_fraction": share, "label_noise": noise}
                key = f"{name} {share:.0%} labels, {noise:.0%} wrong"
                path = runs / f"{name}-{share:g}-{noise:g}-seed{seed}"
                result = run_once({**options, **METHODS[name], **own, **labels, "seed": seed}, path)
                results.setdefault(key, []).append(result)
                report = {
                    "environment": environment(0),
                    "options": options,
                    "head_epochs": head_epochs,
                    "methods": METHODS,
                    "summary": summary(results),
                    "runs": results,
                }
                write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
                click.echo(f"{key}, seed {seed}: {result['test']['last']['top1']:.2f} %")
    click.echo(json.dumps(summary(results), indent=1))


if __name__ == "__main__":
    main()
