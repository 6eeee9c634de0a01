"""How fast this machine trains, and what it takes: `make bench`, or with options

python experiments/bench.py --quick
python experiments/bench.py scaling --plot scaling.png
python experiments/bench.py students
python experiments/bench.py precision
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from click.core import ParameterSource
from relgraph_cli.main import Commands
from relgraph_cli.show import table
from tqdm import tqdm

from benchmark.loops import Settings
from benchmark.precision import precision
from benchmark.scaling_command import scaling
from benchmark.students import students
from benchmark.training import measure_training
from relgraph.files import write_atomically

EPILOG = """\b
Examples:
  python experiments/bench.py
  python experiments/bench.py --quick
  python experiments/bench.py scaling --plot scaling.png
  python experiments/bench.py students --students resnet8,vgg8 --threads 1
  python experiments/bench.py precision --threads 1
  python experiments/bench.py --compile --student resnet20 --teacher timm:vit_small_patch14_dinov2 --json bench.json
"""

WHAT_STEPS = """\
A training step: views, student, teacher's features, loss, both optimisers, running sums. The ratio is to cross-entropy
alone in the same precision, not compiled, within each round."""
WHAT_LOOPS = """\
The whole loop: data, views, teacher, step, metrics. The original's way is re-created from its description: the teacher
in every step on its own crop, PIL transforms in two worker processes, float32, figures read back in every step."""
WHAT_MEMORY = {
    "cpu": """\
Peak memory, each in a process of its own: what was resident, Python and libraries included, loader processes not.""",
    "cuda": "Peak memory, each in a process of its own: what torch allocated on the GPU.",
}


@click.command(epilog=EPILOG)
@click.option("--student", default="resnet8x4", show_default=True, help="A student, as relgraph students lists them.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=2), help="Images in a batch.")
@click.option(
    "--teacher",
    default="open_clip:ViT-B-32",
    show_default=True,
    help="timm:NAME or open_clip:NAME; gets random weights.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Steps in a window of time; fewer where they take over a "
              "second.  [default: 10]")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), help="Windows of each row, in turn.  [default: 5]")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the processor.  [default: as torch chooses]")
@click.option("--compile", is_flag=True, help="Also measure the student compiled; needs a C++ compiler on a CPU.")
@click.option("--quick", is_flag=True, help="Three rounds and no memory.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample to a file.")
def training(
    student: str,
    batch_size: int,
    teacher: str,
    steps: int | None,
    rounds: int | None,
    device: str,
    threads: int | None,
    compile: bool,
    quick: bool,
    file: Path | None,
) -> None:
    """Measure how fast this machine trains, and with what memory.

    On random images of 32 pixels in 100 classes; teacher and embeddings are random too, so nothing is downloaded. All
    rows of a table are measured in turn in one run: compare ratios, not times of different days. Some three minutes on
    two cores. `bench.py scaling` measures what the loss alone takes as the batch grows, `bench.py students` what the
    trainer takes beyond a bare loop, `bench.py precision` what small networks take in bfloat16.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(
        student=student,
        batch_size=batch_size,
        teacher=teacher,
        steps=steps or 10,
        rounds=rounds or (3 if quick else 5),
        device=device,
        compile=compile,
        memory=not quick,
    )
    with tqdm(bar_format="{desc} ({elapsed})", disable=None) as line:
        report = measure_training(settings, line.set_description_str)
    if file is not None:
        write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())
    click.echo(tables(report))


@click.pass_context
def _training_by_default(context: click.Context, /, **options: Any) -> None:
    """Measure training if no command is given; its options must not stand before a command."""
    if context.invoked_subcommand is None:
        context.invoke(training, **options)
        return
    given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"options stand behind {context.invoked_subcommand}, got --{given[0]} before it")


bench = Commands(
    "bench",
    commands=[training, scaling, students, precision],
    callback=_training_by_default,
    invoke_without_command=True,
    params=training.params,
    help=training.help,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def tables(report: dict[str, Any]) -> str:
    """Return the report of a measurement of training as text."""
    parts = [_steps(report["steps"]), WHAT_STEPS, _loops(report["loops"]), WHAT_LOOPS]
    if report["memory"]:
        parts += [_memory(report["memory"]), WHAT_MEMORY[report["machine"]["type"]]]
    compiled = [row["first_seconds"] for row in report["steps"] if row["compiled"]]
    if compiled:  # the later ones use what the first has compiled
        parts.append(f"Compiling took {max(compiled):.0f} s, before the first step, and is in no row.")
    return "\n\n".join([*parts, _conditions(report)])


def _steps(rows: list[dict[str, Any]]) -> str:
    return table(
        ["training step", "precision", "compiled", "ms", "ratio", "lowest .. highest"],
        [
            [row["name"], row["precision"], "yes" if row["compiled"] else "no", 1e3 * median(row["seconds"]),
             row["ratio"]["median"], _range(row["ratio"])]
            for row in rows
        ],
    )  # fmt: skip


def _loops(rows: list[dict[str, Any]]) -> str:
    return table(
        ["whole loop", "precision", "images/s", "lowest .. highest", "times the original"],
        [
            [row["name"], row["precision"], f"{row['images_per_s']['median']:.1f}", _range(row["images_per_s"], 1),
             row["ratio"]["median"]]
            for row in rows
        ],
    )  # fmt: skip


def _memory(rows: list[dict[str, Any]]) -> str:
    return table(
        ["whole loop", "precision", "peak memory in MiB"],
        [
            [row["name"], row["precision"], None if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}"]
            for row in rows
        ],
    )


def _range(values: dict[str, float], digits: int = 2) -> str:
    return f"{values['min']:.{digits}f} .. {values['max']:.{digits}f}"


def _conditions(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    load = "" if machine["load_before"] is None else f", load {machine['load_before']:.1f} before"
    rounds = f"{settings['rounds']} round{'s' if settings['rounds'] > 1 else ''}"
    size = f"batch {settings['batch_size']}, {settings['image_size']} px, {settings['classes']} classes"
    return (
        f"{machine['device']}, {threads}{load}, torch {machine['torch']}, {machine['precision']} by itself, "
        f"{machine['date']};\nstudent {settings['student']}, {size};\n"
        f"teacher {settings['teacher']}, {machine['teacher_size']} px, random weights; medians of {rounds}"
    )


if __name__ == "__main__":
    bench()
