"""relgraph evaluate."""

import json
from pathlib import Path

import click

from .show import table

COLUMNS = {
    "top1": "top-1 %",
    "top5": "top-5 %",
    "knn": "k-NN %",
    "linear": "linear probe %",
    "knn_few": "k-NN, few labels %",
    "linear_few": "probe, few labels %",
}

EPILOG = """\b
Examples:
  relgraph evaluate runs/digits-resnet8-ega-dense-seed0
  relgraph evaluate runs/knn8 --json > knn8.json
"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--k", default=20, show_default=True, type=click.IntRange(min=1), help="Neighbours that vote in the k-NN accuracy."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(run: Path, k: int, as_json: bool) -> None:
    """Compare student and teacher of a RUN on its test split.

    Accuracy is that of the network's head. k-NN and linear probe read the pooled features and learn from the training
    split, with all its labels, and with those labels alone that the run was given, where these are few.
    """
    from relgraph.analysis.run_loading import evaluate_run

    report = evaluate_run(run, k)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    networks = [name for name in ("student", "teacher") if name in report]
    columns = [name for name in COLUMNS if any(name in report[network] for network in networks)]
    click.echo(
        table(
            ["network", *(COLUMNS[c] for c in columns)], [[n, *(report[n].get(c) for c in columns)] for n in networks]
        )
    )
    images, votes = report["images"], str(report["neighbours"])
    if "knn_few" in columns:
        votes += f", and {report['neighbours_few']} with few labels"
    click.echo(
        f"{images['test']} test images; {images['train']} training images, {images['labelled']} of them with a label "
        f"in the run; k = {votes}"
    )
