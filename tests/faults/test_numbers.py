"""Numbers at the ends of their range: equal, opposite and constant rows, tiny and huge ones, in every float type.

Oracles are naive formulas in float64 and, for the fuzz over all methods, the same method on the same numbers in
float64, in which neither a square of a float32 nor a fourth power overflows.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.graph.kernels import euclidean, pearson, squared_euclidean
from relgraph.graph.pair import Form
from relgraph.methods import EGA, PKT, RKD, VID, Batch, DarkRank, FitNet, Method, Output
from relgraph.methods.fsp import flow_loss
from relgraph.methods.relational import Relational
from relgraph.methods.vid import variational_loss
from tests.checks import case
from tests.methods.golden import value_and_gradient, values
from tests.methods.test_laws import (
    BATCH,
    at_positions,  # noqa: F401  # a fixture of every test
    batch_of,
    each_way,
    learning,
    make,
    output,
    outputs,
    tensors,
)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMS: tuple[Form, ...] = ("matrix", "blocked")
TRIES = int(os.environ.get("RELGRAPH_FUZZ", 2))  # of the fuzz, for each method and form


# Equal images


def with_equal_images(n: int = 8, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Return nodes of which five coincide in the student, and three others in the teacher."""
    student, teacher = torch.randn(2, n, dim, dtype=torch.float64).float()
    student[1:5], teacher[6:8] = student[0], teacher[5]
    return student, teacher


def test_copies_of_a_batch_with_equal_images_have_one_loss_in_rkd() -> None:
    """Rounding decides whether the distance of two equal rows is 0; it must not decide what the mean distance is."""
    pair = with_equal_images()
    for graph, form in product(("dense", "knn"), FORMS):
        loss = RKD(graph=graph, k=7 if graph == "knn" else None, form=form)
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
            student, teacher = (x.to(dtype) for x in pair)
            expected = loss(student, teacher)
            for scale, shift in ((1.0, 3.0), (0.3, 0.0), (1e-20, 0.0), (1e18, 0.0), (7.0, -2.0), (1 / 3, 0.1)):
                with case(graph, form, dtype, scale, shift):
                    moved = loss(scale * student + shift, teacher), loss(student, scale * teacher + shift)
                    torch.testing.assert_close(torch.stack(moved), expected.repeat(2), rtol=tolerance, atol=0)


def test_equal_images_count_in_the_mean_distance_as_in_the_official_code() -> None:
    student, teacher = with_equal_images()
    scaled = []
    for x in (student, teacher):
        distance = (x.double()[:, None] - x.double()).norm(dim=-1).clamp_min(1e-12).fill_diagonal_(0)  # the code: 1e-6
        scaled.append(distance / distance[distance > 0].mean())
    expected = torch.nn.functional.smooth_l1_loss(scaled[0], scaled[1])
    for form in FORMS:
        found = RKD(1, 0, form=form)(student, teacher)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    assert RKD(1, 0)(torch.ones(1, 3), torch.zeros(1, 3)) == 0, "one image has no distance"
    assert RKD(1, 0)(torch.ones(2, 3), torch.randn(2, 3)) == 0, "two images are at the mean distance, equal or not"


def test_distances_of_near_nodes_keep_their_digits_and_those_of_equal_nodes_are_zero() -> None:
    for scale, shift, apart in product((1e-9, 1.0, 1e15), (0.0, 3.0), (1e-2, 1e-4, 1e-5)):
        x = torch.randn(6, 40)
        x[1], x[3] = x[0], x[2] + apart * torch.randn(40)
        x = scale * (x + shift)
        exact = (x.double()[:, None] - x.double()).norm(dim=-1)
        with case(scale, shift, apart):
            for found in (euclidean(x, x.clone()), euclidean.rows(x, slice(None))):
                assert found[0, 1] == found[1, 0] == 0
                torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


def test_images_at_one_distance_are_ranked_in_the_order_of_the_batch() -> None:
    """Not by the rounding of their scores, which differs between copies of a batch."""
    student, teacher = torch.randn(8, 5), torch.randn(8, 5)
    teacher[[2, 5, 7]] = teacher[1].clone()
    expected = DarkRank()(student, teacher)
    for scale, form in product((0.3, 1e-15, 7e12, 1e18), FORMS):
        with case(scale, form):
            torch.testing.assert_close(DarkRank(form=form)(student, scale * teacher), expected, rtol=1e-6, atol=0)


