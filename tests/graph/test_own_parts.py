"""Criteria, scales, rules and kernels of one's own in every form, against loops over the anchors."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph import blocks, search
from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import Kernel, Product, dot, identity, squared_euclidean
from relgraph.graph.pair import STUDENT, Form, graph_pair
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale, raw
from relgraph.graph.search import Rows
from relgraph.graph.topology import Edges, Graph, Nearest, OwnRule, Rule
from tests.checks import case
from tests.graph.test_factored import with_gradient
from tests.methods.golden import nearest

N = 8
# Five anchors of two to four edges in no order; the others have none.
EDGE_INDEX = torch.tensor([[3, 1, 0, 2, 4, 6, 0, 0, 5, 7, 4, 1, 6, 7], [0, 0, 2, 5, 5, 0, 5, 6, 6, 2, 3, 3, 3, 0]])
TOPOLOGIES: dict[str, Graph] = {
    "all pairs": "dense",
    "nearest": Nearest(3),
    "union": Nearest(2, "union"),
    "given": EDGE_INDEX,
}
Loss = Callable[[Tensor, Tensor], Tensor]
Weight = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no block hold all anchors, nor all edges."""
    monkeypatch.setattr(blocks, "LARGEST", 3 * N)
    monkeypatch.setattr(search, "BLOCK", 3)
    monkeypatch.setattr(search, "CHUNK", 5)


def nodes() -> tuple[Tensor, Tensor]:
    return torch.randn(N, 3).double(), torch.randn(N, 4).double()


def square(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum()


def candidates(topology: str, student: Tensor, teacher: Tensor, weight: Weight) -> list[list[int]]:
    def near(x: Tensor, k: int) -> set[tuple[int, int]]:
        return set(nearest(list(x), k, lambda one, other: float(weight(one, other))))

    edges = {
        "all pairs": product(range(N), range(N)),
        "nearest": near(teacher, 3),
        "union": near(student, 2) | near(teacher, 2),
        "given": EDGE_INDEX.T.tolist(),
    }[topology]
    around: list[list[int]] = [[] for _ in range(N)]
    for neighbour, anchor in edges:
        around[anchor].append(neighbour)
    return around


def loop(row: Loss, around: list[list[int]], weight: Weight = square) -> Loss:
    """Return the loss that a loop over anchors is: the mean of `row` over all, which is 0 of those without edges."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        total = student.new_zeros(())
        for i, near in enumerate(around):
            if near:
                s, t = (torch.stack([weight(x[i], x[j]) for j in near]) for x in (student, teacher))
                total = total + row(s, t)
        return total / N

    return loss


def assert_same(relation: Relation, expected: Loss, student: Tensor, teacher: Tensor) -> None:
    known = relation.builder.known_forms
    assert known == ("matrix", "blocked")
    truth = with_gradient(expected, student, teacher)
    for form in known:
        found = with_gradient(
            Relation(relation.kernel, relation.topology, relation.scale, relation.criterion, form), student, teacher
        )
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)


def largest(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().amax(-1)


def unlike(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 less Pearson's correlation of each row."""
    s, t = (x - x.mean(-1, keepdim=True) for x in (student, teacher))
    lengths = torch.linalg.vector_norm(s, dim=-1) * torch.linalg.vector_norm(t, dim=-1)
    found: Tensor = 1 - (s * t).sum(-1) / lengths
    return found


def powers(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student - teacher) ** 4).sum(-1)


def from_the_farthest(weights: Tensor) -> Tensor:
    return (weights - weights.amax(-1, keepdim=True)) / weights.shape[-1]


