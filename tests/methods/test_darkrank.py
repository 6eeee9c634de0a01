"""DarkRank against the authors' numbers, and against drawing without replacement in a loop."""

import math
import re
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from relgraph.errors import RelgraphError
from relgraph.graph.refine import Refinement
from relgraph.graph.topology import Chooser, Nearest
from relgraph.methods.base import Batch, Output
from relgraph.methods.darkrank import DarkRank, log_likelihood, score
from tests.methods.golden import check
from tests.methods.golden import embeddings as golden_embeddings

N = 8
# Between two and four neighbours each, in no order.
EDGE_INDEX = torch.tensor(
    [
        [3, 1, 0, 2, 4, 6, 0, 7, 5, 4, 2, 6, 1, 7, 3, 0, 5, 4, 6, 1, 0],
        [0, 0, 2, 5, 5, 0, 6, 0, 1, 2, 3, 7, 4, 1, 6, 7, 3, 1, 2, 5, 4],
    ]
)
GRAPHS: dict[str, DarkRank] = {
    "dense": DarkRank(),
    "knn": DarkRank(graph=Nearest(5)),
    "student's": DarkRank(length=3, graph=Nearest(4, "student")),
    "union": DarkRank(length=3, graph=Nearest(3, "union")),
    "edge_index": DarkRank(length=2, graph=EDGE_INDEX),
}
each_graph = pytest.mark.parametrize("graph", GRAPHS)


