"""How fast a GPU trains by the trainer and by its captured step, and what it then reaches, in one command.

    python experiments/gpu_speed.py --minutes 9 --out gpu_speed.json
    relgraph embed --views 4 ...              # dataset and teacher as in the configuration
    python experiments/gpu_speed.py --config experiments/cifar100_label_map.yaml --minutes 9 --out gpu_speed.json

First the captured step (a CUDA graph of views, student, stored teacher, losses, backward and both optimisers) against
the trainer's: weights after five steps, then images a second of cross-entropy alone, KD and EGA, of resnet8x4 and of
resnet8, also with the student compiled. Goals: EGA within 1.10 of cross-entropy alone, ten times 4,100 images a second.
Then, with a configuration, each method is trained by captured steps for as many epochs as fit. --out is written after
each student and each method. What fails is told, and the others go on; exit status 1 if anything did, different weights
included. No student is begun after --minutes, and none compiled in their second half. `--device cpu` runs the same
without a graph.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from benchmark.captured import WholeStep
from benchmark.loops import KD, KNN, STORED, STUDENT_ALONE, BenchmarkLoop, LoopBuilder, Settings
from benchmark.timing import Start, in_turn, spread
from benchmark.training import ratio_of
from relgraph.data.batches import epoch_batches
from relgraph.errors import RelgraphError
from relgraph.files import read_yaml, write_atomically
from relgraph.seeding import generator
from relgraph.training.distillation import build
from relgraph.training.epochs import Job
from relgraph.training.recipe import resolve

LOOPS = (STUDENT_ALONE, STORED, KNN, KD)
TRAINED: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "KD": {"method": "kd", "beta": 0.9, "gamma": 0.1},
    "EGA": {"method": "ega"},
}
EQUAL = 1e-3  # of float32 weights after five steps, by two forms of SGD
SHARE = 0.8  # of the time that is left, for epochs: building and evaluation have the rest
MOST = 240
COMPILING = 0.5  # of the time, after which no student is compiled

Report = dict[str, Any]


@contextmanager
def going_on(what: str, report: Report) -> Iterator[None]:
    """Tell a failure, and keep it in the report, in place of ending the command."""
    try:
        yield
    except (RuntimeError, RelgraphError) as problem:
        report["failed"].append(f"{what}: {' '.join(str(problem).split())[:200]}")
        print(f"FAIL {report['failed'][-1]}", flush=True)


def whole_step(job: Job) -> WholeStep:
    """Return the whole step of a job, captured where there is a GPU."""
    job.module.train()
    step = WholeStep(job)
    if job.fabric.device.type == "cuda":
        step.capture()
    return step


def difference(builder: LoopBuilder, loop: BenchmarkLoop) -> float:
    """Return the largest relative difference of a tensor of weights after five steps, captured and by the trainer."""
    run, other = (builder.run(replace(loop, precision="32-true")) for _ in range(2))
    step, views = whole_step(other.job), torch.Generator().manual_seed(0)
    indices = torch.arange(len(builder.data.train)).view(-1, builder.settings.batch_size)[:5]
    for index, images in run.batches(list(indices.to(builder.device))):
        run.step(index, images)
    for index in indices:
        step(index, views)
    pairs = zip(run.job.objective.parameters(), other.job.objective.parameters(), strict=True)
    with torch.no_grad():
        return float(torch.stack([(a - b).norm() / a.norm().clamp_min(1e-12) for a, b in pairs]).max())


def measure(settings: Settings, report: Report, compiling: Callable[[], bool]) -> None:
    """Add a student's differences and speeds to the report."""
    with TemporaryDirectory() as folder:
        builder = LoopBuilder(settings, Path(folder))
        for name, loop in ((f"{settings.student}, {loop.name}", loop) for loop in LOOPS):
            with going_on(name, report):
                worst = report["equal"][name] = difference(builder, loop)
                told = f"weights after five steps differ by {worst:.1e}"
                if not worst <= EQUAL:
                    raise RelgraphError(told)
                print(f"ok   {name}: {told}", flush=True)
        with going_on(f"{settings.student}, speeds", report):
            for row in speeds(builder, report, compiling):
                report["speeds"].append(row)
                ratio = "" if row["ratio"] is None else f", ratio {row['ratio']['median']:.2f}"
                print(f"{row['student']}, {row['step']}, {row['loop']}: {row['images_per_s']['median']:,.0f} images/s"
                      f"{ratio}", flush=True)  # fmt: skip


