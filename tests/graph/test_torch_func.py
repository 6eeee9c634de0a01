"""`torch.func` on every form: grad, jacrev, jvp, and vmap over several graph pairs say what autograd does of each."""

from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

from relgraph.graph import pair
from relgraph.graph.blocks import sum_of_blocks
from relgraph.graph.contrast import over_keys
from relgraph.graph.criteria import huber, mean_square
from relgraph.graph.factored import squares
from relgraph.graph.kernels import centred, cosine, euclidean, linear, pearson
from relgraph.graph.keys import keys_around, related_to_keys
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm, by_max, by_mean, by_norm
from relgraph.graph.search import edge_weights
from relgraph.graph.topology import Chooser, Given, Nearest
from tests.checks import case, small_blocks

GRAPHS, N, D = 3, 7, 4
EDGE_INDEX = torch.tensor([[3, 1, 0, 2, 4, 6, 0], [0, 0, 2, 5, 5, 0, 6]])
KEYS = torch.nn.functional.normalize(torch.randn(9, D, generator=torch.Generator().manual_seed(1)).double(), dim=-1)
Loss = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let several blocks be needed everywhere, and no constant be known before."""
    small_blocks(monkeypatch, N)
    pair._all_edges.cache_clear()


LOSSES: dict[str, Loss] = {
    "matrix": Relation(pearson, form="matrix"),
    "matrix, by mean": Relation(euclidean, scale=by_mean, criterion=huber, form="matrix"),
    "factored": Relation(pearson, form="factored"),
    "factored, by norm": Relation(linear, scale=by_anchor_norm, criterion=mean_square, form="factored"),
    "factored, centred": Relation(centred(linear), scale=by_norm, criterion=mean_square, form="factored"),
    "blocked": Relation(pearson, criterion=huber, form="blocked"),
    "blocked, by mean": Relation(euclidean, scale=by_mean, criterion=huber, form="blocked"),
    "blocked, by max": Relation(euclidean, scale=by_max, criterion=huber, form="blocked"),
    "given": Relation(cosine, Given(EDGE_INDEX), form="matrix"),
    "given, blocked": Relation(cosine, Given(EDGE_INDEX), form="blocked"),
    "against, matrix": Relation(pearson, form="matrix", against="teacher"),
    "against, factored": Relation(linear, scale=by_anchor_norm, form="factored", against="teacher"),
    "against, blocked": Relation(euclidean, scale=by_mean, criterion=huber, form="blocked", against="teacher"),
    "against, blocked, by max": Relation(cosine, scale=by_max, criterion=huber, form="blocked", against="teacher"),
    "against, given": Relation(cosine, Given(EDGE_INDEX), form="blocked", against="teacher"),
    "keys": lambda s, t: related_to_keys(
        Relation(cosine, criterion=huber, against="teacher"), s, t, KEYS, keys_around(cosine, t, KEYS, 4)
    ),
    "edge_weights": lambda s, t: (edge_weights(s, t, EDGE_INDEX, euclidean) ** 2).sum(),
    "squares": lambda s, t: squares(s, t).within.sqrt() + 2 * squares(s, t).across,
    "over_keys": lambda s, t: over_keys(s, KEYS, largest=2 * N)[0] @ over_keys(t, KEYS, largest=2 * N)[0],
    "sum_of_blocks": lambda *ends: sum_of_blocks(lambda some, s, t: (s[some] @ t.mT).sin().sum(), ends, N, 2).square(),
}


def nodes() -> tuple[Tensor, Tensor]:
    return torch.randn(GRAPHS, N, D).double(), torch.randn(GRAPHS, N, D).double()


def same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def by_autograd(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    ends = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    return torch.autograd.grad(loss(*ends), ends)


@pytest.mark.parametrize("name", LOSSES)
def test_every_transform_says_what_autograd_does(name: str) -> None:
    loss, (students, teachers), (of_student, of_teacher) = LOSSES[name], nodes(), (x[0] for x in nodes())
    student, teacher = students[0], teachers[0]
    # First, so that no constant is known.
    found = [transform(loss, argnums=(0, 1))(student, teacher) for transform in (grad, jacrev)]
    gradients = by_autograd(loss, student, teacher)
    for each in found:
        same(each, gradients)
    same(grad(loss)(student, teacher), gradients[0])

    value, along = jvp(loss, (student, teacher), (of_student, of_teacher))[:2]
    same(value, loss(student, teacher))
    one, other = ((g * change).sum() for g, change in zip(gradients, (of_student, of_teacher), strict=True))
    same(along, one + other)
    same(jvp(lambda s: loss(s, teacher), (student,), (of_student,))[1], one)

    pairs = list(zip(students, teachers, strict=True))
    same(vmap(loss)(students, teachers), torch.stack([loss(*ends) for ends in pairs]))
    each_pair = zip(*(by_autograd(loss, *ends) for ends in pairs), strict=True)
    same(vmap(grad(loss, argnums=(0, 1)))(students, teachers), tuple(torch.stack(column) for column in each_pair))


def test_neighbours_are_found_inside_grad() -> None:
    student, teacher = (x[0] for x in nodes())
    for by, form in product(get_args(Chooser), ("matrix", "blocked")):
        loss = Relation(euclidean, Nearest(3, by), by_mean, huber, form)  # type: ignore[arg-type]
        with case(by, form):
            same(grad(loss, argnums=(0, 1))(student, teacher), by_autograd(loss, student, teacher))
