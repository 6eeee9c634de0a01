"""RKD against the authors' numbers and against loops over pairs and triplets."""

import math
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import huber
from relgraph.graph.kernels import cosine, euclidean
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_mean
from relgraph.graph.topology import Chooser, Nearest
from relgraph.methods.base import Batch, Output
from relgraph.methods.rkd import RKD
from tests.methods.golden import check
from tests.methods.golden import embeddings as golden_embeddings

N = 7
# 0 and 5 have three neighbours each, 2 and 6 one, the others none.
EDGE_INDEX = torch.tensor([[3, 1, 0, 2, 4, 6, 0, 0], [0, 0, 2, 5, 5, 0, 5, 6]])
GRAPHS: dict[str, RKD] = {
    "dense": RKD(),
    "knn": RKD(graph=Nearest(3)),
    "student's": RKD(graph=Nearest(3, "student")),
    "union": RKD(graph=Nearest(2, "union")),
    "mutual": RKD(graph=Nearest(2, "mutual")),
    "edge_index": RKD(graph=EDGE_INDEX),
}
each_graph = pytest.mark.parametrize("graph", GRAPHS)


def embeddings(n: int = N, student: int = 4, teacher: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(n, student).double().requires_grad_(), torch.randn(n, teacher).double()


def value_and_gradient(loss: RKD, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(student, teacher)
    return value, torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize(
    ("key", "weights"),
    [
        ("rkd_distance", (1, 0)),
        ("rkd_angle", (0, 1)),
        ("rkd_total_25_50", (25, 50)),
        ("rkd_metric_1_2", (1, 2)),
    ],
)
@pytest.mark.parametrize("graph", ["dense", Nearest(7)])
def test_official_value_and_gradient(graph: str | Nearest, key: str, weights: tuple[float, float]) -> None:
    student, teacher = golden_embeddings()
    loss = RKD(*weights, graph=graph)
    check(key, lambda: loss(student, teacher), {"student": student})
    if key == "rkd_total_25_50":
        check(key, lambda: RKD(graph=graph)(student, teacher), {"student": student})


def distance(x: list[list[float]], i: int, j: int) -> float:
    return math.dist(x[i], x[j])


def cosine_at(x: list[list[float]], i: int, j: int, k: int) -> float:
    lengths = distance(x, i, j) * distance(x, k, j)
    return sum((a - b) * (c - b) for a, b, c in zip(x[i], x[j], x[k], strict=True)) / lengths if lengths else 0.0


def mean_huber(pairs: list[tuple[float, float]]) -> float:
    terms = [(s - t) ** 2 / 2 if abs(s - t) < 1 else abs(s - t) - 0.5 for s, t in pairs]
    return sum(terms) / len(terms)


def loops(student: Tensor, teacher: Tensor, edges: set[tuple[int, int]]) -> dict[str, float]:
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


def nearest(x: Tensor, k: int) -> set[tuple[int, int]]:
    points, found = x.tolist(), set()
    for j in range(len(points)):
        others = sorted((i for i in range(len(points)) if i != j), key=lambda i: distance(points, i, j))
        found |= {(i, j) for i in others[:k]}
    return found


def own(n: int = N) -> set[tuple[int, int]]:
    return {(i, i) for i in range(n)}


@pytest.mark.parametrize("n", [2, 3, N])
def test_the_dense_form_is_a_loop_over_pairs_and_triplets(n: int) -> None:
    student, teacher = embeddings(n)
    expected = loops(student, teacher, set(product(range(n), range(n))))
    terms = RKD(2, 3).terms(student, teacher)
    assert terms["distance"].item() == pytest.approx(2 * expected["distance"], rel=1e-12)
    assert terms["angle"].item() == pytest.approx(3 * expected["angle"], rel=1e-12)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("by", ["teacher", "student", "union", "mutual"])
def test_the_sparse_form_is_a_loop_over_neighbours_and_the_node_itself(by: Chooser, k: int) -> None:
    student, teacher = embeddings()
    s, t = nearest(student, k), nearest(teacher, k)
    edges = {"teacher": t, "student": s, "union": s | t, "mutual": s & t}[by]
    terms = RKD(1, 1, graph=Nearest(k, by)).terms(student, teacher)
    found = {name: term.item() for name, term in terms.items()}
    assert found == pytest.approx(loops(student, teacher, edges | own()), rel=1e-12)


def test_given_edges_are_a_loop() -> None:
    student, teacher = embeddings()
    expected = loops(student, teacher, set(map(tuple, EDGE_INDEX.T.tolist())) | own())
    terms = RKD(1, 1, graph=EDGE_INDEX).terms(student, teacher)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("refine", [None, "smooth", "conv"])
@pytest.mark.parametrize("by", ["teacher", "student", "union", "mutual"])
@pytest.mark.parametrize("n", [2, N])
def test_all_neighbours_equal_the_dense_form(n: int, by: Chooser, refine: str | None) -> None:
    student, teacher = embeddings(n)
    refinement = None if refine is None else Refinement(refine, 4, 6).double()
    if refinement is not None:
        for parameter in refinement.parameters():
            nn.init.normal_(parameter)
    dense = RKD(refinement=refinement)
    sparse = RKD(graph=Nearest(n - 1, by), refinement=refinement)
    found, expected = (value_and_gradient(loss, student, teacher) for loss in (sparse, dense))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_large_batch_in_blocks_is_all_triplets_at_once() -> None:
    student, teacher = embeddings(150, 100, 30)
    angle = Relation(cosine, criterion=huber)(*(x.unsqueeze(0) - x.unsqueeze(1) for x in (student, teacher)))
    whole = 25 * Relation(euclidean, scale=by_mean, criterion=huber)(student, teacher) + 50 * angle
    expected = whole, torch.autograd.grad(whole, student)[0]
    torch.testing.assert_close(value_and_gradient(RKD(), student, teacher), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much memory a process held")
def test_a_large_batch_needs_little_memory() -> None:
    code = """
import torch
from benchmark.memory import peak_resident
from relgraph.methods.rkd import RKD

torch.set_num_threads(1)
for n, dim in ((8, 4), (256, 256)):
    before = peak_resident()
    torch.autograd.backward(RKD()(torch.randn(n, dim, requires_grad=True), torch.randn(n, dim)))
print((peak_resident() - before) / 2**20)
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "experiments")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert 0 < float(run.stdout) < 330  # MiB; some 165, and all triplets at once some 450


def test_a_weight_of_zero_leaves_the_angles_out() -> None:
    student, teacher = embeddings()
    assert list(RKD(1, 0).terms(student, teacher)) == ["distance"]
    torch.testing.assert_close(RKD(1, 0)(student, teacher), RKD(1, 1).terms(student, teacher)["distance"])
    assert RKD(0, 1).terms(student, teacher)["distance"].item() == 0


@each_graph
def test_the_order_of_the_batch_is_all_the_same(graph: str) -> None:
    student, teacher = embeddings()
    order = torch.randperm(N)
    loss = GRAPHS[graph]
    if graph == "edge_index":
        loss = RKD(graph=order.argsort()[EDGE_INDEX])
    found = value_and_gradient(loss, student.detach()[order].requires_grad_(), teacher[order])
    value, gradient = value_and_gradient(GRAPHS[graph], student, teacher)
    torch.testing.assert_close(found, (value, gradient[order]), rtol=1e-12, atol=1e-14)


@each_graph
def test_scale_shift_and_rotation_of_a_network_are_all_the_same(graph: str) -> None:
    student, teacher = embeddings()
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    moved = GRAPHS[graph](0.3 * student @ turn + torch.randn(4).double(), 7 * teacher - 2)
    torch.testing.assert_close(moved, GRAPHS[graph](student, teacher))


@each_graph
def test_the_teacher_receives_no_gradient(graph: str) -> None:
    student, teacher = embeddings()
    teacher.requires_grad_()
    torch.autograd.backward(GRAPHS[graph](student, teacher))
    assert student.grad is not None and student.grad.any() and teacher.grad is None


@each_graph
def test_the_loss_is_pure(graph: str) -> None:
    loss, (student, teacher) = GRAPHS[graph], embeddings()
    before = student.detach().clone(), teacher.clone()
    first = value_and_gradient(loss, student, teacher)
    loss.remember(Output(student), Output(teacher), Batch(torch.arange(N), torch.zeros(N, dtype=torch.long)))
    for one, other in zip(first, value_and_gradient(loss, student, teacher), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])


@each_graph
def test_gradcheck(graph: str) -> None:
    student, teacher = embeddings()
    assert torch.autograd.gradcheck(lambda s: GRAPHS[graph](s, teacher), (student,))


def test_the_loss_trains_the_students_refinement() -> None:
    student, teacher = embeddings()
    loss = RKD(graph=Nearest(3), refinement=Refinement("conv", 4, 6).double())
    torch.autograd.backward(loss(student, teacher))
    assert loss.refinement is not None
    gradients = [p.grad for p in loss.refinement.student.parameters()]
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    assert loss.teacher_parameters() and all(p.grad is None for p in loss.teacher_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_graph
def test_relations_are_float32_under_autocast(graph: str, dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype).requires_grad_() for x in embeddings())
    loss = GRAPHS[graph]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss, student, teacher)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert torch.equal(value, loss(student.float(), teacher.float()))
    torch.testing.assert_close(value.double(), loss(student.double(), teacher.double()), rtol=1e-5, atol=1e-6)


SIGNS = torch.randn(4, 6, generator=torch.Generator().manual_seed(5)).sign()
DEGENERATE = {
    "a row of zeros": torch.cat([torch.randn(3, 6), torch.zeros(1, 6)]),
    "two equal rows": torch.randn(3, 6)[[0, 1, 1, 2]],
    "all rows equal": torch.randn(1, 6).repeat(4, 1),
    "all zeros": torch.zeros(4, 6),
    "one image": torch.randn(1, 6),
    "two images": torch.randn(2, 6),
    "two equal images": torch.ones(2, 6),
    "one dimension": torch.randn(4, 1),
    "far from the origin": torch.randn(4, 6) + 1e4,
    "tiny": 1e-30 * torch.randn(4, 6),
    "float16": torch.randn(4, 6).half(),
    "bfloat16": torch.randn(4, 6).bfloat16(),
    "float16 extremes": (65504 * SIGNS).half(),
    "bfloat16, large": (1e15 * SIGNS).bfloat16(),
}


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("graph", ["dense", "knn", "union", "edge_index"])
def test_degenerate_batches_give_finite_values_and_gradients(graph: str, case: str, who: str) -> None:
    bad = DEGENERATE[case]
    good = torch.randn(bad.shape).to(bad.dtype)
    student = (good if who == "teacher" else bad).clone().requires_grad_()
    teacher = good if who == "student" else bad
    if graph != "dense" and len(bad) == 1:
        pytest.skip("one image has no neighbours")
    loss = {
        "dense": RKD(),
        "knn": RKD(graph=Nearest(1)),
        "union": RKD(graph=Nearest(1, "union")),
        "edge_index": RKD(graph=torch.tensor([[1], [0]])),
    }[graph]
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.isfinite() and gradient.isfinite().all()


def test_one_image_has_neither_distances_nor_angles() -> None:
    value, gradient = value_and_gradient(RKD(), *embeddings(1))
    assert value.item() == 0 and not gradient.any()


@pytest.mark.parametrize("graph", ["dense", "knn", "student's"])
@pytest.mark.parametrize("n", [N, 300])
def test_nothing_is_read_back_from_the_device(n: int, graph: str) -> None:
    with FakeTensorMode():  # tensors without numbers
        student, teacher = torch.randn(n, 64, requires_grad=True), torch.randn(n, 32)
        value, gradient = value_and_gradient(GRAPHS[graph], student, teacher)
    assert value.shape == () and gradient.shape == (n, 64)


def test_anchors_of_different_degrees_are_counted_on_the_host() -> None:
    loss = RKD(graph=EDGE_INDEX)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(DynamicOutputShapeException):
        loss(*embeddings())


def test_which_nodes_are_read() -> None:
    s, t = (Output(torch.randn(N, 3), feature=torch.randn(N, 5), maps=(torch.randn(N, 2, 2, 2),)) for _ in range(2))
    assert s.feature is not None and t.feature is not None
    assert torch.equal(RKD()(s, t), RKD()(s.feature, t.feature))
    assert torch.equal(RKD(nodes="embedding")(s, t), RKD()(s.embedding, t.embedding))
    assert torch.equal(RKD(nodes="map")(s, t), RKD()(s.maps[0].flatten(1), t.maps[0].flatten(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance_weight": -1}, "distance_weight must be at least 0, got -1"),
        ({"angle_weight": math.nan}, "angle_weight must be at least 0, got nan"),
        (
            {"distance_weight": 0, "angle_weight": 0.0},
            "RKD needs a weight above 0, got 0 for both distances and angles",
        ),
        ({"graph": "dnse"}, "unknown graph 'dnse': did you mean 'dense'? (known: dense, knn)"),
        ({"nodes": "embeding"}, "unknown nodes 'embeding': did you mean 'embedding'? (known: embedding, "),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}"):
        RKD(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "shapes", "message"),
    [
        (
            RKD(),
            ((4, 3), (5, 3)),
            "embeddings must be (N, D), student and teacher of the same N images, got (4, 3) and (5, 3)",
        ),
        (RKD(), ((0, 3), (0, 3)), "embeddings must not be empty, got (0, 3) and (0, 3)"),
        (RKD(), ((2, 4, 3), (2, 4, 3)), "a graph pair holds one batch (N, D), got (2, 4, 3)"),
        (RKD(graph="knn"), ((4, 3), (4, 3)), "k must be between 1 and the number of nodes less one, 3, got 8"),
        (RKD(graph=EDGE_INDEX), ((4, 3), (4, 3)), "edge_index must name nodes 0 to 3, got 6"),
    ],
)
def test_embeddings_are_checked(loss: RKD, shapes: tuple[tuple[int, ...], tuple[int, ...]], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(*(torch.zeros(shape) for shape in shapes))