def embeddings(n: int = N, student: int = 4, teacher: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(n, student).double().requires_grad_(), torch.randn(n, teacher).double()


def value_and_gradient(loss: DarkRank, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(student, teacher)
    return value, torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("graph", ["dense", Nearest(4), Nearest(7), Nearest(7, "student")])
def test_official_value_and_gradient(graph: str | Nearest) -> None:
    student, teacher = golden_embeddings()
    check("rkd_hard_dark_rank_a2_b3", lambda: DarkRank(graph=graph)(student, teacher), {"student": student})


def probability(scores: list[float]) -> float:
    """Return how probable an order is: each is drawn among those that are left, by the exponential of its score."""
    left = [math.exp(s) for s in scores]
    return math.prod(each / sum(left[place:]) for place, each in enumerate(left))


def loop(
    student: Tensor, teacher: Tensor, around: list[list[int]], length: int, alpha: float = 2, beta: float = 3
) -> float:
    s, t = student.tolist(), teacher.tolist()
    terms = []
    for i, others in enumerate(around):
        best = sorted(others, key=lambda j: math.dist(t[i], t[j]))[:length]
        assert len(best) == length
        terms.append(-math.log(probability([-alpha * math.dist(s[i], s[j]) ** beta for j in best])))
    return sum(terms) / len(terms)


def everyone(n: int = N) -> list[list[int]]:
    return [[j for j in range(n) if j != i] for i in range(n)]


def nearest(x: Tensor, k: int) -> list[set[int]]:
    points = x.tolist()
    return [
        set(sorted(others, key=lambda j: math.dist(points[i], points[j]))[:k]) for i, others in enumerate(everyone())
    ]


@pytest.mark.parametrize(("alpha", "beta"), [(2, 3), (0.5, 1), (0.1, 0.5)])
@pytest.mark.parametrize("length", [2, 4, 7])
def test_the_dense_form_is_a_loop_over_the_nearest(length: int, alpha: float, beta: float) -> None:
    student, teacher = embeddings()
    expected = loop(0.3 * student, teacher, everyone(), length, alpha, beta)
    assert DarkRank(alpha, beta, length)(0.3 * student, teacher).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("by", ["teacher", "student", "union", "mutual"])
def test_a_sparse_graph_is_a_loop_over_the_nearest_of_its_edges(by: Chooser) -> None:
    student, teacher = embeddings()
    with torch.no_grad():
        student[:, 0] = teacher[:, 0]  # so that some neighbours are mutual
        student *= 0.3
    s, t = nearest(student, 6), nearest(teacher, 6)
    chosen = {"teacher": t, "student": s, "union": [a | b for a, b in zip(s, t, strict=True)]}
    chosen["mutual"] = [a & b for a, b in zip(s, t, strict=True)]
    expected = loop(student, teacher, [sorted(others) for others in chosen[by]], 3)
    assert DarkRank(length=3, graph=Nearest(6, by))(student, teacher).item() == pytest.approx(expected, rel=1e-11)


def test_given_edges_are_a_loop() -> None:
    student, teacher = embeddings()
    around = [[j for j, anchor in EDGE_INDEX.T.tolist() if anchor == i] for i in range(N)]
    assert {len(others) for others in around} == {2, 3, 4}
    expected = loop(0.3 * student, teacher, around, 2)
    assert GRAPHS["edge_index"](0.3 * student, teacher).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("refine", [None, "smooth", "conv"])
@pytest.mark.parametrize("by", ["teacher", "student", "union", "mutual"])
@pytest.mark.parametrize("ties", [False, True])
def test_all_neighbours_equal_the_dense_form(by: Chooser, refine: str | None, ties: bool) -> None:
    student, teacher = embeddings()
    if ties:  # of equal scores the first of the batch comes first, in both forms
        teacher = teacher.round().clamp(-1, 1)[:, :2]
    refinement = None if refine is None else Refinement(refine, 4, teacher.shape[1]).double()
    if refinement is not None:
        for parameter in refinement.parameters():
            nn.init.normal_(parameter, std=0.2)
    dense = DarkRank(refinement=refinement)
    sparse = DarkRank(graph=Nearest(N - 1, by), refinement=refinement)
    found, expected = (value_and_gradient(loss, student, teacher) for loss in (sparse, dense))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_probability_of_orders_is_one_of_draws() -> None:
    scores = torch.randn(5, 4).double()
    for row, found in zip(scores.tolist(), log_likelihood(scores).tolist(), strict=True):
        assert found == pytest.approx(math.log(probability(row)), rel=1e-12)
    orders = torch.tensor(list(permutations(range(4))))
    torch.testing.assert_close(log_likelihood(scores[0][orders]).exp().sum(), torch.ones(()).double())


def test_scores_are_powers_of_distances() -> None:
    x, y = torch.randn(3, 5).double(), torch.randn(4, 5).double()
    torch.testing.assert_close(score(0.7, 2.5)(x, y), -0.7 * torch.cdist(x, y) ** 2.5)
    own = torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(score(0.7, 0.5)(x)[~own], score(0.7, 0.5)(x, x.clone())[~own])
    assert score(0.7, 0.5)(x).diagonal().isneginf().all()  # a node itself is the last of its list


@pytest.mark.parametrize("beta", [0.5, 3])
def test_equal_nodes_have_the_score_0_and_no_gradient(beta: float) -> None:
    x = torch.ones(3, 4).double().requires_grad_()
    scores = score(0.7, beta)(x)[~torch.eye(3, dtype=torch.bool)]
    assert not scores.any() and not torch.autograd.grad(scores.sum(), x)[0].any()


def test_the_teachers_own_order_costs_least() -> None:
    teacher = embeddings()[1]
    loss = DarkRank(length=7)
    assert loss(10 * teacher, teacher).item() < 1e-3 < 1 < loss(-10 * teacher.roll(1, 0), teacher).item()


@each_graph
def test_the_order_of_the_batch_is_all_the_same(graph: str) -> None:
    student, teacher = embeddings()
    order = torch.randperm(N)
    loss = GRAPHS[graph]
    if graph == "edge_index":
        loss = DarkRank(length=2, graph=order.argsort()[EDGE_INDEX])
    found = value_and_gradient(loss, student.detach()[order].requires_grad_(), teacher[order])
    value, gradient = value_and_gradient(GRAPHS[graph], student, teacher)
    torch.testing.assert_close(found, (value, gradient[order]), rtol=1e-11, atol=1e-12)


@each_graph
def test_shift_rotation_and_the_teachers_scale_are_all_the_same(graph: str) -> None:
    student, teacher = embeddings()
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    moved = GRAPHS[graph](student @ turn + torch.randn(4).double(), 7 * teacher - 2)
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
    assert torch.autograd.gradcheck(lambda s: GRAPHS[graph](0.3 * s, teacher), (student,))


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


SIGNS = torch.randn(6, 5, generator=torch.Generator().manual_seed(5)).sign()
DEGENERATE = {
    "a row of zeros": torch.cat([torch.randn(5, 5), torch.zeros(1, 5)]),
    "two equal rows": torch.randn(5, 5)[[0, 1, 1, 2, 3, 4]],
    "all rows equal": torch.randn(1, 5).repeat(6, 1),
    "all zeros": torch.zeros(6, 5),
    "one dimension": torch.randn(6, 1),
    "far from the origin": torch.randn(6, 5) + 1e4,
    "tiny": 1e-30 * torch.randn(6, 5),
    "long": 1e4 * torch.randn(6, 5),
    "float16": torch.randn(6, 5).half(),
    "bfloat16": torch.randn(6, 5).bfloat16(),
    # As float32: the gradient, some 6 |x|^2, does not fit into float16.
    "float16 extremes": 65504 * SIGNS,
    "bfloat16, large": (1e8 * SIGNS).bfloat16(),
}


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("beta", [0.5, 3])
@pytest.mark.parametrize("graph", ["dense", "knn", "union"])
def test_degenerate_batches_give_finite_values_and_gradients(graph: str, beta: float, case: str, who: str) -> None:
    bad = DEGENERATE[case]
    good = torch.randn(bad.shape).to(bad.dtype)
    student = (good if who == "teacher" else bad).clone().requires_grad_()
    teacher = good if who == "student" else bad
    loss = {
        "dense": DarkRank(rank_beta=beta),
        "knn": DarkRank(rank_beta=beta, graph=Nearest(4)),
        "union": DarkRank(rank_beta=beta, graph=Nearest(4, "union")),
    }[graph]
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("graph", ["dense", "knn", "student's"])
def test_nothing_is_read_back_from_the_device(graph: str) -> None:
    with FakeTensorMode():  # tensors without numbers
        student, teacher = torch.randn(N, 4, requires_grad=True), torch.randn(N, 6)
        value, gradient = value_and_gradient(GRAPHS[graph], student, teacher)
    assert value.shape == () and gradient.shape == (N, 4)


def test_which_nodes_are_read() -> None:
    s, t = (Output(torch.randn(N, 3), feature=torch.randn(N, 5), maps=(torch.randn(N, 2, 2, 2),)) for _ in range(2))
    assert s.feature is not None and t.feature is not None
    assert torch.equal(DarkRank()(s, t), DarkRank()(s.feature, t.feature))
    assert torch.equal(DarkRank(nodes="embedding")(s, t), DarkRank()(s.embedding, t.embedding))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_alpha": 0}, "rank_alpha must be above 0, got 0"),
        ({"rank_beta": -3}, "rank_beta must be above 0, got -3"),
        ({"rank_beta": math.nan}, "rank_beta must be above 0, got nan"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"graph": "dnse"}, "unknown graph 'dnse': did you mean 'dense'? (known: dense, knn)"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        DarkRank(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "n", "found"),
    [
        (DarkRank(), 4, 3),
        (DarkRank(), 1, 0),
        (DarkRank(graph=Nearest(3)), N, 3),
        (DarkRank(graph=EDGE_INDEX), N, 2),
        (DarkRank(graph=torch.tensor([[1], [0]])), N, 0),
    ],
)
def test_each_image_needs_enough_others(loss: DarkRank, n: int, found: int) -> None:
    message = f"DarkRank ranks 4 others of each image: expected at least 4 in its graph, got {found}"
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(*embeddings(n))
    DarkRank(length=2, graph=EDGE_INDEX)(*embeddings())


def test_an_image_without_edges_is_not_passed_over() -> None:
    around_one = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    with pytest.raises(RelgraphError, match=r"^DarkRank ranks 4 others of each image: .* got 0$"):
        DarkRank(graph=around_one)(*embeddings())


@pytest.mark.parametrize(
    ("loss", "shapes", "message"),
    [
        (
            DarkRank(),
            ((8, 3), (9, 3)),
            "embeddings must be (N, D), student and teacher of the same N images, got (8, 3) and (9, 3)",
        ),
        (DarkRank(), ((0, 3), (0, 3)), "embeddings must not be empty, got (0, 3) and (0, 3)"),
        (DarkRank(graph="knn"), ((8, 3), (8, 3)), "k must be between 1 and the number of nodes less one, 7, got 8"),
        (DarkRank(graph=EDGE_INDEX), ((4, 3), (4, 3)), "edge_index must name nodes 0 to 3, got 7"),
    ],
)
def test_embeddings_are_checked(loss: DarkRank, shapes: tuple[tuple[int, ...], tuple[int, ...]], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(*(torch.zeros(shape) for shape in shapes))
