"""Kernels against a double loop in float64 over numpy vectors, on every dtype and on degenerate nodes."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor

from relgraph.graph.kernels import (
    Kernel,
    centred,
    cosine,
    damped_pearson,
    euclidean,
    gaussian,
    gaussian_taylor,
    linear,
    nearly_unit,
    pearson,
    safe_sqrt,
    squared_euclidean,
    standardise,
    unit,
)
from tests.checks import assert_refused, case

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def cosine_of(a: Vector, b: Vector) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def taylor_of(a: Vector, b: Vector) -> float:
    return sum(math.exp(-0.8) * 0.8**p / math.factorial(p) * cosine_of(a, b) ** p for p in range(3))


def damped_of(a: Vector, b: Vector) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.5))


PAIRWISE: dict[str, tuple[Kernel, Callable[[Vector, Vector], float]]] = {
    "linear": (linear, lambda a, b: float(a @ b)),
    "cosine": (cosine, cosine_of),
    "pearson": (pearson, lambda a, b: float(np.corrcoef(a, b)[0, 1])),
    "pearson (damped)": (damped_pearson(0.5), damped_of),
    "squared euclidean": (squared_euclidean, lambda a, b: float(((a - b) ** 2).sum())),
    "euclidean": (euclidean, lambda a, b: float(np.linalg.norm(a - b))),
    "gaussian": (gaussian(0.4), lambda a, b: math.exp(-0.8 * (1 - cosine_of(a, b)))),
    "gaussian (Taylor)": (gaussian_taylor(0.4, 2), taylor_of),
}
each_kernel = pytest.mark.parametrize("kernel", [kernel for kernel, _ in PAIRWISE.values()], ids=list(PAIRWISE))


def double_loop(name: str, x: Tensor, y: Tensor) -> Tensor:
    function = PAIRWISE[name][1]
    rows = [[function(a, b) for b in y.double().numpy()] for a in x.double().numpy()]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", PAIRWISE)
def test_kernel_equals_a_double_loop(name: str) -> None:
    kernel = PAIRWISE[name][0]
    assert kernel.name == name
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x, y = torch.randn(6, 9).to(dtype), torch.rand(4, 9).to(dtype)
        tolerance = 1e-12 if dtype == torch.float64 else 2e-5
        for found, other in ((kernel(x), x), (kernel(x, y), y)):
            with case(dtype):
                assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                expected = double_loop(name, x, other)
                torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@each_kernel
def test_leading_dimensions_are_batches_of_graphs(kernel: Kernel) -> None:
    x, y = torch.randn(2, 3, 5, 7).double(), torch.randn(2, 3, 4, 7).double()
    found = kernel(x, y)
    assert found.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], kernel(x[i, j], y[i, j]))


@each_kernel
def test_gradients(kernel: Kernel) -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kernel, (x, y), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: kernel(x), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(kernel, (x, y), fast_mode=True)


def test_directions_and_their_gradients_are_those_of_the_written_formula() -> None:
    for dtype, rtol, atol in ((torch.float64, 1e-12, 1e-14), (torch.float32, 1e-5, 1e-6)):
        for direction in (unit, standardise):
            x, gradient = torch.randn(2, 40, 32, dtype=torch.float64).mul(5).add(3)
            x = x.to(dtype).requires_grad_()
            mean = x.double().mean(-1, keepdim=True) if direction is standardise else 0
            expected = (x.double() - mean) / (x.double() - mean).norm(dim=-1, keepdim=True)
            (slope,) = torch.autograd.grad(expected, x, gradient)
            found = direction(x)
            with case(dtype, direction):
                torch.testing.assert_close(found, expected.to(dtype), rtol=rtol, atol=atol)
                found_slope = torch.autograd.grad(found, x, gradient.to(dtype))[0]
                torch.testing.assert_close(found_slope, slope, rtol=rtol, atol=atol)


@pytest.mark.slow
def test_directions_are_differentiated_twice_and_compiled() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)

    def total(x: Tensor) -> Tensor:
        return pearson(x).pow(3).sum()

    leaf, compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.autograd.backward(total(leaf))
    curved = torch.func.hessian(total)(x[0])
    torch.testing.assert_close(curved, torch.func.jacrev(torch.func.grad(total))(x[0]))
    torch.autograd.backward(torch.compile(total, backend="aot_eager", fullgraph=True)(compiled))
    torch.testing.assert_close(compiled.grad, leaf.grad)


@pytest.mark.parametrize("kernel", [euclidean, squared_euclidean], ids=lambda kernel: kernel.name)
def test_distances_keep_their_digits_are_never_negative_and_exactly_zero_to_oneself(kernel: Kernel) -> None:
    metric = "euclidean" if kernel is euclidean else "sqeuclidean"
    for offset in (0.0, 30.0, 1000.0):
        x = torch.rand(32, 64) + offset  # rounded to float32 here, so the oracle sees the same numbers
        expected = torch.from_numpy(pairwise_distances(x.double().numpy(), metric=metric))
        torch.testing.assert_close(kernel(x).double(), expected, rtol=3e-6, atol=1e-7)
    x = torch.rand(20, 8).repeat(2, 1) + 5
    assert (kernel(x) >= 0).all() and not kernel(x).diagonal().any()


def pattern(value: float, dtype: torch.dtype, n: int = 4) -> Tensor:
    """Return nodes whose numbers are all plus or minus one extreme value."""
    signs = torch.tensor([[1.0, -1, 1, 1, 1, 1], [1, 1, 1, -1, -1, 1], [-1, -1, 1, -1, -1, -1], [1, 1, 1, 1, 1, -1]])
    return (signs[:n] * value).to(dtype)


@pytest.mark.parametrize("name", ["cosine", "pearson", "gaussian", "gaussian (Taylor)"])
def test_kernels_of_unit_vectors_bear_bfloat16_extremes(name: str) -> None:
    for value in (1e38, 3e38, 1e-30, 1e-36):
        x = pattern(value, torch.bfloat16).requires_grad_()
        found = PAIRWISE[name][0](x)
        torch.autograd.backward(found.square().sum())
        with case(value):
            torch.testing.assert_close(found.double(), double_loop(name, x.detach(), x.detach()), rtol=1e-5, atol=1e-5)
            assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_node_without_variance_is_correlated_with_nothing(dtype: torch.dtype) -> None:
    """The rounding of a mean is no deviation."""
    for constant in (0.0, 0.1, 1 / 3, -7.7, 1e-30, 12345.678, 1e38):
        for dim in (1, 3, 16, 49, 1000, 4096):
            with case(constant, dim):
                x = torch.randn(3, dim).to(dtype)
                x[1] = constant
                matrix = pearson(x)
                assert not matrix[1].any() and not matrix[:, 1].any()
                assert dim == 1 or matrix[0, 0] == pytest.approx(1, rel=1e-5)
                assert constant == 1e38 or not standardise(x[1:2].to(torch.promote_types(dtype, torch.float32))).any()


def test_small_variance_about_a_large_mean_is_not_rounding() -> None:
    row = 1000 + 0.05 * torch.randn(2, 64)
    expected = torch.from_numpy(np.corrcoef(row.double().numpy()))
    torch.testing.assert_close(pearson(row).double(), expected, rtol=1e-3, atol=1e-3)


def test_nearly_unit_divides_by_the_length_plus_epsilon() -> None:
    for epsilon in (1e-7, 0.5, 3.0):
        x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
        rows = [[[v / (math.hypot(*row) + epsilon) for v in row] for row in one] for one in x.tolist()]
        torch.testing.assert_close(nearly_unit(epsilon)(x), torch.tensor(rows).double(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(nearly_unit(epsilon)(x), x / (x.norm(dim=-1, keepdim=True) + epsilon))
        assert torch.autograd.gradcheck(nearly_unit(epsilon), (x,))
    for value in (1e-36, 1e-7, 1.0, 65504.0, 1e38):
        x = pattern(value, torch.float32)
        x[2] = 0
        found = nearly_unit(1e-7)(x.requires_grad_())
        (gradient,) = torch.autograd.grad(found.sum(), x)
        length = torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
        with case(value):
            torch.testing.assert_close(found.double(), x.double() / (length + 1e-7), rtol=1e-5, atol=0)
            assert gradient.isfinite().all() and not gradient[2].any() and gradient[0].any()


def test_the_square_root_has_no_gradient_at_zero() -> None:
    square = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(square)
    torch.autograd.backward(root.sum())
    assert root.tolist() == [0, 2]
    assert square.grad is not None and square.grad.tolist() == [0, 0.25]


def test_parameters_are_checked() -> None:
    assert_refused(
        *((partial(gaussian, gamma), f"gamma must be positive, got {gamma}") for gamma in (0, -1, math.nan)),
        *((partial(gaussian_taylor, gamma, 2), f"gamma must be positive, got {gamma}") for gamma in (0, -1, math.nan)),
        (lambda: gaussian_taylor(0.4, -1), "the order of a Taylor polynomial must be at least 0, got -1"),
    )


def test_two_precisions_are_related_in_the_wider_one() -> None:
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randn(4, 5)
    torch.testing.assert_close(pearson(x, y), pearson(x, y.double()), rtol=1e-5, atol=1e-6)
    assert pearson(y, x).dtype == torch.float64


@pytest.mark.parametrize("kernel", [linear, cosine, pearson], ids=lambda kernel: kernel.name)
def test_a_centred_kernel_is_its_matrix_centred(kernel: Kernel) -> None:
    """H K H, with a batch of graphs each by itself, and from far away."""
    x = torch.randn(2, 6, 4).double()
    h = np.eye(6) - 1 / 6
    expected = np.stack([h @ kernel(one).numpy() @ h for one in x])
    torch.testing.assert_close(centred(kernel)(x), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    equal = centred(kernel)(torch.full((3, 5), 0.1) + 1e3)
    assert not equal.any(), "nothing is left of equal nodes"


@each_kernel
def test_pairs_of_nodes_in_one_place_are_the_diagonal_of_the_matrix(kernel: Kernel) -> None:
    x, y = torch.randn(3, 6, 4).double(), torch.randn(3, 6, 4).double()
    found = kernel.paired(kernel.nodes(x), kernel.nodes(y))
    torch.testing.assert_close(found, kernel(x, y).diagonal(dim1=-2, dim2=-1))


def test_damping_is_no_negative_number_and_makes_no_node_of_a_constant_one() -> None:
    x = torch.cat([torch.full((1, 4), 0.1), torch.randn(2, 4)]).requires_grad_()
    found = damped_pearson(0.0)(x)
    assert not found[0].any() and not torch.autograd.grad(found.sum(), x)[0][0].any()
    torch.testing.assert_close(found, pearson(x), rtol=1e-5, atol=1e-6)
    assert_refused((lambda: damped_pearson(-1.0), "epsilon must be at least 0, got -1.0"))
