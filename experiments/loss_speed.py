"""How long one forward and backward of EGA takes, against the official formula written out, in one run.

    python experiments/loss_speed.py

Prints medians in milliseconds and the ratio to the formula. All forms are timed in turn, so that a machine whose
speed drifts treats them alike.
"""

import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor

from relgraph import EGA

ROUNDS = 9


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """Return EGA as its paper writes it: one Pearson matrix of both batches, without a guard for degenerate nodes."""
    both = torch.cat([student, teacher])
    both = both - both.mean(1, keepdim=True)
    both = both / both.norm(dim=1, keepdim=True)
    matrix, n = both @ both.T, len(student)
    node = torch.norm(matrix[:n, n:] - torch.eye(n, device=student.device))
    return 0.8 * node + 0.24 * torch.norm(matrix[:n, :n] - matrix[n:, n:])


def seconds(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, calls: int) -> float:
    """Return the time of one forward and backward, the mean over some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        torch.autograd.backward(loss(student, teacher))
    if student.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


@click.command(help=__doc__)
@click.option("--dim", default=256, show_default=True)
def main(dim: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, D = {dim}, float32, median of {ROUNDS} rounds")
    print(f"{'N':>6}{'formula':>14}{'all pairs':>20}{'k = 8':>20}")
    for n, calls in ((64, 50), (256, 20), (1024, 5)):
        student = torch.randn(n, dim, device=device, requires_grad=True)
        teacher = torch.randn(n, dim, device=device)
        forms: list[Callable[[Tensor, Tensor], Tensor]] = [formula, EGA(), EGA(graph="knn", k=8)]
        rounds = [[seconds(form, student, teacher, calls) for form in forms] for _ in range(ROUNDS + 1)][1:]
        base, *others = (statistics.median(column) for column in zip(*rounds, strict=True))
        cells = "".join(f"{1e3 * other:>12.2f} ({other / base:4.2f}x)" for other in others)
        print(f"{n:>6}{1e3 * base:>11.2f} ms{cells}")


if __name__ == "__main__":
    main()
