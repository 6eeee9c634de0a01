"""What one forward and backward of SEED's and MoCo's losses takes with a long queue, against the plain formulas.

    OMP_NUM_THREADS=1 python experiments/seed_speed.py --out seed_speed.json

The plain formulas are written out: the products of both networks' vectors (MoCo: the student's) with the queue, the own
column in front, softmax, logarithm and sum. Both forms give one value and gradient, which is checked. "products" are
those of both networks with the queue alone, forward and backward: what the plain formula of SEED computes at least.
Times are medians of rounds, taken in turn, so that a machine whose speed drifts treats all alike, and ratios are
medians of the rounds' own. Memory is what a new process (on a GPU: its allocator) held at most beyond what it held with
the queue drawn, after a step with a short one.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize, softmax

from benchmark.memory import in_own_process, peak_resident
from benchmark.timing import in_turn, spread
from relgraph.files import write_atomically
from relgraph.graph.contrast import queue_contrast, soft_queue_contrast
from relgraph.training.hardware import processor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
TAU, TEACHER_TAU = 0.2, 0.01


def plain_seed(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    student, teacher = normalize(student), normalize(teacher)
    with torch.no_grad():
        target = torch.cat([(teacher * teacher).sum(1, keepdim=True), teacher @ keys.T], dim=1)
        target = softmax(target / TEACHER_TAU, dim=1)
    weights = torch.cat([(student * teacher).sum(1, keepdim=True), student @ keys.T], dim=1)
    return -(target * log_softmax(weights / TAU, dim=1)).sum(1).mean()


def plain_moco(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    student, teacher = normalize(student), normalize(teacher)
    weights = torch.cat([(student * teacher).sum(1, keepdim=True), student @ keys.T], dim=1) / TAU
    return cross_entropy(weights, torch.zeros(len(student), dtype=torch.long, device=student.device))


def products(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    # The gradient is a matrix, as it is in a loss: that of a plain sum would be a faster product.
    return ((student @ keys.T) * (teacher @ keys.T)).sum()


FORMS: dict[str, Loss] = {
    "seed": lambda s, t, keys: soft_queue_contrast(s, t, keys, TAU, TEACHER_TAU),
    "seed, plain": plain_seed,
    "moco": lambda s, t, keys: queue_contrast(s, t, keys, TAU),
    "moco, plain": plain_moco,
    "products": products,
}
RATIOS = {"seed": "seed, plain", "moco": "moco, plain", "products": "seed, plain"}


def draw(n: int, queue: int, dim: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher, keys = (torch.randn(rows, dim, device=device) for rows in (n, n, queue))
    keys /= keys.norm(dim=1, keepdim=True)  # in place: what it takes to draw must not hide what a step takes
    return student.requires_grad_(), teacher, keys


def check(n: int, queue: int, dim: int, device: str) -> None:
    """Stop unless both forms have one value and one gradient."""
    drawn = draw(n, queue, dim, device)
    for form, plain in list(RATIOS.items())[:2]:
        values = [FORMS[name](*drawn) for name in (form, plain)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(v, drawn[0])[0] for v in values), rtol=1e-3, atol=1e-6)


def steps(form: str, n: int, queue: int, dim: int, device: str, count: int) -> Iterator[None]:
    """Draw a batch and yield; then do so many steps."""
    drawn = draw(n, queue, dim, device)
    yield
    for _ in range(count):
        torch.autograd.grad(FORMS[form](*drawn), drawn[0])


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_resident() or 0


def memory(form: str, n: int, queue: int, dim: int, device: str) -> int:
    """Return the most bytes that a step of this process held beyond its queue."""
    for _ in steps(form, 8, 16, 4, device, 1):
        pass
    running = steps(form, n, queue, dim, device, 1)
    next(running)
    before = peak_bytes(device)
    for _ in running:
        pass
    return peak_bytes(device) - before


@click.command(help=__doc__)
@click.option("--n", default=256, show_default=True, help="Images of a batch.")
@click.option("--dim", default=128, show_default=True, help="Width of the keys.")
@click.option("--queue", default=65_536, show_default=True, help="Number of keys.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON.")
def main(n: int, dim: int, queue: int, rounds: int, out: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    check(n, queue, dim, device)
    tasks = {form: partial(steps, form, n, queue, dim, device) for form in FORMS}
    times = in_turn(tasks, rounds=rounds, repetitions=20, device=torch.device(device))
    where = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    facts: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "where": where,
        "torch": torch.__version__,
        "load": None if device == "cuda" else round(os.getloadavg()[0], 1),
        "n": n, "dim": dim, "queue": queue, "rounds": rounds, "tau": TAU, "teacher_tau": TEACHER_TAU,
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value is not None))
    print(f"{'form':<14}{'median':>12}{'to plain':>10}{'least':>8}{'most':>8}{'memory':>12}")
    rows = {}
    for form in FORMS:
        own, plain = times[form].samples, times[RATIOS.get(form, form)].samples
        each = [a / b for a, b in zip(own, plain, strict=True)]
        held_at_most = in_own_process(memory, form, n, queue, dim, device)
        rows[form] = {"seconds": spread(own), "ratio_to_plain": spread(each), "bytes": held_at_most, "samples": own}
        line = f"{form:<14}{1e3 * median(own):>9.1f} ms{median(each):>9.2f}x{min(each):>8.2f}{max(each):>8.2f}"
        print(f"{line}{held_at_most / 2**20:>8.0f} MiB", flush=True)
    if out is not None:
        write_atomically(out, (json.dumps({**facts, "forms": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
