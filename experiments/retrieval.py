"""Which student answers queries against its teacher's index? Classes that no training image has, and no label.

    relgraph embed --dataset folder:data/cifar100 --split train -o data/teacher.npy  ... (see experiments/README.md)
    python experiments/retrieval.py --config experiments/cifar100_retrieval.yaml --minutes 60 --out retrieval.json
    python experiments/retrieval.py --config experiments/cifar100_retrieval.yaml --split val --epochs 6 --seeds 1 \
        --students resnet8 --methods 'csd tau=0.1 teacher_tau=0.1,csd tau=1 teacher_tau=0.01' --out temperatures.json

Every method trains with the same images, optimiser (AdamW, which does not read the scale of a loss), schedule and
seeds, once, with its default options. Queries and gallery are the images of the test classes; figures are recall@1, mAP
and overlap@10 of the student's vectors against the teacher's index and against its own, before and after `relgraph
align`: before it vectors are compared as they are (a teacher of a file has no transform of an index), after it about
the mean of the index, so that the two differ by the centring as well. Beside them an untrained student after `align`,
and a ridge regression from its features to the directions of the teacher's vectors, whose penalty is chosen on the
validation classes. The second command judges options of a method on the classes of validation, which is where they may
be chosen; the regression is then judged on the classes that chose its penalty. A run whose figures are in --out
already, of the same options, is not made again; one that is in --runs is read.
"""

import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch
from torch.nn.functional import normalize

import relgraph
from compare import known, trained
from relgraph.analysis.galleries import PAIRS, evaluate_gallery
from relgraph.analysis.retrieval import overlap, retrieval
from relgraph.analysis.run_loading import TrainedRun
from relgraph.files import read_yaml, write_atomically
from relgraph.graph.alignment import COMPARED, VectorTransform
from relgraph.own_code import permitting
from relgraph.training.runs import environment

METHODS: dict[str, dict[str, Any]] = {
    "csd": {"method": "csd"},
    "regression (cosine)": {"method": "anchor"},
    "ega edges + anchor": {"method": "ega+anchor", "node_weight": 0.0},
    "ega": {"method": "ega"},
    "ega edges": {"method": "ega", "node_weight": 0.0},
    "seed at 0.1": {"method": "seed", "method_args": ("queue=8192", "head=none", "tau=0.1", "teacher_tau=0.1")},
    "raml": {"method": "raml"},
    "d3still": {"method": "d3still"},
    "rop": {"method": "rop"},
    "rkd": {"method": "rkd", "method_args": ("angle_weight=0",)},
    "sp": {"method": "sp"},
    "pkt": {"method": "pkt"},
}
UNTRAINED = {"method": "anchor", "lr": 1e-12, "epochs": 1}
FIGURES = ("recall@1", "mAP", "overlap@10")
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean variance of a feature


def options_of(name: str) -> dict[str, Any]:
    """Return what a row of METHODS says, or the method and the options of a spelling such as `csd tau=0.1`."""
    method, *values = name.split()
    return METHODS.get(name) or {"method": method, "method_args": tuple(values)}


def figures(path: Path, split: str, ceiling: bool) -> dict[str, Any]:
    """Return the figures of a run before and after its student is aligned, which is undone again.

    With `ceiling` also those of the teacher itself, which are the same for all runs.
    """
    run = relgraph.Run(path)
    if "align" in run.student().info:
        run.align(undo=True)
    before = sides(evaluate_gallery(TrainedRun(path), "teacher", split, pairs=("student_teacher", "student_student")))
    run.align()
    after = sides(
        evaluate_gallery(TrainedRun(path), "teacher", split, pairs=PAIRS if ceiling else ("student_teacher",))
    )
    run.align(undo=True)
    found = {
        "teacher's index": before["student_teacher"],
        "own index": before["student_student"],
        "teacher's index, aligned": after["student_teacher"],
    }
    if ceiling:
        found |= {"own index, aligned": after["student_student"], "teacher itself": after["teacher_teacher"]}
    return found


