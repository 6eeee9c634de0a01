"""The command `bench.py scaling`."""

import json
from pathlib import Path
from typing import Any

import click
import torch
from relgraph_cli.show import table
from tqdm import tqdm

from benchmark.scaling import SIZES, ScalingSettings, measure_scaling
from benchmark.scaling_fit import draw_scaling
from relgraph.files import write_atomically

EPILOG = """\b
Examples:
  python experiments/bench.py scaling
  python experiments/bench.py scaling --quick --threads 1
  python experiments/bench.py scaling --method pkt --sizes 1024,4096,16384 --forms matrix,blocked
  python experiments/bench.py scaling --json scaling.json --plot scaling.png
"""

WHAT_TIME = """\
One forward and backward of the loss alone on random embeddings, float32; a dash where a form was not measured. The last
row: time grows with this power of N, fitted to the larger half of a form's sizes."""
WHAT_MEMORY = {
    "cpu": """\
Most memory that was resident during a step, beyond what was before it: neither embeddings nor libraries count.""",
    "cuda": "Most memory that torch allocated on the GPU during a step, beyond the embeddings.",
}
WHAT_COMMUNICATION = """\
What one process receives in a step, and sends as well, where a batch of 64 images a process is spread over several:
all rows gathered (matrix, blocked, k-NN), or three products D x D summed (factored). Beside it, with any loss, the
gradients of resnet8x4."""


def names_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Return the parts of a list with commas."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _sizes(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers such as 256,512") from None


@click.command(epilog=EPILOG)
@click.option("--method", default="ega", show_default=True, help="A method over the graphs of a batch.")
@click.option("--dim", default=256, show_default=True, type=click.IntRange(min=2), help="Width D of the embeddings.")
@click.option("--sizes", callback=_sizes, help="Numbers N of nodes.  [default: 256,512,...,65536; --quick: to 4096]")
@click.option("--forms", callback=names_of, help="Some of matrix,factored,blocked,knn.  [default: what the method has]")
@click.option("--k", default=8, show_default=True, type=click.IntRange(min=1), help="Neighbours of each node, for knn.")
@click.option("--rounds", type=click.IntRange(min=1), help="Windows of time, in turn.  [default: 5; --quick: 3]")
@click.option("--max-seconds", default=10.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="A form grows no further where a step would take longer.")  # fmt: skip
@click.option("--max-gib", default=4.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Nor where it would hold more.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the processor.  [default: as torch chooses]")
@click.option("--quick", is_flag=True, help="Small sizes and no memory: about a minute.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample to a file.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curves into a PNG file.")
def scaling(
    method: str,
    dim: int,
    sizes: tuple[int, ...] | None,
    forms: tuple[str, ...] | None,
    k: int,
    rounds: int | None,
    max_seconds: float,
    max_gib: float,
    device: str,
    threads: int | None,
    quick: bool,
    file: Path | None,
    plot: Path | None,
) -> None:
    """Measure what the loss alone takes as the batch grows.

    Time and memory against the number N of nodes: through the matrices of all pairs, factored, in blocks, and of the
    graph of k nearest neighbours found in blocks. All are measured in turn in one run, memory in processes of their
    own. Some ten minutes on two cores.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = ScalingSettings(
        method=method,
        dim=dim,
        sizes=sizes or (tuple(n for n in SIZES if n <= 4096) if quick else SIZES),
        forms=forms,
        k=k,
        rounds=rounds or (3 if quick else 5),
        device=device,
        threads=threads,
        memory=not quick,
        max_seconds=max_seconds,
        max_bytes=round(max_gib * 2**30),
    )
    with tqdm(bar_format="{desc} ({elapsed})", disable=None) as line:
        report = measure_scaling(settings, line.set_description_str)
    if file is not None:
        write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())
    if plot is not None:
        draw_scaling(report, plot)
    click.echo(tables(report))


def tables(report: dict[str, Any]) -> str:
    """Return the report of a measurement of scaling as text."""
    parts = [_table(report, "time", "ms", lambda row: f"{1e3 * row['time']['median']:.1f}"), WHAT_TIME]
    if any(row["bytes"] is not None for row in report["rows"]):
        parts += [_table(report, "memory", "MiB", _mebibytes), WHAT_MEMORY[report["machine"]["type"]]]
    parts += [f"{s['form']} ends before N = {s['n']:,}: {s['why']}." for s in report["stopped"]]
    if report["communication"]:
        parts += [_communication(report["communication"]), WHAT_COMMUNICATION]
    return "\n\n".join([*parts, _conditions(report)])


def _mebibytes(row: dict[str, Any]) -> str | None:
    return None if row["bytes"] is None else f"{row['bytes'] / 2**20:.1f}"


def _table(report: dict[str, Any], what: str, unit: str, cell: Any) -> str:
    forms = list(report["exponents"])
    found = {(row["form"], row["n"]): cell(row) for row in report["rows"]}
    sizes = sorted({n for _, n in found})
    rows = [[f"{n:,}", *(found.get((form, n)) for form in forms)] for n in sizes]
    powers = [report["exponents"][form][what] for form in forms]
    last = ["power of N", *powers]
    return table([f"N ({what} in {unit})", *forms], [*rows, last])


def _communication(rows: list[dict[str, float]]) -> str:
    kinds = ("gathered", "summed", "gradients")
    return table(
        ["processes", *(f"{kind}, MiB" for kind in kinds)],
        [[f"{row['processes']}", *(row[kind] / 2**20 for kind in kinds)] for row in rows],
    )


def _conditions(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    load = "" if machine["load_before"] is None else f", load {machine['load_before']:.1f} before"
    rounds = f"{settings['rounds']} round{'s' if settings['rounds'] > 1 else ''}"
    return (
        f"{machine['device']}, {threads}{load}, torch {machine['torch']}, {machine['date']};\n"
        f"{settings['method']}, D = {settings['dim']}, k = {settings['k']}; medians of {rounds}"
    )
