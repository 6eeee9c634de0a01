"""What tests of single methods share: random inputs, those of a closed form, and the authors' numbers for them."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from relgraph.graph.topology import Nearest
from relgraph.methods import Batch, Output

STORED = sorted(Path(__file__).parents[1].glob("golden*.json"))
GOLDEN: dict[str, dict[str, Any]] = {
    key: entry for file in STORED for key, entry in json.loads(file.read_text(encoding="utf-8"))["golden"].items()
}


def outer(rows: int, first: int, columns: int, start: int) -> Tensor:
    """Return `(i + first)(j + start)`."""
    i = torch.arange(rows, dtype=torch.float64) + first
    j = torch.arange(columns, dtype=torch.float64) + start
    return i[:, None] * j


def embeddings(n: int = 8, dim: int = 16, teacher: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the embeddings of student and teacher, of one width unless the teacher's is given."""
    return torch.cos(0.07 * outer(n, 2, dim, 1)), torch.sin(0.1 * outer(n, 1, teacher or dim, 1))


def logits(n: int = 8, classes: int = 10, phase: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the logits of student and teacher; those of a strong view are at phase 0.5."""
    s, t = 0.2 * outer(n, 1, classes, 2), 0.3 * outer(n, 1, classes, 1)
    return 2 * torch.cos(s + phase), 2 * torch.sin(t + phase)


def maps(*shape: int, phase: float) -> tuple[Tensor, Tensor]:
    """Return stage maps of student and teacher: golden's fm1 is (8, 4, 8, 8) at phase 0, fm2 (8, 8, 4, 4) at 0.5."""
    b, c, h, w = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    student = torch.cos(0.07 * (b + 2) * (c + 1) + 0.15 * (h + 2) * (w + 1) + phase)
    return student, torch.sin(0.1 * (b + 1) * (c + 1) + 0.2 * (h + 1) * (w + 2) + phase)


def queue_keys(count: int = 32) -> Tensor:
    """Return the keys of a queue, (count, 16)."""
    return normalize(torch.sin(0.05 * outer(16, 1, count, 2) + 0.3), dim=0).T


def of_logits(logits: Tensor) -> Output:
    """Return an output of nothing but logits."""
    return Output(logits=logits)


def random_output(rows: int, dim: int, classes: int, width: int, maps: Sequence[tuple[int, ...]] = ()) -> Output:
    """Return an output of random embeddings, logits, features and stage maps of these sizes."""
    shapes = (rows, dim), (rows, classes), (rows, width), *((rows, *shape) for shape in maps)
    embedding, logits, feature, *stages = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return Output(embedding, logits, feature, tuple(stages))


def output_of_maps(shapes: Sequence[tuple[int, ...]], n: int = 3) -> Output:
    """Return an output with random stage maps of these shapes."""
    return Output(torch.zeros(n, 2), maps=tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes))


def halved(maps: Tensor) -> Tensor:
    """Return the means of maps over windows of 2 x 2."""
    return torch.stack([maps[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]).mean(0)


def standardised(maps: Tensor) -> Tensor:
    """Return what a new batch norm in training mode makes of maps."""
    mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) / (variance + 1e-5).sqrt()


def attended(maps: Tensor) -> Tensor:
    """Return each image's attention: the mean of the squares over channels by position, divided by its length."""
    positions = maps.square().mean(1).flatten(1)
    return positions / positions.square().sum(1, keepdim=True).sqrt()