def sides(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {side: {name: round(report[side][name], 2) for name in FIGURES} for side in report.keys() & {*PAIRS}}


@torch.no_grad()
def ridge(path: Path, split: str) -> dict[str, Any]:
    """Return the figures of a ridge regression from features of a run's student to directions of its teacher's vectors.

    It is fitted to what the index compares, so its results are compared as those of `relgraph align`.
    """
    run = TrainedRun(path)
    parts = {}
    for part in ("train", "val", split):
        images = run.images(part)
        feature = run.outputs(images)[0].feature
        _, teacher = run.vectors(images)
        assert feature is not None and teacher is not None
        parts[part] = feature.double(), normalize(teacher.double()), images.true_labels
    features, vectors, _ = parts["train"]
    middle, centre = features.mean(0), vectors.mean(0)
    x, y = features - middle, vectors - centre
    transform = VectorTransform.fit(vectors.float())
    products, size = x.T @ x, float(x.square().sum() / x.shape[1])

    def judged(part: str, penalty: float) -> dict[str, float]:
        weight = torch.linalg.solve(products + penalty * size * torch.eye(len(products)).double(), x.T @ y)
        asked, held, labels = parts[part]
        queries = ((asked - middle) @ weight).float()  # about the mean, as of an aligned student
        gallery = transform(held.float())
        own = torch.arange(len(queries))
        found = retrieval(queries, gallery, labels, labels, own)
        shared = overlap(queries, gallery, gallery, gallery, own=own, k=10)
        return {name: round({**found, "overlap@10": shared}[name], 2) for name in FIGURES}

    chosen = max(PENALTIES, key=lambda penalty: judged("val", penalty)["mAP"])
    return {"penalty": chosen, "teacher's index": judged(split, chosen)}


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return mean and deviation over seeds of each figure."""
    table: dict[str, Any] = {}
    for name, runs in results.items():
        for where, row in runs[0].items():
            if isinstance(row, dict):
                table.setdefault(name, {"n": len(runs)})[where] = {
                    figure: [
                        round(mean(run[where][figure] for run in runs), 2),
                        round(stdev(run[where][figure] for run in runs), 2) if len(runs) > 1 else None,
                    ]
                    for figure in row
                }
    return table


@click.command(help=__doc__)
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Options of relgraph train.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--students", default="resnet8,resnet20", show_default=True)
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--split", default="test", show_default=True, type=click.Choice(("val", "test")))
@click.option("--epochs", type=click.IntRange(min=1), help="In place of the configuration's.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the students, which changes the rounding alone.")
@click.option("--minutes", default=600.0, show_default=True, help="No run is begun after that many.")
@click.option("--runs", default="runs/retrieval", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    config: Path, methods: str, students: str, seeds: int, split: str, epochs: int | None, compiled: bool,
    minutes: float, runs: Path, out: Path,
) -> None:  # fmt: skip
    end = time.monotonic() + 60 * minutes
    options = {**read_yaml(config), **({"epochs": epochs} if epochs else {})}
    told = {"options": options, "methods": METHODS, "split": split, "index": COMPARED}
    results = known(out, told)
    tasks = [(student, seed, name) for student in students.split(",") for seed in range(seeds)
             for name in ("untrained", *methods.split(","))]  # fmt: skip
    for student, seed, name in tasks:
        if time.monotonic() > end:
            click.echo("the time is over; the same command goes on")
            break
        short = student.rpartition(":")[2]  # of code of one's own, such as fewer_pixels.py:MobileNetV2
        key = f"{short}, {name}"
        if any(row["seed"] == seed for row in results.get(key, [])):
            continue
        own = UNTRAINED if name == "untrained" else options_of(name)
        path = runs / f"{short}-{name.replace(' ', '-')}-seed{seed}"
        with permitting([student]):
            result = trained({**options, **own, "student": student, "seed": seed, "compile": compiled}, path)
            measured = figures(path, split, name == "untrained")
            if name == "untrained":
                results.setdefault(f"{short}, ridge regression", []).append(ridge(path, split))
        facts = {name: result[name] for name in ("images_per_s", "epochs", "precision")}
        found = {"seed": seed, **measured, **facts, "compiled": compiled}
        results.setdefault(key, []).append(found)
        report = {"environment": environment(0), **told, "untrained": UNTRAINED, "summary": summary(results),
                  "runs": results}  # fmt: skip
        write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
        shown = {where: tuple(row.values()) for where, row in found.items() if isinstance(row, dict)}
        click.echo(f"{key}, seed {seed}: {shown}")


if __name__ == "__main__":
    main()
