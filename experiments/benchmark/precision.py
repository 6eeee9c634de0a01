"""The command `bench.py precision`: small networks on a CPU in float32, in bfloat16 and as relgraph trains them."""

import copy
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from relgraph_cli.show import table
from torch import Tensor, nn
from tqdm import tqdm

from benchmark.scaling_command import names_of
from benchmark.timing import in_turn
from benchmark.training import Progress, ratio_of
from relgraph.files import write_atomically
from relgraph.names import build_backbone
from relgraph.networks.depthwise import depthwise_in_float32
from relgraph.training.hardware import native_bf16, processor

STUDENTS = (
    "timm:mobilenetv2_050,timm:mobilenetv3_small_050,timm:mobilenetv4_conv_small,timm:efficientnet_b0,"
    "timm:convnext_atto,torchvision:shufflenet_v2_x0_5,resnet8x4"
)
FORMS = ("float32", "bfloat16", "relgraph")

WHAT = """\
Forward and backward. bfloat16 is torch's autocast; relgraph's has slow depthwise convolutions in float32. The ratio is
autocast's time to relgraph's, within each round: above 1 relgraph is faster."""


def measure_precision(
    students: list[str], *, batch_size: int, image_size: int, steps: int, rounds: int, processor_time: bool = False,
    progress: Progress = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Return times of a step of each student in each form, all in turn, every sample and the ratios, ready for JSON.

    Raises:
        RelgraphError: for a student that is unknown, or does not take such images.
    """
    torch.manual_seed(0)
    images = torch.rand(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    tasks = {}
    for name in students:
        progress(f"building {name}")
        plain = build_backbone(name, 3, image_size=image_size).to(memory_format=torch.channels_last).train()
        ours = depthwise_in_float32(copy.deepcopy(plain))
        for form in FORMS:
            network = ours if form == "relgraph" else plain
            tasks[f"{name}, {form}"] = partial(_passes, network, images, form != "float32")
    clock = time.process_time if processor_time else time.perf_counter
    times = in_turn(tasks, rounds=rounds, repetitions=steps, device=torch.device("cpu"), progress=progress, clock=clock)
    rows = []
    for name in students:
        own = {form: times[f"{name}, {form}"] for form in FORMS}
        rows.append({"student": name, **{form: taken.samples for form, taken in own.items()},
                     "ratio": ratio_of(own["bfloat16"], own["relgraph"])})  # fmt: skip
    settings = {"batch_size": batch_size, "image_size": image_size, "steps": steps, "rounds": rounds}
    machine = {"device": processor(), "bfloat16": native_bf16(), "threads": torch.get_num_threads(),
               "torch": torch.__version__, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}  # fmt: skip
    return {"measurement": "precision", "settings": settings, "processor_time": processor_time, "machine": machine,
            "rows": rows}  # fmt: skip


def _passes(network: nn.Module, images: Tensor, autocast: bool, n: int) -> Iterator[None]:
    yield
    for _ in range(n):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            vectors = network(images)
        vectors.float().square().mean().backward()


@click.command()
@click.option("--students", default=STUDENTS, show_default=True, callback=names_of, help="As relgraph students lists.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=2), help="Images in a batch.")
@click.option("--image-size", default=96, show_default=True, type=click.IntRange(min=8), help="Side in pixels.")
@click.option("--steps", default=10, show_default=True, type=click.IntRange(min=1), help="Steps in a window of time; "
              "fewer where they take over a second.")  # fmt: skip
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1), help="Windows of each, in turn.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the processor.  [default: as torch chooses]")
@click.option("--processor-time", is_flag=True, help="Of this process, on a CPU that others use as well.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample to a file.")
def precision(
    students: tuple[str, ...],
    batch_size: int,
    image_size: int,
    steps: int,
    rounds: int,
    threads: int | None,
    processor_time: bool,
    file: Path | None,
) -> None:
    """Measure a step of small networks on a CPU, in float32, in bfloat16 and as relgraph trains them in bfloat16.

    Images are random, and so are weights. About two minutes on one core.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with tqdm(bar_format="{desc} ({elapsed})", disable=None) as line:
        report = measure_precision(
            list(students), batch_size=batch_size, image_size=image_size, steps=steps, rounds=rounds,
            processor_time=processor_time, progress=line.set_description_str,
        )  # fmt: skip
    if file is not None:
        write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())
    click.echo(tables(report))


def tables(report: dict[str, Any]) -> str:
    """Return the report as text."""
    machine, settings = report["machine"], report["settings"]
    rows = [[row["student"], *(1e3 * median(row[form]) for form in FORMS), row["ratio"]["median"],
             f"{row['ratio']['min']:.2f} .. {row['ratio']['max']:.2f}"] for row in report["rows"]]  # fmt: skip
    native = "" if machine["bfloat16"] else ", without instructions for bfloat16"
    conditions = (
        f"{machine['device']}{native}, threads: {machine['threads']}, torch {machine['torch']}, {machine['date']};\n"
        f"batch {settings['batch_size']}, {settings['image_size']} px; medians, rounds: {settings['rounds']}"
    )
    conditions += ", processor time" if report["processor_time"] else ""
    shown = table(["student", *(f"{form}, ms" for form in FORMS), "ratio", "lowest .. highest"], rows)
    return "\n\n".join([shown, WHAT, conditions])
