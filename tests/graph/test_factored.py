"""The factored form against the matrix and against plain formulas: values, gradients, digits, and what is held."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from relgraph.graph.criteria import Criterion, frobenius, half_square, mean_square, sum_square
from relgraph.graph.factored import ROWS, gram, squares
from relgraph.graph.kernels import Kernel, cosine, dot, identity, linear, pearson
from relgraph.graph.pair import Form
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale, by_anchor_norm, raw
from relgraph.methods.ega import EGA
from tests.checks import case

N = 9
KERNELS = [pearson, cosine, linear]
CRITERIA: list[Criterion] = [frobenius, mean_square, sum_square, half_square]
SCALES: list[Scale] = [raw, by_anchor_norm]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
each_scale = pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.name)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the size of the largest tensor that any operation returned, with or without views of its arguments."""

    def __init__(self, views: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel, self.views = 0, views

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not self.views:
            known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
            found = [x for x in found if x.untyped_storage().data_ptr() not in known]
        self.numel = max([self.numel, *(x.numel() for x in found)])
        return result


@contextmanager
def largest_tensor(views: bool = True) -> Iterator[Largest]:
    with Largest(views) as seen:
        yield seen


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    """Return the value and both gradients, in float64."""
    ends = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    value = loss(*ends)
    gradients = torch.autograd.grad(value, ends, allow_unused=True, materialize_grads=True)
    return tuple(x.double() for x in (value.detach(), *gradients))


def nodes(widths: tuple[int, int] = (5, 5), count: int = N) -> tuple[Tensor, Tensor]:
    student, teacher = (torch.randn(count, width).double() for width in widths)
    return student, teacher


def test_a_gram_is_the_product_of_all_rows() -> None:
    for count in (1, 3, ROWS, ROWS + 1, 2 * ROWS + 7):
        x, y = torch.randn(count, 3), torch.randn(count, 2)
        torch.testing.assert_close(gram(x, y), x.double().T @ y.double())
        torch.testing.assert_close(gram(x, x), x.double().T @ x.double())


def test_gradcheck() -> None:
    x, y = (z.requires_grad_() for z in nodes((3, 2), 4))
    assert torch.autograd.gradcheck(lambda x, y: gram(x, y), (x, y))
    assert torch.autograd.gradcheck(lambda x: gram(x, x), (x,))
    assert torch.autograd.gradcheck(lambda x, y: squares(x, y), (x, nodes((3, 3), 4)[0].requires_grad_()))


@pytest.mark.parametrize("count", [1, 5, ROWS + 3])
def test_squares_are_those_of_the_matrices(count: int) -> None:
    student, teacher = nodes(count=count)

    def plain(s: Tensor, t: Tensor) -> Tensor:
        within = (s @ s.T - t @ t.T).square().sum()
        return within + 3 * (s @ t.T - torch.eye(count).double()).square().sum()

    def found(s: Tensor, t: Tensor) -> Tensor:
        square = squares(s, t)
        return square.within + 3 * square.across

    expected = with_gradient(plain, student, teacher)
    torch.testing.assert_close(with_gradient(found, student, teacher), expected, rtol=1e-10, atol=1e-10)


@each_kernel
def test_value_and_gradient_are_those_of_the_matrix(kernel: Kernel) -> None:
    for scale, criterion in product(SCALES, CRITERIA):
        relation = partial(Relation, kernel, scale=scale, criterion=criterion)
        for widths in ((5, 5), (4, 7)):
            with case(scale.name, criterion.name, widths):
                student, teacher = nodes(widths)
                student[2], teacher[3] = 1.5, 0.0  # without variance, and without length
                matrix = with_gradient(relation(form="matrix"), student, teacher)
                factored = with_gradient(relation(form="factored"), student, teacher)
                torch.testing.assert_close(factored, matrix, rtol=1e-10, atol=1e-10)


@each_scale
def test_equal_nodes_have_value_and_gradient_0(scale: Scale) -> None:
    x, _ = nodes()
    for criterion in CRITERIA:
        relation = Relation(pearson, scale=scale, criterion=criterion, form="factored")
        assert all(not found.any() for found in with_gradient(relation, x, x)), criterion.name


@each_scale
@pytest.mark.parametrize("distance", [1e-3, 1e-6])
def test_nothing_cancels_where_nodes_are_nearly_equal(scale: Scale, distance: float) -> None:
    x, noise = nodes()
    matrix, factored = (
        with_gradient(Relation(cosine, scale=scale, form=form), x + distance * noise, x)
        for form in ("matrix", "factored")
    )
    # What the nodes themselves are rounded to is 1e-16 of 1, so of the difference 1e-16 / distance.
    torch.testing.assert_close(factored, matrix, rtol=1e-14 / distance, atol=1e-9)


@each_scale
@each_kernel
def test_degenerate_nodes_give_finite_numbers(kernel: Kernel, scale: Scale) -> None:
    for fill, count in product((0.0, 3.0), (1, 6)):
        with case(fill, count):
            x, teacher = torch.full((count, 4), fill), torch.randn(count, 4)
            found = with_gradient(Relation(kernel, scale=scale, form="factored"), x, teacher)
            assert all(each.isfinite().all() for each in found)
            expected = with_gradient(Relation(kernel, scale=scale, form="matrix"), x, teacher)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each_scale
def test_half_precision_is_compared_in_float32(scale: Scale) -> None:
    relation = Relation(pearson, scale=scale, form="factored")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        student, teacher = (x.to(dtype) for x in nodes())
        ends = (student, teacher), (student.float(), teacher.float())
        found, expected = (with_gradient(relation, *pair) for pair in ends)
        with case(dtype), torch.autocast("cpu", dtype=torch.bfloat16):
            assert relation(student, teacher).dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(relation(student, teacher).double(), expected[0], rtol=1e-6, atol=0)


PREPARED = Kernel("prepared", identity, dot)
LOSSES: dict[str, Callable[[Form], Callable[[Tensor, Tensor], Tensor]]] = {
    "ega": lambda form: EGA(form=form),
    "edges": lambda form: Relation(PREPARED, form=form),
    "sp": lambda form: Relation(PREPARED, scale=by_anchor_norm, criterion=mean_square, form=form),
}


def errors_of(method: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the relative errors of value and student's gradient in float32, pair by pair, of both forms.

    The truth is the matrix form in float64, of the same float32 numbers.
    """
    errors: dict[Form, list[Tensor]] = {"matrix": [], "factored": []}
    for s, t in pairs:
        truth = with_gradient(LOSSES[method]("matrix"), s.double(), t.double())[:2]
        for form, found in errors.items():
            each = zip(with_gradient(LOSSES[method](form), s, t), truth, strict=False)
            found.append(torch.stack([(one - true).norm() / true.norm() for one, true in each]))
    return torch.stack(errors["matrix"]), torch.stack(errors["factored"])


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("method", LOSSES)
def test_float32_is_at_least_as_close_to_the_truth_as_the_matrix(method: str, distance: float) -> None:
    draws = (torch.randn(2, 96, 24, generator=torch.Generator().manual_seed(seed)) for seed in range(9))
    pairs = ((pearson.nodes(t + distance * noise), pearson.nodes(t)) for t, noise in draws)
    matrix, factored = errors_of(method, pairs)
    # Below half a unit in the last place of float32 there is nothing to be won; nor where both prepare the nodes.
    assert (factored.median(0).values <= matrix.median(0).values * 1.05 + 6e-8).all()
    assert (factored.amax(0) <= matrix.amax(0) * 1.05 + 6e-8).all()


@pytest.mark.parametrize("distance", [1.0, 0.3, 1e-2])
@pytest.mark.parametrize("method", ["ega", "edges"])
def test_nodes_in_another_basis_lose_no_digits_either(method: str, distance: float) -> None:
    """The graphs of a student and a teacher may agree where their nodes have nothing in common."""
    pairs = []
    for seed in range(9):
        random = torch.Generator().manual_seed(seed)
        t, noise = torch.randn(2, 96, 24, generator=random)
        turn = torch.linalg.qr(torch.randn(24, 24, generator=random))[0]
        pairs.append((cosine.nodes((t + distance * noise) @ turn), cosine.nodes(t)))
    matrix, factored = (errors[:, 1] for errors in errors_of(method, pairs))
    assert factored.median() <= matrix.median() * 1.05 and factored.max() <= matrix.max() * 1.05


@pytest.mark.parametrize("count", [300, 1500])
def test_no_matrix_of_all_pairs_is_ever_held(count: int) -> None:
    student, teacher = torch.randn(count, 8, requires_grad=True), torch.randn(count, 8)
    for loss in (EGA(form="factored"), Relation(cosine, scale=by_anchor_norm, form="factored")):
        with largest_tensor() as seen:
            torch.autograd.backward(loss(student, teacher))
        assert seen.numel <= max(count, 2 * ROWS) * 8
    EGA(form="matrix")(student, teacher)  # the list of all pairs is a constant that is made once
    with largest_tensor() as seen:
        EGA(form="matrix")(student, teacher)
    assert seen.numel == count**2
