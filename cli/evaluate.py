"""relgraph evaluate."""

import json
from pathlib import Path
from typing import Any

import click

from .options import own_code_options
from .show import accuracies, say, say_all, table

EPILOG = """\b
Examples:
  relgraph evaluate runs/digits-resnet8-ega-dense-seed0
  relgraph evaluate runs/knn8 --json > knn8.json
  relgraph evaluate runs/knn8 --cost
"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--k", default=20, show_default=True, type=click.IntRange(min=1), help="Neighbours that vote in the k-NN accuracy."
)
@click.option("--cost", is_flag=True,
              help="Also what both cost to run: parameters, MACs, size, images per second here.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@own_code_options
def evaluate(run: Path, k: int, cost: bool, as_json: bool, allow_code: bool, **given: Any) -> None:
    """Compare student and teacher of a RUN on its test split.

    Accuracy is that of the network's head. k-NN and linear probe read the pooled features and learn from the training
    split, with all its labels, and with those labels alone that the run was given, where these are few.

    With --cost a table has what the student costs on this machine in torch, compiled by torch, and in onnxruntime as
    float32 and int8 (`pip install 'relgraph[deploy]'`), beside the teacher in torch. MACs are multiply-accumulates for
    one image, images/s the median of five calls or more of 64 images.
    """
    from relgraph import api

    report = api.evaluate(run, k, cost=cost, allow_code=allow_code, **given)
    if as_json:
        say_all(json.dumps(report, indent=2))
        return
    if "images" in report:
        _say_accuracies(report)
    if cost:
        say_all(_cost_table(report["cost"]))
        say(*_cost_notes(report["cost"]))


def _say_accuracies(report: dict[str, Any]) -> None:
    networks: dict[str, Any] = {name: report[name] for name in ("student", "teacher") if name in report}
    say_all(accuracies("network", networks))
    images, votes = report["images"], str(report["neighbours"])
    if any("knn_few" in row for row in networks.values()):
        votes += f", and {report['neighbours_few']} with few labels"
    labelled = f"{images['labelled']} of them with a label in the run"
    say(f"{images['test']} test images; {images['train']} training images, {labelled}; k = {votes}")


def _cost_table(cost: dict[str, Any]) -> str:
    rows: list[list[str | float | None]] = []
    for name in ("student", "teacher"):
        network = cost.get(name, {"forms": {}})
        for form, timed in network["forms"].items():
            size, speed = timed.get("bytes"), timed.get("images_per_second")
            shown = [None if size is None else size / 1e6, None if speed is None else f"{speed:,.0f}"]
            rows.append([f"{name}, {form}", f"{network['parameters']:,}", network["macs"] / 1e6, *shown])
    return table(["cost here", "parameters", "MACs (M)", "size (MB)", "images/s"], rows)


def _cost_notes(cost: dict[str, Any]) -> list[str]:
    threads = f"{cost['threads']} thread{'s' if cost['threads'] > 1 else ''}"
    notes = [f"images/s: batches of {cost['batch']}, {threads}, torch on {cost['device']}, onnxruntime on the CPU"]
    for form, timed in cost["student"]["forms"].items():
        notes += [f"{form} was skipped: {timed['skipped']}"] if "skipped" in timed else []
    return [*notes, cost["sentence"]]