MANHATTAN = Kernel("manhattan", identity, partial(torch.cdist, p=1.0), nearest_is_largest=False)
CUBES = Product(lambda x, y: (x.unsqueeze(-2) - y.unsqueeze(-3)).abs().pow(3).sum(-1), own=0.0)
MINKOWSKI = Kernel("minkowski", identity, CUBES, lambda cubes: cubes + 1, nearest_is_largest=False)
# Kernel, scale and criterion, of one's own or not, with the weight of a pair and the row of an anchor.
OWN: dict[str, tuple[Kernel, Any, Any, Weight, Loss]] = {
    "largest": (squared_euclidean, raw, largest, square, largest),
    "unlike": (squared_euclidean, raw, unlike, square, unlike),
    "powers": (squared_euclidean, raw, Criterion(powers, additive=True), square, powers),
    "scale": (squared_euclidean, from_the_farthest, largest, square,
              lambda s, t: largest(from_the_farthest(s), from_the_farthest(t))),
    "manhattan": (MANHATTAN, raw, unlike, lambda one, other: (one - other).abs().sum(), unlike),
    "minkowski": (MINKOWSKI, raw, unlike, lambda one, other: (one - other).abs().pow(3).sum() + 1, unlike),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_parts_of_ones_own_are_a_loop_over_anchors(name: str) -> None:
    kernel, scale, criterion, weight, row = OWN[name]
    for topology, graph in TOPOLOGIES.items():
        with case(topology):
            student, teacher = nodes()
            expected = loop(row, candidates(topology, student, teacher, weight), weight)
            assert_same(Relation(kernel, graph, scale, criterion), expected, student, teacher)


def test_a_criterion_is_named_by_its_function() -> None:
    assert Relation(criterion=largest).criterion.name == "largest"
    assert Relation(criterion=partial(largest)).criterion.name == "own"


def test_a_scale_of_ones_own_of_the_whole_graph_has_no_blocks() -> None:
    student, teacher = nodes()
    median = Scale("median", divisor=lambda weights: weights.median())
    relation = Relation(squared_euclidean, scale=median, criterion=largest)
    assert relation.forms() == ("matrix",)
    s, t = squared_euclidean(student), squared_euclidean(teacher)
    torch.testing.assert_close(relation(student, teacher), largest(s / s.median(), t / t.median()).mean())


class Ring(Rule):
    """Each node's next one, and the one after that."""

    def __call__(self, student: Rows, teacher: Rows, kernel: Kernel) -> Edges:
        node = torch.arange(len(teacher))
        after = [torch.stack([(node + step) % len(teacher), node]) for step in (2, 1)]
        return Edges(torch.cat(after, dim=1), len(teacher))


class FoundRing(Ring):
    """The same, found without the matrices."""

    blocked = True
    find = Ring.__call__


RING = [sorted(((i + 1) % N, (i + 2) % N)) for i in range(N)]


def test_a_rule_of_ones_own() -> None:
    student, teacher = nodes()
    expected = with_gradient(loop(unlike, RING), student, teacher)
    relation = Relation(squared_euclidean, Ring(), criterion=unlike)
    assert relation.builder.known_forms == ("matrix",)
    torch.testing.assert_close(with_gradient(relation, student, teacher), expected, rtol=1e-9, atol=1e-9)
    found = Relation(squared_euclidean, FoundRing(), criterion=unlike)
    assert_same(found, loop(unlike, RING), student, teacher)
    pair = graph_pair(student, teacher, topology=FoundRing().with_own(), form="blocked", match=False)
    assert sorted(map(tuple, pair[STUDENT].edge_index.T.tolist())) == sorted(
        (j, i) for i in range(N) for j in [i, *RING[i]]
    )


def test_a_function_that_is_a_rule() -> None:
    student, teacher = nodes()

    def near(student: Tensor, teacher: Tensor, kernel: Kernel) -> Edges:
        """Choose what is nearer than the mean of a row in both networks."""
        close = (student < student.mean(1, keepdim=True)) & (teacher < teacher.mean(1, keepdim=True))
        anchor, candidate = close.nonzero(as_tuple=True)
        return Edges(torch.stack([candidate, anchor]), len(teacher))

    def close(x: Tensor, i: int) -> set[int]:
        row = [float(square(x[i], x[j])) for j in range(N)]
        return {j for j in range(N) if row[j] < sum(row) / N}

    around = [sorted(close(student, i) & close(teacher, i)) for i in range(N)]
    assert len({len(row) for row in around}) > 1
    relation = Relation(squared_euclidean, near, criterion=largest)
    assert isinstance(relation.topology, OwnRule) and relation.builder.known_forms == ("matrix",)
    expected = with_gradient(loop(largest, around), student, teacher)
    torch.testing.assert_close(with_gradient(relation, student, teacher), expected, rtol=1e-9, atol=1e-9)


def test_what_is_learned_beside_the_nodes_has_no_blocks() -> None:
    """Inputs alone have a gradient in a term of blocks: layers on nodes learn in each form, others in the matrix."""
    layer, given = torch.nn.Linear(3, 3).double(), (torch.randn(N, 3).double(), torch.randn(N, 3).double())
    learned = Kernel("own", identity, dot, torch.nn.PReLU(dtype=torch.float64))
    for relation in (Relation(scale=layer), Relation(learned), Relation(criterion=layer), Relation(learned, "knn")):
        assert relation.builder.known_forms == ("matrix",)
    forms: tuple[Form, ...] = "matrix", "blocked"
    losses = [Relation(Kernel("layer", layer, dot), form=form)(*given) for form in forms]
    torch.testing.assert_close(*(torch.autograd.grad(loss, layer.weight)[0] for loss in losses))
