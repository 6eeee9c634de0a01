"""How long one forward and backward of CRD takes, against the official code's gathering form, in one run.

    python experiments/crd_speed.py

Prints medians in milliseconds and ratios to this package's CRD. The gathering form is the formula written out as the
official code computes it: the memories gathered to (N, K + 1, D) and multiplied in a batch. It is given the negatives,
which that code draws in the loader; CRD draws them within its time. One product of the batch with one memory, forward
and backward, is what either direction of CRD costs at least; it takes two. All forms are timed in turn, so that a
machine whose speed drifts treats them alike.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.methods import Batch, Output
from relgraph.methods.crd import CRD


def gathering(loss: CRD, student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
    """Return the loss for given images `(N, K + 1)`; the first column is the positive."""
    n, m = len(chosen), chosen.shape[1] - 1
    noise = m / loss.sampler.images
    s, t = normalize(loss.embed_student(student)), normalize(loss.embed_teacher(teacher))
    total = torch.zeros((), device=student.device)
    for anchors, bank, z in zip((s, t), (loss.teacher_bank, loss.student_bank), loss.log_z.exp(), strict=True):
        slots = bank.keys.index_select(0, chosen.flatten()).view(n, m + 1, -1)
        p = torch.exp((slots @ anchors.unsqueeze(-1)).squeeze(-1) / loss.tau) / z
        own = torch.log(p[:, 0] / (p[:, 0] + noise + 1e-7))
        others = torch.log(noise / (p[:, 1:] + noise + 1e-7))
        total = total - (own.sum() + others.sum()) / n
    return total


def seconds(form: Callable[[], Tensor], calls: int, cuda: bool) -> float:
    """Return the time of one forward and backward, the mean over some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        torch.autograd.backward(form())
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def build_forms(n: int, images: int, negatives: int, dim: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed, by name, after a check that CRD and the gathering form give one value."""
    labels = torch.arange(images) % 100
    loss = CRD(dim, dim, images, labels, negatives=negatives, key_dim=dim).to(device)
    student, teacher = torch.randn(n, dim, device=device, requires_grad=True), torch.randn(n, dim, device=device)
    indices = torch.randperm(images)[:n]
    batch = Batch(indices.to(device), labels[indices].to(device))
    loss.remember(Output(student.detach(), feature=student.detach()), Output(teacher, feature=teacher), batch)
    drawn = loss.sampler.others(batch.indices, negatives)
    chosen = torch.cat([batch.indices.unsqueeze(1), drawn], dim=1)
    torch.testing.assert_close(
        gathering(loss, student, teacher, chosen), loss(student, teacher, batch), rtol=1e-3, atol=0
    )
    return {
        "crd": lambda: loss(student, teacher, batch),
        "gathering": lambda: gathering(loss, student, teacher, chosen),
        # Its gradient is a matrix, as it is in a loss: that of a plain sum would be a faster product.
        "product": lambda: (student @ loss.teacher_bank.keys.T).square().sum(),
    }


@click.command(help=__doc__)
@click.option("--n", default=64, show_default=True, help="Images of a batch.")
@click.option("--images", default=50_000, show_default=True, help="Size of the training set.")
@click.option("--negatives", default=16_384, show_default=True, help="Draws for each image.")
@click.option("--dim", default=128, show_default=True, help="Width of the keys.")
@click.option("--rounds", default=7, show_default=True, help="Rounds for the median, after one more.")
@click.option("--calls", default=0, help="Calls in a round; 0: one on a CPU, ten on CUDA.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON.")
def main(n: int, images: int, negatives: int, dim: int, rounds: int, calls: int, out: Path | None) -> None:
    cuda = torch.cuda.is_available()
    calls = calls or (10 if cuda else 1)
    torch.manual_seed(0)
    forms = build_forms(n, images, negatives, dim, "cuda" if cuda else "cpu")
    samples = [{name: seconds(form, calls, cuda) for name, form in forms.items()} for _ in range(rounds + 1)][1:]
    medians = {name: statistics.median(sample[name] for sample in samples) for name in forms}
    facts: dict[str, Any] = {
        "where": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "load": None if cuda else round(os.getloadavg()[0], 1),
        "n": n, "images": images, "negatives": negatives, "dim": dim, "rounds": rounds, "calls": calls,
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value is not None))
    # The ratio is the median of the rounds' own ratios, which a drift of the machine's speed does not touch.
    ratios = {name: statistics.median(sample[name] / sample["crd"] for sample in samples) for name in forms}
    print(f"{'form':<12}{'median':>12}{'to crd':>10}{'least':>8}{'most':>8}")
    for name in forms:
        each = [sample[name] / sample["crd"] for sample in samples]
        print(f"{name:<12}{1e3 * medians[name]:>9.1f} ms{ratios[name]:>9.2f}x{min(each):>8.2f}{max(each):>8.2f}")
    if out is not None:
        content = {**facts, "median_seconds": medians, "ratio_to_crd": ratios, "samples": samples}
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
