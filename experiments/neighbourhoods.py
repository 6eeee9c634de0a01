"""Are an image's neighbours in the data set better than those in the batch, for the same number of student images?

    python experiments/neighbourhoods.py --seeds 5 --epochs 2
    relgraph embed --dataset folder:data/cifar100 --split train -o data/teacher.npy  ... (see experiments/README.md)
    python experiments/neighbourhoods.py --config experiments/cifar100_neighbourhoods.yaml --minutes 60

Every variant trains with the same images, labels, optimiser, seeds and batch size. An epoch of `--scope dataset` passes
several times as many images through the student as one of `--scope batch`, since only the seeds of a batch are counted:
variants of the latter have as many more epochs, to rounding, and the images of each are written down. Where an image
has 8 neighbours, a batch of 64 has 7 seeds: 56 edges in place of 512, so that EGA's norms, which grow with the root of
their number, are a third as large; one variant weighs them three times. A run that is there already (in --runs) is
resumed or read.
"""

import json
import time
from pathlib import Path
from typing import Any

import click

from compare import run_once, summary
from relgraph.files import read_json, read_yaml, write_atomically
from relgraph.training.runs import RunDirectory, environment

DATASET: dict[str, dict[str, Any]] = {
    "ega, data set": {"k": 8},
    "ega, data set, cross graph": {"k": 8, "method_args": ("cross=edges",)},
    "ega, data set, three times": {"k": 8, "beta": 3.0},
    "csd, data set": {"method": "csd", "k": 8},
    "pkt, data set": {"method": "pkt", "k": 8},
}
BATCH: dict[str, dict[str, Any]] = {
    "alone": {"method": "none"},
    "ega, all pairs": {"graph": "dense"},
    "ega, batch": {"graph": "knn", "k": 8},
    "ega, batch, own nodes": {"graph": "knn", "k": 8, "method_args": ("cross=own",)},
    "csd, batch": {"method": "csd", "graph": "knn", "k": 8},
    "csd, all pairs": {"method": "csd"},
    "pkt, batch": {"method": "pkt", "graph": "knn", "k": 8},
}
VARIANTS = {**{name: {**given, "scope": "dataset"} for name, given in DATASET.items()}, **BATCH}


@click.command(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), help="Options of relgraph train, as a YAML file.")
@click.option("--variants", default=":".join(VARIANTS), help="Names with colons between; first one of a data set.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(min=1), help="Of scope dataset.")
@click.option("--minutes", default=600.0, show_default=True, help="No run is begun after that many.")
@click.option("--runs", default="runs/neighbourhoods", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", default="experiments/results/neighbourhoods.json", type=click.Path(path_type=Path))
def main(config: Path | None, variants: str, seeds: int, epochs: int, minutes: float, runs: Path, out: Path) -> None:
    end, options = time.monotonic() + 60 * minutes, {} if config is None else read_yaml(config)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        record: dict[str, Any] = {}
        for name in variants.split(":"):
            if time.monotonic() > end:
                click.echo("the time is over; the same command goes on")
                return
            path = runs / f"{name.replace(', ', '-').replace(' ', '-')}-{epochs}-seed{seed}"
            in_batch = VARIANTS[name].get("scope") is None
            passes = round(epochs * times_as_many(record)) if in_batch else epochs
            result = run_once({"epochs": passes, **options, **VARIANTS[name], "seed": seed}, path)
            if not in_batch:
                record = read_json(RunDirectory(path).inputs_file)["graph of the data set"]
            steps = record["scope batch"] if in_batch else record
            images = round(passes * steps["steps"] * steps["images_per_step"])
            results.setdefault(name, []).append({"student_images": images, **result})
            report = {"environment": environment(0), "options": options, "epochs": epochs, "variants": VARIANTS,
                      "graph": record, "summary": summary(results), "runs": results}  # fmt: skip
            write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
            click.echo(f"{name}, seed {seed}: {result['test']['last']['top1']:.2f} %, {passes} epochs, {images} images")
    click.echo(json.dumps(summary(results), indent=1))


def times_as_many(record: dict[str, Any]) -> float:
    """Return how many times the images of an epoch of scope batch one of the data set's has, by a run's record."""
    of_batch = record["scope batch"]
    more: float = record["steps"] * record["images_per_step"] / (of_batch["steps"] * of_batch["images_per_step"])
    return more


if __name__ == "__main__":
    main()
