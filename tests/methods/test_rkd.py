"""RKD against the authors' numbers and against loops over pairs and triplets."""

import copy
import math
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from relgraph.graph.criteria import huber
from relgraph.graph.kernels import cosine
from relgraph.graph.relation import Relation
from relgraph.graph.topology import ALL_PAIRS, Chooser, Edges, Nearest
from relgraph.methods import rkd
from relgraph.methods.rkd import RKD, related_angles
from tests.checks import assert_refused, case
from tests.graph.test_factored import largest_tensor
from tests.methods.golden import (
    EDGES,
    graphs_with_edges,
    nearest,
    value_and_gradient,
    values,
    vectors,
)

N = 7
GRAPHS: dict[str, RKD] = {
    "dense": RKD(),
    "knn": RKD(graph=Nearest(3)),
    "student's": RKD(graph=Nearest(3, "student")),
    "union": RKD(graph=Nearest(2, "union")),
    "mutual": RKD(graph=Nearest(2, "mutual")),
    "edge_index": RKD(graph=torch.tensor(EDGES).T),
}


def distance(x: list[list[float]], i: int, j: int) -> float:
    return math.dist(x[i], x[j])


def cosine_at(x: list[list[float]], i: int, j: int, k: int) -> float:
    lengths = distance(x, i, j) * distance(x, k, j)
    return sum((a - b) * (c - b) for a, b, c in zip(x[i], x[j], x[k], strict=True)) / lengths if lengths else 0.0


def mean_huber(pairs: list[tuple[float, float]]) -> float:
    terms = [(s - t) ** 2 / 2 if abs(s - t) < 1 else abs(s - t) - 0.5 for s, t in pairs]
    return sum(terms) / len(terms)


def loops(student: Tensor, teacher: Tensor, edges: list[tuple[int, int]]) -> dict[str, float]:
    """Return both terms, without weights, over edges (candidate, anchor), those of a node to itself included."""
    both = student.tolist(), teacher.tolist()
    pairs = []
    for x in both:
        distances = [distance(x, i, j) for i, j in edges]
        positive = [d for d in distances if d > 0]
        pairs.append([d * len(positive) / sum(positive) for d in distances])
    triplets = [(i, j, k) for (i, j), (k, other) in product(edges, edges) if j == other]
    angles = [tuple(cosine_at(x, *triplet) for x in both) for triplet in triplets]
    return {"distance": mean_huber(list(zip(*pairs, strict=True))), "angle": mean_huber([(s, t) for s, t in angles])}


