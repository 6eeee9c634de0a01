"""Train the same recipe with several methods and seeds, and write every figure to one JSON file as it comes.

    python experiments/compare.py --out experiments/results/digits.json --seeds 5
    python experiments/compare.py --config experiments/cifar100.yaml --variants cross-entropy,dense,knn --out
    cifar100.json
    python experiments/compare.py --config experiments/cifar100_family.yaml --variants family --seeds 2 --out
    experiments/results/cifar100_family.json

A run that is there already (in --runs) is resumed or, if it is finished, read. See experiments/README.md for results.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from relgraph.files import read_json, read_yaml, write_atomically
from relgraph.training.callbacks import Callbacks
from relgraph.training.distillation import train
from relgraph.training.recipe import resolve
from relgraph.training.runs import RunDirectory, environment

VARIANTS: dict[str, dict[str, Any]] = {
    "cross-entropy": {"method": "none"},
    "kd": {"method": "0.9*kd", "gamma": 0.1},
    # Logit standardisation as published, from a head that few labels suffice for.
    "kd fitted": {
        "method": "9*kd",
        "method_args": ("standardise=true",),
        "temperature": 2.0,
        "gamma": 0.1,
        "teacher_head": "fitted",
    },
    "dense": {"graph": "dense"},
    "knn": {"graph": "knn", "k": 8},
    "dense-smooth": {"graph": "dense", "refine": "smooth"},
    "knn-smooth": {"graph": "knn", "k": 8, "refine": "smooth"},
    "dense-conv": {"graph": "dense", "refine": "conv"},
    "knn-conv": {"graph": "knn", "k": 8, "refine": "conv"},
    "node only": {"edge_weight": 0.0},
    "edge only": {"node_weight": 0.0},
    # The other methods at their published weights, which are the defaults, and two on neighbours.
    **{
        name: {"method": name}
        for name in (
            "ega", "sp", "cc", "rkd", "irg", "pkt", "darkrank", "nce", "ccl", "crd", "fitnet", "at", "vid", "nst",
            "fsp", "ab", "ft",
        )
    },
    "cc consecutive": {"method": "0.02*cc", "method_args": ("correlation=consecutive",)},
    "rkd knn": {"method": "rkd", "graph": "knn"},
    "sp knn": {"method": "sp", "graph": "knn"},
    "crd+kd": {"method": "crd+kd"},
}  # fmt: skip
FAMILY = (
    "cross-entropy,ega,kd,rkd,sp,cc,irg,pkt,crd,nce,ccl,fitnet,at,vid,nst,fsp,ab,ft,darkrank,cc consecutive,knn,rkd knn"
)


@click.command(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), help="Options of relgraph train, as a YAML file.")
@click.option("--variants", default="cross-entropy,dense,knn,dense-smooth,knn-smooth", show_default=True)
@click.option("--seeds", default="5", show_default=True, help="How many, from 0, or a list such as 3,4 or 3,.")
@click.option("--runs", default="runs/compare", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(config: Path | None, variants: str, seeds: str, runs: Path, out: Path) -> None:
    options = {} if config is None else read_yaml(config)
    numbers = [int(part) for part in seeds.split(",") if part] if "," in seeds else list(range(int(seeds)))
    results: dict[str, list[dict[str, Any]]] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    for seed in numbers:
        for name in (FAMILY if variants == "family" else variants).split(","):
            result = run_once(
                {**options, **VARIANTS[name], "seed": seed}, runs / f"{name.replace(' ', '-')}-seed{seed}"
            )
            results.setdefault(name, []).append(result)
            report = {
                "environment": environment(0),
                "options": options,
                "variants": {variant: VARIANTS[variant] for variant in results},
                "summary": summary(results),
                "runs": results,
            }
            write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
            click.echo(f"{name} seed {seed}: {result['test']}")
    click.echo(json.dumps(summary(results), indent=1))


def trained(options: dict[str, Any], path: Path, callbacks: Callbacks = ()) -> dict[str, Any]:
    """Return the result of one run, trained now, resumed or read."""
    run, recipe = RunDirectory(path), resolve(options)
    if run.result_file.exists():
        run.check_recipe(recipe)
    else:
        train(recipe, path, resume=run.recipe_file.exists(), callbacks=callbacks)
    result: dict[str, Any] = read_json(run.result_file)
    return result


def known(out: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that a file has already, and make the folder in which it is to lie.

    Raises:
        ClickException: if they are of other options.
    """
    out.parent.mkdir(parents=True, exist_ok=True)  # now, and not after the first run
    if not out.exists():
        return {}
    report = json.loads(out.read_text(encoding="utf-8"))
    if {name: report.get(name) for name in told} != json.loads(json.dumps(told)):
        raise click.ClickException(f"{out} has figures of other options or methods: expected another --out")
    found: dict[str, Any] = report["runs"]
    return found


def run_once(options: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the result of one run, as `trained`, and its accuracy after each epoch as `curve`."""
    result, measured = trained(options, path), resolve(options).measured
    return {**result, "curve": [row[f"{measured}_top1"] for row in RunDirectory(path).read_metrics()]}


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return mean and deviation over seeds of the test accuracy of the last and, if chosen, the best epoch."""
    table = {}
    for name, runs in results.items():
        row: dict[str, float] = {"n": len(runs)}
        for which in runs[0]["test"]:
            values = [run["test"][which]["top1"] for run in runs]
            row[f"{which}_top1_mean"] = round(mean(values), 2)
            row[f"{which}_top1_deviation"] = round(stdev(values), 2) if len(values) > 1 else 0.0
        row["images_per_s"] = mean(run["images_per_s"] for run in runs)
        table[name] = row
    return table


if __name__ == "__main__":
    main()
