"""The command `bench.py students`: what relgraph's trainer takes beyond a bare loop of the same student."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from relgraph_cli.show import table
from tqdm import tqdm

from benchmark.loops import BARE, STUDENT_ALONE, LoopBuilder, Settings
from benchmark.scaling_command import names_of
from benchmark.timing import in_turn
from benchmark.training import Progress, machine_of, ratio_of
from relgraph.files import write_atomically

STUDENTS = "resnet8,resnet20,wrn_16_2,vgg8,mobilenetv2,shufflenetv1,shufflenetv2"

WHAT = """\
A step of cross-entropy alone. The bare loop has the same student, optimiser and precision, and one batch that is ready;
the trainer's has data, views, metrics and the learning rate as well. The ratio is that within each round."""


def measure_students(
    settings: Settings, students: list[str], progress: Progress = lambda text: None, *, processor_time: bool = False
) -> dict[str, Any]:
    """Return times of both loops of each student, all in turn, every sample and the ratios, ready for JSON.

    With `processor_time` they are those of this process, all its threads together.

    Raises:
        RelgraphError: if a name is unknown, a number does not fit, or there is no such device.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    starts = {}
    with TemporaryDirectory() as folder:
        progress("building")
        for name in students:
            builder = LoopBuilder(replace(settings, student=name), Path(folder))
            bare, alone = (replace(loop, precision=builder.precision) for loop in (BARE, STUDENT_ALONE))
            starts |= {f"{name}, bare": builder.steps(bare), f"{name}, trainer": builder.epoch(alone)}
        clock = time.process_time if processor_time else time.perf_counter
        times = in_turn(
            starts,
            rounds=settings.rounds,
            repetitions=settings.steps,
            device=builder.device,
            progress=progress,
            clock=clock,
        )
    rows = []
    for name in students:
        plain, trained = times[f"{name}, bare"], times[f"{name}, trainer"]
        rows.append({"student": name, "bare": plain.samples, "trainer": trained.samples,
                     "ratio": ratio_of(trained, plain)})  # fmt: skip
    same = {name: value for name, value in asdict(settings).items() if name != "student"}
    return {"measurement": "students", "settings": same, "processor_time": processor_time,
            "machine": machine_of(builder, load), "rows": rows}  # fmt: skip


@click.command()
@click.option("--students", default=STUDENTS, show_default=True, callback=names_of, help="As relgraph students lists.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=2), help="Images in a batch.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(min=1), help="Steps in a window of time; "
              "fewer where they take over a second.")  # fmt: skip
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(min=1), help="Windows of each, in turn.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the processor.  [default: as torch chooses]")
@click.option("--processor-time", is_flag=True, help="Of this process, on a CPU that others use as well.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample to a file.")
def students(
    students: tuple[str, ...],
    batch_size: int,
    steps: int,
    rounds: int,
    device: str,
    threads: int | None,
    processor_time: bool,
    file: Path | None,
) -> None:
    """Measure the trainer against a bare loop, student by student.

    Images of 32 pixels in 100 classes, all random. All students are measured in turn in one run, about three minutes on
    two cores.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(batch_size=batch_size, steps=steps, rounds=rounds, device=device)
    with tqdm(bar_format="{desc} ({elapsed})", disable=None) as line:
        report = measure_students(settings, list(students), line.set_description_str, processor_time=processor_time)
    if file is not None:
        write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())
    click.echo(tables(report))


def tables(report: dict[str, Any]) -> str:
    """Return the report as text."""
    machine, settings = report["machine"], report["settings"]
    rows = [[row["student"], 1e3 * median(row["bare"]), 1e3 * median(row["trainer"]), row["ratio"]["median"],
             f"{row['ratio']['min']:.2f} .. {row['ratio']['max']:.2f}"] for row in report["rows"]]  # fmt: skip
    load = "" if machine["load_before"] is None else f", load {machine['load_before']:.1f} before"
    conditions = (
        f"{machine['device']}, threads: {machine['threads']}{load}, torch {machine['torch']}, "
        f"{machine['precision']}, {machine['date']};\n"
        f"batch {settings['batch_size']}, {settings['image_size']} px; medians, rounds: {settings['rounds']}"
    )
    conditions += ", processor time" if report["processor_time"] else ""
    shown = table(["student", "bare loop, ms", "trainer, ms", "ratio", "lowest .. highest"], rows)
    return "\n\n".join([shown, WHAT, conditions])