def test_the_terms_are_loops_over_pairs_and_triplets() -> None:
    for n in (2, 3):
        student, teacher = vectors(n, 4, 6)
        expected = loops(student, teacher, list(product(range(n), range(n))))
        assert values(RKD(1, 1).terms(student, teacher)) == pytest.approx(expected, rel=1e-12), n
    student, teacher = vectors(N, 4, 6)
    graphs: list[tuple[Any, Any]] = [*graphs_with_edges(teacher.tolist(), math.dist, (1, 3))]
    s, t = (set(nearest(x.tolist(), 3, math.dist)) for x in (student, teacher))
    choosers: dict[Chooser, set[tuple[int, int]]] = {"student": s, "union": s | t, "mutual": s & t}
    graphs += [(Nearest(3, by), edges | {(i, i) for i in range(N)}) for by, edges in choosers.items()]
    for graph, edges in graphs:
        with case(graph):
            expected = loops(student, teacher, list(edges))
            assert values(RKD(1, 1, graph=graph).terms(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_equal_nodes_make_no_angle() -> None:
    student, teacher = (x.detach() for x in vectors(N, 4, 6))
    student[3] = student[5]
    expected = loops(student, teacher, list(product(range(N), range(N))))["angle"]
    found, gradient = value_and_gradient(RKD(0, 1), student.requires_grad_(), teacher)
    assert found.item() == pytest.approx(expected, rel=1e-12) and gradient.isfinite().all()


def test_blocks_of_anchors_are_all_at_once() -> None:
    student, teacher = vectors(9, 4, 6)
    relation = Relation(cosine, criterion=huber)
    # In no order: 0 and 5 have three candidates each, 2 and 6 one, the others none.
    given = Edges(torch.tensor([[3, 1, 0, 2, 4, 6, 0, 0], [0, 0, 2, 5, 5, 0, 5, 6]]), 9)
    for topology in (ALL_PAIRS, given, Edges(given.edge_index[:, :0], 9)):
        angles = partial(related_angles, relation, teacher=teacher, topology=topology)
        whole = value_and_gradient(partial(angles, largest=10**9), student)
        assert topology is not given or whole[0] > 0
        for largest in (1, 100, 7 * 9 * 9):
            with case(topology, largest):
                found = value_and_gradient(partial(angles, largest=largest), student)
                torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-14)
    assert whole[0] == 0 and whole[0].dtype == torch.float64 and not whole[1].any(), "without an edge"


def test_angles_of_float32_from_distances_are_those_of_float64_from_differences() -> None:
    relation = Relation(cosine, criterion=huber)
    torch.manual_seed(0)
    plain, equal = torch.randn(12, 40), torch.randn(12, 5)
    equal[3], equal[7] = equal[5], equal[5]
    outlier = torch.randn(12, 5)
    outlier[2] *= 1e4
    batches = {
        "plain": plain, "equal": equal, "outlier": outlier, "far": 1000 + plain, "tiny": 1e-30 * plain,
        "huge": 1e33 * plain, "line": plain[:, :1], "half": plain.bfloat16(), "all equal": torch.ones(12, 3),
    }  # fmt: skip
    for name, student in batches.items():
        for teacher in (torch.randn(12, 6), student.flip(0)):
            exact = value_and_gradient(
                partial(related_angles, relation, teacher=teacher.double()), student.double().requires_grad_()
            )
            assert name in ("line", "all equal") or exact[0] > 0.01
            for largest in (None, 1, 500):
                with case(name, largest):
                    own = student.clone().requires_grad_()
                    value, gradient = value_and_gradient(
                        partial(related_angles, relation, teacher=teacher, largest=largest), own
                    )
                    assert value.dtype == torch.float32
                    assert value.item() == pytest.approx(exact[0].item(), rel=1e-6)
                    close = 5e-3 if name == "half" else 1e-5
                    size = 0.1 if name == "line" else exact[1].abs().max().item()  # angles on a line do not change
                    assert (gradient.double() - exact[1]).abs().max().item() <= close * size


def test_no_more_than_a_block_of_triplets_is_ever_held() -> None:
    student, teacher = torch.randn(256, 16, requires_grad=True), torch.randn(256, 16)
    with largest_tensor() as seen:
        torch.autograd.backward(RKD()(student, teacher))
    assert seen.numel <= rkd.LARGEST < 256**3


def test_a_copy_computes_the_same_way() -> None:
    student, teacher = torch.randn(64, 512), torch.randn(64, 512)
    with largest_tensor() as seen:
        value = copy.deepcopy(RKD())(student, teacher)
    assert value == RKD()(student, teacher)
    assert seen.numel <= 64**3 < 64**2 * 512, "no differences"


def test_a_weight_of_zero_leaves_the_angles_out() -> None:
    student, teacher = vectors(N, 4, 6)
    assert list(RKD(1, 0).terms(student, teacher)) == ["distance"]
    torch.testing.assert_close(RKD(1, 0)(student, teacher), RKD(1, 1).terms(student, teacher)["distance"])
    assert RKD(0, 1).terms(student, teacher)["distance"].item() == 0


def test_one_dimension_or_one_edge_have_finite_gradients() -> None:
    for student in (torch.randn(4, 1), torch.ones(2, 6), (1e15 * torch.ones(4, 6)).bfloat16()):
        for graph in ("dense", Nearest(1), torch.tensor([[1], [0]])):
            with case(student, graph):
                found = value_and_gradient(RKD(graph=graph), student.requires_grad_(), student.detach().flip(0))
                assert all(each.isfinite().all() for each in found)


def test_no_number_of_a_large_batch_is_read_back_from_the_device() -> None:
    for graph in ("dense", "knn", "student's"):
        with FakeTensorMode():  # tensors without numbers
            student, teacher = torch.randn(130, 64, requires_grad=True), torch.randn(130, 32)
            value, gradient = value_and_gradient(GRAPHS[graph], student, teacher)
        assert value.shape == () and gradient.shape == (130, 64), graph


def test_what_it_refuses() -> None:
    assert_refused((lambda: RKD(0, 0.0), "RKD needs a weight above 0, got 0 for both distances and angles"))
