"""What one forward and backward of RKD takes, its angles in blocks of anchors against all triplets at once, in one run.

    python experiments/rkd_memory.py --out rkd_memory.json

Three forms of the same loss: `RKD()`, whose angles follow from distances; the same parts with all triplets at once; and
the published formula written out, which forms all differences. Times are medians, taken in turn, so that a machine
whose speed drifts treats them alike. Memory is what a new process (on a GPU: its allocator) held at most beyond what it
held after a small batch.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from benchmark.memory import in_own_process, peak_resident
from benchmark.timing import in_turn, spread
from relgraph.files import write_atomically
from relgraph.graph.criteria import huber
from relgraph.graph.kernels import cosine, euclidean
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_mean
from relgraph.methods.rkd import RKD, related_angles

Loss = Callable[[Tensor, Tensor], Tensor]
SIZES = (64, 128, 256)
ROUNDS = 7


def at_once(student: Tensor, teacher: Tensor) -> Tensor:
    distance = Relation(euclidean, scale=by_mean, criterion=huber)(student, teacher)
    angle = related_angles(Relation(cosine, criterion=huber), student, teacher, largest=sys.maxsize)
    return 25 * distance + 50 * angle


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """Return RKD as its paper writes it, with means, and without a guard for equal nodes."""
    scaled, angles = [], []
    for x in (student, teacher):
        distance = torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist")
        scaled.append(distance / distance[distance > 0].mean())
        unit = normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=-1)
        angles.append(unit @ unit.mT)
    return 25 * smooth_l1_loss(*scaled) + 50 * smooth_l1_loss(*angles)


FORMS: dict[str, Loss] = {"blocks": RKD(), "at once": at_once, "formula": formula}


def steps(form: str, n: int, dim: int, device: str, count: int) -> Iterator[None]:
    """Draw a batch and yield; then do so many steps."""
    student = torch.randn(n, dim, device=device, requires_grad=True)
    teacher = torch.randn(n, dim, device=device)
    yield
    for _ in range(count):
        torch.autograd.backward(FORMS[form](student, teacher))


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_resident() or 0


def memory(form: str, n: int, dim: int, device: str) -> int:
    """Return the most bytes that one step of this process held, beyond what it held after a small batch."""
    for _ in steps(form, 8, 4, device, 1):
        pass
    before = peak_bytes(device)
    for _ in steps(form, n, dim, device, 1):
        pass
    return peak_bytes(device) - before


@click.command(help=__doc__)
@click.option("--dim", default=256, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON.")
def main(dim: int, out: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, D = {dim}, float32, medians of {ROUNDS} rounds")
    print(f"{'N':>5}" + "".join(f"{form:>26}" for form in FORMS))
    rows = []
    for n in SIZES:
        tasks = {form: partial(steps, form, n, dim, device) for form in FORMS}
        times = in_turn(tasks, rounds=ROUNDS, repetitions=50, device=torch.device(device))
        row = {
            form: {"seconds": spread(times[form].samples), "bytes": in_own_process(memory, form, n, dim, device)}
            for form in FORMS
        }
        rows.append({"n": n, "forms": row})
        cells = (f"{1e3 * r['seconds']['median']:>12.1f} ms{r['bytes'] / 2**20:>7.0f} MiB" for r in row.values())
        print(f"{n:>5}" + "".join(cells), flush=True)
    if out is not None:
        report = {"device": where, "torch": torch.__version__, "dim": dim, "rounds": ROUNDS, "sizes": rows}
        write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
