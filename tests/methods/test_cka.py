"""CKA against definition and official code, loops over the estimates, and what it does not see."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.kernels import centred, euclidean
from relgraph.graph.topology import Nearest
from relgraph.methods import CKA
from tests.checks import assert_refused
from tests.methods.golden import check, maps, value_and_gradient, vectors

OFFICIAL: dict[str, Any] = {"centred": False, "official": True}


def test_patches_of_one_image_as_nodes() -> None:
    """A reading of PaKA's: the mean over the images."""
    student, teacher = maps(2, 5, 6, 6, phase=0)

    def loss() -> Tensor:
        pairs = zip(*(x.flatten(2).mT for x in (student, teacher)), strict=True)
        return torch.stack([CKA()(s, t) for s, t in pairs]).mean()

    check("paka_cka_per_image_6x6 (definition)", loss, {"student": student})


def test_patches_of_a_channel_as_nodes() -> None:
    """The official code for detectors: the 6 patches of 16 x 16 of each channel, of all images' numbers."""
    student, teacher = maps(2, 5, 32, 48, phase=0)

    def loss() -> Tensor:
        parts = (x.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3).flatten(3) for x in (student, teacher))
        nodes = (x.permute(1, 2, 0, 3).flatten(2) for x in parts)  # channels, patches, numbers
        return 10 * torch.stack([CKA(**OFFICIAL)(s, t) for s, t in zip(*nodes, strict=True)]).mean()

    check("pcka_rkd_w10_32x48", loss, {"student": student})


def gram(x: Tensor) -> list[list[float]]:
    return [[float(a @ b) for b in x] for a in x]


def hsic_1(one: list[list[float]], other: list[list[float]]) -> float:
    """Return the unbiased estimate by its definition, sums over distinct images."""
    n = len(one)
    i_j = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(one[i][j] * other[j][i] for i, j in i_j)
    sums = sum(one[i][j] for i, j in i_j) * sum(other[i][j] for i, j in i_j)
    mixed = sum(one[i][k] * other[k][j] for i, j, k in product(range(n), repeat=3) if i != k != j)
    return (trace + sums / (n - 1) / (n - 2) - 2 * mixed / (n - 2)) / (n * (n - 3))


def test_the_unbiased_estimate_in_loops() -> None:
    student, teacher = (x.detach() for x in vectors(6, 4, 3))
    k, m = gram(student), gram(teacher)
    expected = 1 - hsic_1(k, m) / (hsic_1(k, k) * hsic_1(m, m)) ** 0.5
    assert CKA(unbiased=True)(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_nodes_that_do_not_vary_have_no_graph() -> None:
    far = torch.full((5, 3), 0.1) + 1e4
    teacher = torch.randn(5, 4)
    for loss in (CKA(), CKA(unbiased=True), CKA(form="blocked"), CKA(form="factored")):
        value, gradient = value_and_gradient(loss, far.clone().requires_grad_(), teacher)
        assert value.item() == pytest.approx(0.5) and not gradient.any()
        assert loss(far, far) == 0


def test_equidistant_nodes_have_no_unbiased_graph() -> None:
    """Their similarities to others are all equal: what rounding leaves of them is no graph."""
    value, gradient = value_and_gradient(CKA(unbiased=True), (0.3 * torch.eye(7)).requires_grad_(), torch.randn(7, 4))
    assert value.item() == pytest.approx(0.5) and gradient.isfinite().all() and gradient.abs().max() < 1e-3
    three = torch.randn(3, 4, requires_grad=True)
    assert CKA(unbiased=True)(three, torch.randn(3, 4)) == 0


def test_what_it_refuses() -> None:
    refuse: Callable[[], object] = lambda: CKA(unbiased=True, graph=Nearest(3))  # noqa: E731
    dot = "the kernel of a centred graph is a dot product of nodes, such as linear or cosine, got euclidean"
    assert_refused(
        (refuse, "the unbiased CKA is one of all pairs: expected the graph 'dense', got Nearest(k=3, by='teacher')"),
        (lambda: CKA(unbiased=True, form="blocked"), "CKA has the forms auto, matrix, got 'blocked'"),
        (lambda: CKA(rows=True, form="factored"), "CKA has the forms auto, matrix, blocked, got 'factored'"),
        (lambda: centred(euclidean), dot),
    )
