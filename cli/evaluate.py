"""relgraph evaluate."""

import json
from pathlib import Path
from typing import Any

import click

from .options import SPLIT, own_code_options
from .show import accuracies, by_class, say, say_all, table

# The rows of a table of retrieval: who asks, and whose index answers. Whose vectors a bare table has is not known.
SIDES = {
    "student_teacher": "student in the teacher's index",
    "teacher_teacher": "teacher in its own index",
    "student_student": "student in its own index",
}
IN_FILE = {"student_teacher": "student in {}", "teacher_teacher": "teacher in {}"}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--k", type=click.IntRange(min=1),
              help="Neighbours that vote in the k-NN accuracy, or with --gallery those of which the overlap with the "
              "teacher's is told.  [default: 20, with --gallery 10 or as many as it has]")  # fmt: skip
@click.option("--gallery", metavar="teacher|own|PATH",
              help="Retrieval in place of accuracies: queries by the student against an index, the split's images by "
              "the teacher or the student itself, or the path of a store of relgraph embed or of a table, .npy or "
              ".parquet.")  # fmt: skip
@click.option("--zero-shot", metavar="FILE", type=click.Path(path_type=Path),
              help="Accuracy by vectors of class names, of the text side of an open_clip teacher; a class a line, NAME "
              "or NAME: words.")  # fmt: skip
@SPLIT
@click.option("--cost", is_flag=True,
              help="Also what both cost to run: parameters, MACs, size, images per second here.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@own_code_options
def evaluate(run: Path, as_json: bool, **options: Any) -> None:
    """Compare student and teacher of a RUN on its test split.

    Accuracy is that of the network's head. k-NN and linear probe read the pooled features and learn from the training
    split, with all its labels, and with those labels alone that the run was given, where these are few.

    With --gallery each image of the split is a query: recall@k, whether one of the k nearest images is of its class,
    mAP, mAP@R, and the share of the 10 nearest images that are the teacher's as well. An image is never its own answer.
    Where a run was trained with --holdout-classes, the accuracies are such figures of each network's own index.

    Where pixels have classes, the figures are the mean intersection over union of the classes (mIoU), the share of
    right pixels, and the intersection over union of each class, at the size of the labels.

    With --cost a table has what the student costs on this machine in torch, compiled by torch, and in onnxruntime as
    float32 and int8 (`pip install 'relgraph[deploy]'`), beside the teacher in torch. MACs are multiply-accumulates for
    one image, images/s the median of five calls or more of 64 images.

    \b
    Examples:
      relgraph evaluate runs/digits-resnet8-ega-dense-seed0
      relgraph evaluate runs/knn8 --json > knn8.json
      relgraph evaluate runs/knn8 --cost
      relgraph evaluate runs/clip --gallery teacher                   the student asks, the teacher's vectors answer
      relgraph evaluate runs/clip --gallery embeddings/cifar100-clip  against all that relgraph embed stored
      relgraph evaluate runs/clip --zero-shot classes.txt
    """
    from relgraph import api

    report = api.evaluate(run, **options)
    if as_json:
        say_all(json.dumps(report, indent=2))
        return
    if "images" in report:
        _say_accuracies(report)
    if "retrieval" in report:
        _say_retrieval(report["retrieval"])
    if "zero_shot" in report:
        _say_zero_shot(report["zero_shot"])
    if "cost" in report:
        say_all(_cost_table(report["cost"]))
        say(*_cost_notes(report["cost"]))


def _say_accuracies(report: dict[str, Any]) -> None:
    networks: dict[str, Any] = {name: report[name] for name in ("student", "teacher") if name in report}
    say_all(accuracies("network", networks))
    images = report["images"]
    if "neighbours" not in report and "held_out" not in report:
        _say_pixels(networks, images)
        return
    if "held_out" in report and not any(networks.values()):
        say("no figures: retrieval is judged by test images of two classes or more, with two images of one")
        return
    if "held_out" in report:
        classes = f"{len(report['held_out']['test'])} classes that no training image has"
        say(f"{images['test']} test images of {classes}, each a query among the others by its network's own vectors")
        return
    votes = str(report["neighbours"])
    if any("knn_few" in row for row in networks.values()):
        votes += f", and {report['neighbours_few']} with few labels"
    labelled = f"{images['labelled']} of them with a label in the run"
    say(f"{images['test']} test images; {images['train']} training images, {labelled}; k = {votes}")


def _say_pixels(networks: dict[str, Any], images: dict[str, int]) -> None:
    if not any(networks.values()):
        say("no figures: labels trained no scores in this run, or no pixel of a test image has a class")
        return
    say("")
    say_all(by_class(networks))
    labelled = f"{images['train']} training images, {images['labelled']} of them with labels of pixels in the run"
    say(f"{images['test']} test images, at the size of their labels; {labelled}; - for a class that is nowhere")


def _say_retrieval(report: dict[str, Any]) -> None:
    from relgraph.analysis.galleries import TABLES

    sides = {name: told.format(Path(report["gallery"]).name) for name, told in IN_FILE.items()}
    sides = sides if Path(report["gallery"]).suffix.lower() in TABLES else SIDES
    found = {told: report[name] for name, told in sides.items() if name in report}
    columns = list(next(iter(found.values())))
    rows = [[told, *(row.get(name) for name in columns)] for told, row in found.items()]
    say_all(table(["queries", *(f"{name} %" for name in columns)], rows))
    queries = f"{report['queries']} queries, the {report['split']} images, among {report['images']} images"
    queries += f", as an index: {report['transform']}"
    shared = f"; overlap: of the {report['k']} nearest, those that are among the teacher's as well"
    say(queries + (shared if f"overlap@{report['k']}" in columns else ""))
    if not report["labels"]:
        say("no labels of the images are known: recall and mAP are left out")


def _say_zero_shot(report: dict[str, Any]) -> None:
    say_all(accuracies("zero-shot", {name: report[name] for name in ("student", "teacher")}))
    say(f"{report['images']} {report['split']} images, {report['classes']} classes by their names")


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