def speeds(builder: LoopBuilder, report: Report, compiling: Callable[[], bool]) -> list[dict[str, Any]]:
    """Return images a second of the trainer's and the captured step of each loop, and of that with a compiled student.

    The ratio is that to the step of cross-entropy alone of the same kind, within each round. A loop that fails before
    its first round is left out, and a student is compiled only while `compiling` says so.
    """
    kinds = ("trainer", "captured", "captured, compiled") if builder.device.type == "cuda" else ("trainer", "captured")
    starts: dict[tuple[str, str], Start] = {}
    settings = builder.settings
    for kind in kinds:
        for loop in (replace(loop, precision=builder.precision, compile="compiled" in kind) for loop in LOOPS):
            name = f"{settings.student}, {kind}, {loop.name}"
            if loop.compile and not compiling():
                print(f"{name}: left out, there is too little time", flush=True)
                continue
            with going_on(name, report):
                starts[kind, loop.name] = builder.steps(loop) if kind == "trainer" else _captured(builder, loop)
    named = {f"{kind}: {name}": start for (kind, name), start in starts.items()}
    times = in_turn(named, rounds=settings.rounds, repetitions=settings.steps, device=builder.device)
    return [
        {"student": settings.student, "step": kind, "loop": name,
         "images_per_s": spread([settings.batch_size / seconds for seconds in times[f"{kind}: {name}"].samples]),
         "ratio": ratio_of(times[f"{kind}: {name}"], times[f"{kind}: {STUDENT_ALONE.name}"])
         if (kind, STUDENT_ALONE.name) in starts else None}
        for kind, name in starts
    ]  # fmt: skip


def _captured(builder: LoopBuilder, loop: BenchmarkLoop) -> Start:
    step, views = whole_step(builder.run(loop).job), torch.Generator().manual_seed(0)
    indices = torch.arange(len(builder.data.train)).view(-1, builder.settings.batch_size)

    def start(n: int) -> Iterator[None]:
        yield
        for index in indices[:n]:
            step(index, views)

    return start


def train(job: Job, epochs: int, steps: int | None = None) -> dict[str, Any]:
    """Train epochs, or the first `steps` of one, by whole steps; the batches and views are the trainer's."""
    step, recipe, data, losses = whole_step(job), job.recipe, job.data, list[float]()
    assert recipe.batch_size is not None
    _wait(job)
    begin = time.perf_counter()
    for epoch in range(epochs):
        job.module.train()
        batches = epoch_batches(data.train.labels.cpu(), batch_size=recipe.batch_size, seed=recipe.seed, epoch=epoch,
                                labelled_share=job.labelled_share, by_label=job.task.by_label,
                                drop_last=recipe.drop_last)  # fmt: skip
        views = generator("views", recipe.seed, epoch)
        for number, index in enumerate(islice(batches, steps)):
            step.rate(job.schedule.rate(epoch + number / len(batches)))
            step(index, views)
        losses.append(step.meter.read(epoch)["loss"])
        step.restart()
    _wait(job)
    seconds = time.perf_counter() - begin
    if steps:
        return {"epoch_seconds": seconds / min(steps, len(batches)) * len(batches)}
    found = job.task.evaluate(job.objective.student, data.test)
    return {"epochs": epochs, "seconds": seconds, "loss": losses, "test_top1": found["top1"]}


def _wait(job: Job) -> None:
    if job.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def trainings(
    options: dict[str, Any], left: Callable[[], float], report: Report
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield seconds and accuracy of each method, with as many epochs of a cosine for all as fit into what is left."""
    given = {**options, "schedule": "cosine", "schedule_by": "step", "select": "last"}
    tried: dict[str, float] = {}
    for name, own in TRAINED.items():
        with going_on(f"{name}, 50 steps", report):
            tried[name] = train(build(resolve({**given, **own, "epochs": 1})), 1, 50)["epoch_seconds"]
    each = sum(tried.values())
    epochs = min(MOST, int(SHARE * left() / each)) if tried else 0
    print(f"an epoch of all: {each:.1f} s; {max(0, epochs)} epochs fit", flush=True)
    for name in tried if epochs > 0 else ():
        with going_on(f"{name}, {epochs} epochs", report):
            found = train(build(resolve({**given, **TRAINED[name], "epochs": epochs})), epochs)
            print(f"{name}: {epochs} epochs, {found['seconds']:.0f} s, test top-1 {found['test_top1']:.2f} %",
                  flush=True)  # fmt: skip
            yield name, found


@click.command(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), help="Options of relgraph train, as a YAML file.")
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option("--students", default="resnet8x4,resnet8", show_default=True)
@click.option("--steps", default=100, show_default=True, type=click.IntRange(min=5), help="In a window of time.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="Windows of each, in turn.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=2))
@click.option("--minutes", default=9.0, show_default=True, help="Of the whole command.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON.")
def main(config: Path | None, device: str, students: str, steps: int, rounds: int, batch_size: int, minutes: float,
         out: Path | None) -> None:  # fmt: skip
    end = time.monotonic() + 60 * minutes

    def left() -> float:
        return end - time.monotonic()

    def write() -> None:
        if out is not None:
            write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())

    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch finds no CUDA device here: --device cpu runs the same without a graph")
    report: Report = {"device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
                      "torch": torch.__version__, "equal": {}, "speeds": [], "failed": []}  # fmt: skip
    for student in students.split(","):
        if left() <= 0:
            print(f"{student}: left out, the time is over", flush=True)
            continue
        settings = Settings(student=student, batch_size=batch_size, teacher="timm:test_vit", steps=steps,
                            rounds=rounds, device=device)  # fmt: skip
        measure(settings, report, lambda: left() > COMPILING * 60 * minutes)
        write()
    if config is not None and left() > 0:
        options = {**read_yaml(config), "device": device}
        report["config"], report["trained"] = options, {}
        for name, row in trainings(options, left, report):
            report["trained"][name] = row
            write()
    write()
    sys.exit(bool(report["failed"]))


if __name__ == "__main__":
    main()