# Opposite and constant rows


def pkt_in_loops(student: Tensor, teacher: Tensor) -> float:
    """Return the official formula, with its 1e-7 beside lengths and probabilities."""
    both = []
    for rows in (student.double().numpy(), teacher.double().numpy()):
        unit = [row / (math.sqrt(math.fsum(row * row)) + 1e-7) for row in rows]
        similar = [[(math.fsum(x * y) + 1) / 2 for y in unit] for x in unit]
        both.append([v / math.fsum(row) for row in similar for v in row])
    terms = [t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(*both, strict=True)]
    return math.fsum(terms) / len(terms)


def test_pkt_of_opposite_and_constant_rows_is_the_formula_in_float32() -> None:
    """Their similarity is about 1e-7, which float32 would round as much as it is."""
    for n, dim, seed in product((2, 3, 5), (2, 3, 17), range(4)):
        torch.manual_seed(seed)
        x = torch.randn(n, dim)
        constant = torch.randn(n, 1).expand(n, dim).clone()
        opposite = torch.cat([-0.7 * x[:1], x])[:n]
        for student, teacher in ((opposite, x), (x, opposite), (constant, x), (x, constant), (constant, opposite)):
            with case(n, dim, seed):
                expected = pkt_in_loops(student, teacher)
                for form in FORMS:
                    value, gradient = value_and_gradient(PKT(form=form), student.clone().requires_grad_(), teacher)
                    assert value.dtype == torch.float32 and gradient.isfinite().all()
                    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_rows_that_vary_by_their_last_digits_are_not_constant() -> None:
    for offset, spread in ((1000.0, 1e-3), (-1000.0, 1e-3), (1.0, 1e-6), (1e30, 1e24)):
        student, teacher = (offset + spread * torch.randn(6, 64) for _ in range(2))
        matrix = np.corrcoef(torch.cat([student, teacher]).double().numpy())
        node, edge = matrix[:6, 6:] - np.eye(6), matrix[:6, :6] - matrix[6:, 6:]
        expected = {"node": 0.8 * np.linalg.norm(node), "edge": 0.24 * np.linalg.norm(edge)}
        for form in ("matrix", "factored", "blocked"):
            with case(offset, form):
                assert values(EGA(form=form).terms(student, teacher)) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(pearson(student), torch.from_numpy(matrix[:6, :6]).float(), rtol=1e-5, atol=1e-5)
    last = torch.full((2, 8), 0.1)
    last[0, 3] = torch.tensor(0.1).nextafter(torch.tensor(1.0))
    assert pearson(last)[0, 0] == pytest.approx(1) and not pearson(last)[1].any()


# Tiny and huge numbers


def test_the_loss_of_rkd_does_not_see_the_scale_and_its_gradient_is_inverse_to_it() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 6)
    value, gradient = value_and_gradient(RKD(), student.clone().requires_grad_(), teacher)
    for scale in (2.0**-66, 2.0**-100, 2.0**60, 2.0**120):
        for form in FORMS:
            loss = RKD(form=form)
            found, steeper = value_and_gradient(loss, (scale * student).requires_grad_(), teacher / scale)
            with case(scale, form):
                torch.testing.assert_close(found, value)
                torch.testing.assert_close(scale * steeper, gradient)


def test_darkrank_of_nodes_of_any_length_is_its_formula_or_infinite() -> None:
    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (-2 * (x.double()[:, None] - x.double()).norm(dim=-1) ** 3 for x in (student, teacher))
        s, t = (x.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf) for x in (s, t))
        best = s.gather(1, t.argsort(1, descending=True)[:, :4])
        return -torch.stack([best[:, i] - best[:, i:].logsumexp(1) for i in range(4)]).sum(0).mean()

    for dtype, scale in ((torch.float32, 1e12), (torch.float32, 1e-12), (torch.float16, 10.0), (torch.float16, 1e4)):
        student, teacher = ((scale * torch.randn(8, 5)).to(dtype) for _ in range(2))
        leaf = student.double().requires_grad_()
        (expected,) = torch.autograd.grad(formula(leaf, teacher), leaf)
        value, gradient = value_and_gradient(DarkRank(), student.requires_grad_(), teacher)
        with case(dtype, scale):
            assert value.item() == pytest.approx(formula(student, teacher).item(), rel=1e-5)
            fits = expected.abs() < torch.finfo(dtype).max
            torch.testing.assert_close(gradient[fits].double(), expected[fits], rtol=2e-3, atol=1e-3)
            assert not gradient.isnan().any()
    assert DarkRank()(1e13 * torch.randn(8, 5), torch.randn(8, 5)) == torch.inf
    assert DarkRank()(torch.randn(8, 5), 1e13 * torch.randn(8, 5)).isfinite()


