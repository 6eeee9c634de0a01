"""relgraph evaluate."""

import json
from pathlib import Path
from typing import Any

import click

from .options import own_code_options
from .show import accuracies, say, say_all

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
@own_code_options
def evaluate(run: Path, k: int, as_json: bool, allow_code: bool, **given: Any) -> None:
    """Compare student and teacher of a RUN on its test split.

    Accuracy is that of the network's head. k-NN and linear probe read the pooled features and learn from the training
    split, with all its labels, and with those labels alone that the run was given, where these are few.
    """
    from relgraph import api

    report = api.evaluate(run, k, allow_code=allow_code, **given)
    if as_json:
        say_all(json.dumps(report, indent=2))
        return
    networks: dict[str, Any] = {name: report[name] for name in ("student", "teacher") if name in report}
    say_all(accuracies("network", networks))
    images, votes = report["images"], str(report["neighbours"])
    if any("knn_few" in row for row in networks.values()):
        votes += f", and {report['neighbours_few']} with few labels"
    labelled = f"{images['labelled']} of them with a label in the run"
    say(f"{images['test']} test images; {images['train']} training images, {labelled}; k = {votes}")