def ntxent(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return NT-Xent (SimCLR, equation 1): the mean over 2N anchors, each among the other 2N - 1 vectors."""
    both = [x / x.norm() for x in [*student, *teacher]]
    values = []
    for i, anchor in enumerate(both):
        weights = {j: torch.exp(anchor @ key / tau) for j, key in enumerate(both) if j != i}
        other = (i + len(student)) % len(both)
        values.append(-torch.log(weights[other] / torch.stack(list(weights.values())).sum()))
    return torch.stack(values).mean()


def infonce(student: Tensor, teacher: Tensor, keys: Iterable[Tensor], tau: float) -> Tensor:
    """Return InfoNCE (MoCo, equation 1) with keys of unit length: a cross-entropy with target 0, image by image."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        weights = torch.stack([s @ key / s.norm() for key in [t / t.norm(), *keys]]) / tau
        values.append(cross_entropy(weights, torch.tensor(0)))
    return torch.stack(values).mean()


def views_to_images(views: Tensor, images: Tensor, temperature: float = 1.0) -> float:
    """Return the loss of SSKD's head, view by view: row v * N + i is view v of image i."""
    total = 0.0
    for row, view in enumerate(views.detach()):
        weights = [math.exp(cosine_similarity(view, image, dim=0) / temperature) for image in images.detach()]
        total -= math.log(weights[row % len(images)] / sum(weights))
    return total / len(views)


def batch(labels: Sequence[int]) -> Batch:
    """Return a batch of the first images with these labels."""
    return Batch(torch.arange(len(labels)), torch.tensor(labels))


def vectors(n: int, student: int, teacher: int) -> tuple[Tensor, Tensor]:
    """Return random vectors of student and teacher; those of the student learn."""
    return torch.randn(n, student).double().requires_grad_(), torch.randn(n, teacher).double()


def value_and_gradient(loss: Callable[..., Tensor], student: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """Return a loss and its gradient for the student's vectors."""
    value = loss(student, *others)
    return value, torch.autograd.grad(value, student)[0]


def nearest(rows: Sequence[Any], k: int, distance: Callable[[Any, Any], float]) -> list[tuple[int, int]]:
    """Return the edges (neighbour, anchor) of each row's k nearest others, by Python's sort."""

    def others(i: int) -> list[int]:
        return sorted((j for j in range(len(rows)) if j != i), key=lambda j: distance(rows[i], rows[j]))

    return [(j, i) for i in range(len(rows)) for j in others(i)[:k]]


EDGES = [(1, 0), (2, 0), (6, 3), (0, 5), (3, 6)]  # (neighbour, anchor), among at least seven nodes


def graphs_with_edges(
    teacher: Sequence[Any], distance: Callable[[Any, Any], float], ks: Sequence[int] = (1, 3, 6)
) -> list[tuple[str | Nearest | Tensor, list[tuple[int, int]]]]:
    """Return graphs with their edges (neighbour, anchor), each node's edge to itself included."""
    nodes = range(len(teacher))
    own = [(i, i) for i in nodes]
    return [
        ("dense", [(j, i) for i in nodes for j in nodes]),
        *((Nearest(k), own + nearest(teacher, k, distance)) for k in ks),
        (torch.tensor(EDGES).T, own + EDGES),
    ]


def values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return terms as numbers."""
    return {name: term.item() for name, term in terms.items()}


def check(key: str, loss: Callable[[], Tensor], inputs: Mapping[str, Tensor]) -> None:
    """Compare the value of a loss, and its gradient's norm and first element for each input, with an entry.

    `inputs` holds the student's leaf tensors by the names that the entry gives them: student, fm1, student_logits...;
    none for an entry without gradients.
    """
    entry = GOLDEN[key]
    assert inputs or "grad_fro" not in entry, f"{key} lists gradients: {', '.join(entry['grad_fro'])}"
    for tensor in inputs.values():
        tensor.requires_grad_()
    value = loss()
    assert value.item() == pytest.approx(entry["value"], rel=1e-10, abs=1e-14)
    if not inputs:
        return
    gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    for name, gradient in zip(inputs, gradients, strict=True):
        found = torch.zeros(1, dtype=torch.float64) if gradient is None else gradient
        assert found.norm().item() == pytest.approx(entry["grad_fro"][name], rel=1e-10, abs=1e-14), name
        first = entry["grad_first"][name]
        assert found.flatten()[0].item() == pytest.approx(first, rel=1e-10, abs=1e-14), name