def test_maps_of_huge_numbers_pass_convolution_and_batch_norm() -> None:
    shapes = ((3, 8, 8), (4, 8, 8), (5, 4, 4))
    loss = FitNet(shapes, shapes)
    maps = [torch.randn(6, *shape) for shape in shapes]
    student, teacher = (tuple(torch.randn_like(x) for x in maps) for _ in range(2))
    expected = loss(Output(maps[0], maps=student), Output(maps[0], maps=teacher))
    for scale in (1e6, 1e18, 1e30, 1e37):
        leaves = tuple((scale * x).requires_grad_() for x in student)
        value = loss(Output(maps[0], maps=leaves), Output(maps[0], maps=teacher))
        gradients = torch.autograd.grad(value, [leaves[2], *loss.parameters()])
        with case(scale):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
            assert all(gradient.isfinite().all() for gradient in gradients)
    huge = tuple(1e20 * x for x in teacher)
    assert loss(Output(maps[0], maps=student), Output(maps[0], maps=huge)) == torch.inf, "a square beyond float32"


def test_what_overflows_is_infinite_and_not_no_number() -> None:
    """Infinity less infinity would be: both networks' products overflow."""
    s, t = torch.randn(2, 2, 4, 3, 6, 6).unbind()
    for scale in (1e6, 1e8, 1e10, 1e18, 3e37):

        def loss_of(first: Tensor, scale: float = scale) -> Tensor:
            later, one, other = ((scale * x).to(first) for x in (s[1], t[0], t[1]))
            return flow_loss((first, later), (one, other))

        value, gradient = value_and_gradient(loss_of, (scale * s[0]).requires_grad_())
        with case(scale):
            torch.testing.assert_close(value, loss_of((scale * s[0]).double()).float(), rtol=1e-4, atol=0)
            assert value.isinf() or gradient.isfinite().all()
    for scale in (1e6, 1e18, 3e37):
        found = variational_loss(scale * s[0], -scale * t[0], torch.zeros(3))
        exact_value = variational_loss((scale * s[0]).double(), (-scale * t[0]).double(), torch.zeros(3))
        torch.testing.assert_close(found, exact_value.float(), rtol=1e-4, atol=0)
    maps = tuple(torch.randn(2, *shape) for shape in ((3, 4, 4), (4, 4, 4)))
    loss = VID(((3, 4, 4), (4, 4, 4)), ((3, 4, 4), (4, 4, 4)))
    huge = Output(maps[0], maps=tuple(1e37 * x for x in maps))
    assert loss(huge, huge) == torch.inf and loss(Output(maps[0], maps=maps), huge) == torch.inf
    assert squared_euclidean(torch.tensor([[3e19], [0.0]]))[0, 1] == torch.inf
    for loss_of_nodes in (
        make("cc", "correlation=bilinear unit_length=false"),
        make("irg", "form=literal relation_weight=1"),
    ):
        student, teacher = (given.each(lambda x: (3e37 * x.sign()).float()) for given in outputs())
        assert loss_of_nodes.float()(student, teacher, BATCH) == torch.inf


@each_way
def test_what_is_no_number_stays_none(name: str, way: str) -> None:
    """A loss that read NaN as a distance of 0 would hide a student that has diverged."""
    student, teacher = outputs()
    spoilt = student.each(lambda x: x.index_fill(0, torch.tensor([0]), math.nan))
    assert make(name, way)(spoilt, teacher, BATCH).isnan()


# All methods, in all their forms, on all of that

Change = Callable[[Tensor], Tensor]


