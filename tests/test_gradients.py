"""A second derivative that is not known is refused on every way to it, and first derivatives are what they were."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.autograd import functional

from relgraph.graph.blocks import rows_in_blocks, sum_of_blocks
from relgraph.graph.contrast import over_keys, queue_contrast, soft_queue_contrast, soft_rows
from relgraph.graph.criteria import huber
from relgraph.graph.factored import factored_square, gram, squares
from relgraph.graph.kernels import cosine, euclidean, linear
from relgraph.graph.relation import Relation
from relgraph.graph.search import edge_weights
from relgraph.graph.topology import Nearest
from relgraph.methods import CC, CKA, CRD, EGA, RRD, SEED, Batch, Lightly, Method, MoCo, ega_loss
from relgraph.networks.batch_norm import _Normalise
from relgraph.processes import SINGLE_PROCESS, _Shared
from tests.checks import assert_refused_like, case, small_blocks

N, D = 9, 4
Loss = Callable[[Tensor], Tensor]
LAST = "this loss has a first derivative only, got a second one: "


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let several blocks be needed everywhere."""
    small_blocks(monkeypatch, N)


def hvp(function: Loss, x: Tensor, along: Tensor) -> Tensor:
    found: Tensor = functional.hvp(function, x, along)[1]  # type: ignore[no-untyped-call]
    return found.detach()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


OTHER, KEYS, EDGES = draw(N, D), draw(11, D), torch.randint(0, N, (2, 12))
# Sums and means, whose incoming gradient is a constant, and squares, whose incoming gradient is none.
FUNCTIONS: dict[str, Loss] = {
    "gram": lambda x: gram(x, x).sum(),
    "gram of two": lambda x: gram(OTHER, x).square().sum(),
    "squares": lambda x: squares(x, OTHER).within,
    "squares, across": lambda x: squares(OTHER, x).across.square(),
    "factored": lambda x: factored_square((x, x), (OTHER[:, :2], OTHER[:, :2])),
    "sum of blocks": lambda x: sum_of_blocks(lambda some, x: (x[some] @ x.mT).sin().sum(), [x], N, 2),
    "rows in blocks": lambda x: rows_in_blocks(lambda x: x.sin().sum(-1), [x], 2 * N).mean(),
    "over keys": lambda x: over_keys(x, KEYS, largest=2 * N)[0].mean(),
    "edge weights": lambda x: edge_weights(x, x, EDGES, euclidean).mean(),
    "edge weights, squared": lambda x: edge_weights(x, OTHER, EDGES, cosine).square().sum(),
    "queue contrast": lambda x: queue_contrast(x, OTHER, KEYS, 0.5),
    "soft queue contrast": lambda x: soft_queue_contrast(x, OTHER, KEYS, 0.5, 0.5),
    "soft rows": lambda x: soft_rows(x, OTHER, KEYS, 0.5, 0.5)[0].mean(),
    "blocked": lambda x: Relation(euclidean, criterion=huber, form="blocked")(x, OTHER),
    "blocked, sparse": lambda x: Relation(linear, Nearest(3), form="blocked")(x, OTHER),
    "batch norm": lambda x: _Normalise.apply(x, None, None, 1e-5, SINGLE_PROCESS)[0].square().sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_second_derivative_is_refused_however_it_is_asked_for(name: str) -> None:
    function, x, along = FUNCTIONS[name], draw(N, D).requires_grad_(), draw(N, D)

    def by_grad() -> object:
        (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
        return torch.autograd.grad((gradient * along).sum(), x)

    def by_backward() -> None:
        (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
        torch.autograd.backward(gradient.sum())

    found = [by_grad, by_backward, lambda: hvp(function, x, along)]
    if name != "batch norm":  # a part of a network, which has no rule for torch.func
        found.append(lambda: torch.func.jvp(torch.func.grad(function), (x.detach(),), (along,)))
        found.append(lambda: torch.func.grad(lambda x: torch.func.grad(function)(x).sum())(x.detach()))
        found.append(lambda: torch.func.hessian(function)(x.detach()))
    assert_refused_like(*((call, f"^{LAST}") for call in found))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_derivatives_are_the_same_with_a_graph(name: str) -> None:
    function, x = FUNCTIONS[name], draw(N, D).requires_grad_()
    (expected,) = torch.autograd.grad(function(x), x)
    (found,) = torch.autograd.grad(function(x), x, create_graph=True)
    assert torch.equal(found.detach(), expected) and found.requires_grad
    if name != "batch norm":
        torch.testing.assert_close(torch.func.grad(function)(x.detach()), expected, rtol=1e-12, atol=1e-12)


def methods() -> dict[str, Method]:
    return {
        "CC": CC(correlation="bilinear", form="factored"),
        "CKA": CKA(form="factored"),
        "EGA": EGA(graph="knn", k=3, form="blocked"),
        "SEED": SEED(D, D, queue=16, head="none"),
        "MoCo": MoCo(D, D, queue=16),
        "RRD": RRD(D, D, queue=16, head="none"),
        "Lightly": Lightly(D, D, queue=16, head="none"),
    }


@pytest.mark.parametrize("name", methods())
def test_methods_refuse_a_second_derivative(name: str) -> None:
    method, x = methods()[name].double(), draw(N, D).requires_grad_()
    assert_refused_like((lambda: hvp(lambda x: method(x, OTHER), x, draw(N, D)), f"^{LAST}"))


def test_the_form_that_auto_chooses_refuses_it_and_the_matrix_gives_it() -> None:
    s, t, along = (draw(64, 16) for _ in range(3))
    assert_refused_like((lambda: hvp(lambda x: ega_loss(x, t, form="auto"), s, along), "use form 'matrix'"))
    assert_second_derivative(lambda x: ega_loss(x, t, form="matrix"), s, along)


@pytest.mark.parametrize("graph", ["sampled", "dense", "knn"])
def test_crd_has_a_second_derivative(graph: Literal["sampled", "dense", "knn"]) -> None:
    method, batch = CRD(D, D, 20, key_dim=D, graph=graph).double(), Batch(torch.arange(N), torch.arange(N) % 3)
    x = draw(N, D)
    method.remember(x, OTHER, batch)  # before that, Z is the current batch's, and a constant for the gradient
    assert_second_derivative(lambda x: method(x, OTHER, batch), x, draw(N, D))


def assert_second_derivative(function: Loss, x: Tensor, along: Tensor) -> None:
    """Check that of a function by the difference of its first ones at two points."""
    found, step = hvp(function, x, along), 1e-5
    one, other = (torch.func.grad(function)(x + sign * step * along) for sign in (1, -1))
    torch.testing.assert_close(found, (one - other).detach() / (2 * step), rtol=1e-4, atol=1e-5)


def test_rows_of_processes_refuse_it_where_the_gradient_changes() -> None:
    x = draw(N, D).requires_grad_()
    with case("linear, whose second derivative is 0"):
        (gradient,) = torch.autograd.grad(_Shared.apply(x, torch.clone, ..., 2).sum(), x, create_graph=True)
        assert torch.equal(gradient, torch.full_like(x, 2.0)) and not gradient.requires_grad
    assert_refused_like(
        (lambda: hvp(lambda x: _Shared.apply(x, torch.clone, ..., 2).square().sum(), x, x), "compute it in one process")
    )