def constant(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :1].reshape(-1, *(1,) * (x.ndim - 1)).expand_as(x).clone()


BATCHES: dict[str, Change] = {
    "random": lambda x: x,
    "rows in pairs": lambda x: x[torch.arange(len(x)) // 2],
    "equal rows": lambda x: x[:1].expand_as(x).clone(),
    "opposite rows": lambda x: torch.cat([x[:1], -x[:1], x])[: len(x)],
    "constant rows": constant,
    "a constant row": lambda x: torch.cat([constant(x[:1]), x[1:]]),
    "zeros": torch.zeros_like,
    "a row of zeros": lambda x: torch.cat([torch.zeros_like(x[:1]), x[1:]]),
    "an outlier": lambda x: torch.cat([x[:1], 1e-9 * x[1:]]),
    "far away": lambda x: 1 + 1e-3 * x,
}
SCALES = {
    torch.float16: (1e-7, 1e-4, 1.0, 300.0, 16000.0),
    torch.bfloat16: (1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e12, 1e18, 8e37),
    torch.float32: (1e-44, 1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e12, 1e18, 8e37),
    torch.float64: (1e-300, 1e-100, 1e-20, 1.0, 1e12, 1e18, 1e60, 4e307),
}


def forms(name: str, way: str) -> list[str]:
    """Return a way's options in each form that it has."""
    method = make(name, way)
    if not isinstance(method, Relational):
        return [way]
    return [f"{way} {method.form_option}={form}" for form in method.builder.known_forms]


@dataclass(frozen=True)
class Case:
    """A batch of some kind, number of images, type and scale, which one network has, or both."""

    n: int
    kind: str
    dtype: torch.dtype
    scale: float
    who: str

    def outputs(self) -> tuple[Output, Output]:
        def change(x: Tensor) -> Tensor:
            return (self.scale * BATCHES[self.kind](x.clamp(-4, 4))).to(self.dtype)

        sides = (output("student", self.n), "student"), (output("teacher", self.n), "teacher")
        student, teacher = (
            given.each(change if self.who in (side, "both") else partial(Tensor.to, dtype=self.dtype))
            for given, side in sides
        )
        return student, teacher


def some_case(name: str, way: str, random: Random) -> Case:
    n = 8 if name == "darkrank" or ("graph=knn" in way and name != "crd") else random.choice((1, 2, 3, 8))
    kind, dtype, who = random.choice([*BATCHES]), random.choice(FLOATS), random.choice(("student", "teacher", "both"))
    return Case(n, kind, dtype, random.choice(SCALES[dtype]), who)


def evaluated(method: Method, student: Output, teacher: Output, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    student = learning(student)
    value, leaves = method(student, teacher, batch), [*tensors(student).values()]
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.detach(), [*found]


def check_case(name: str, way: str, given: Case) -> None:
    """Check that value and gradient are finite where they fit their type, and that a value is never NaN."""
    method, (student, teacher) = make(name, way), given.outputs()
    batch, single = batch_of(given.n), given.dtype != torch.float64
    exact = method
    if single:
        method = method.float()
        exact = make(name, way)
        exact.load_state_dict(method.state_dict())
    value, gradients = evaluated(method, student, teacher, batch)
    reference, slopes = evaluated(exact, student.each(Tensor.double), teacher.each(Tensor.double), batch)
    # A sum over a batch is above its mean, and a gradient passes intermediate products.
    fits = reference.abs() < 1e-6 * torch.finfo(torch.float32 if single else torch.float64).max
    assert not value.isnan() and not (fits and value.isinf())
    most = torch.finfo(given.dtype).max * (1 / 64 if given.dtype == torch.float16 else 1e-6)
    for gradient, slope in zip(gradients, slopes, strict=True):
        if fits and slope.isfinite().all() and slope.abs().max() < most:
            assert gradient.isfinite().all()


@each_way
def test_every_method_bears_every_batch_in_every_type_at_every_scale(name: str, way: str) -> None:
    """L11, by a seeded fuzz; `make faults` has more batches."""
    random = Random(f"{name} {way}")
    for options in forms(name, way):
        for _ in range(TRIES):
            given = some_case(name, way, random)
            with case(options, given):
                check_case(name, options, given)
