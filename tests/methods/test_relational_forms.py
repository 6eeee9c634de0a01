"""One loss in every form: methods without matrices against those with them, alone and over processes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from relgraph.graph import blocks, contrast
from relgraph.graph.contrast import batch_contrast, view_contrast
from relgraph.graph.criteria import mean_square
from relgraph.graph.factored import gram
from relgraph.graph.kernels import cosine, pearson
from relgraph.graph.pair import Form, graph_pair, has_weights
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm
from relgraph.graph.topology import ALL_PAIRS, Nearest, Rule
from relgraph.methods import (
    CC,
    CCL,
    CKA,
    CSD,
    EGA,
    IRG,
    NCE,
    PKT,
    RAML,
    RKD,
    ROP,
    SP,
    Batch,
    D3still,
    DarkRank,
    Output,
    RunFacts,
    ega_loss,
)  # fmt: skip
from relgraph.methods.base import as_output
from relgraph.methods.own import Related
from relgraph.methods.relational import Relational
from relgraph.names import build_method
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.spread import spread_over
from tests.checks import assert_refused, assert_refused_like
from tests.graph.test_factored import largest_tensor, with_gradient
from tests.processes import run_on

N, DIM = 10, 6
AGAINST = Relation(cosine, criterion=mean_square, against="teacher")
BATCH = Batch(torch.arange(N), torch.tensor([0, 1, 2, -1, 1, 0, 2, 2, -1, 0]))
Make = Callable[[Form, Rule], Relational]
METHODS: dict[str, Make] = {
    "ega": lambda form, graph: EGA(graph=graph, form=form),
    "sp": lambda form, graph: SP(graph=graph, nodes="feature", form=form),
    "cc": lambda form, graph: CC(graph=graph, form=form),
    "cc gaussian": lambda form, graph: CC("gaussian", graph=graph, form=form),
    "cc bilinear": lambda form, graph: CC("bilinear", graph=graph, form=form),
    "cc linear": lambda form, graph: CC("bilinear", unit_length=False, graph=graph, form=form),
    "pkt": lambda form, graph: PKT(graph=graph, form=form),
    "rkd": lambda form, graph: RKD(graph=graph, form=form),
    "irg": lambda form, graph: IRG(edge_transition_weight=2.0, graph=graph, graph_form=form),
    "irg caffe": lambda form, graph: IRG(form="caffe", graph=graph, graph_form=form),
    "irg to many": lambda form, graph: IRG(layers="one-to-many", graph=graph, graph_form=form),
    "cka": lambda form, graph: CKA(graph=graph, form=form),
    "cka uncentred": lambda form, graph: CKA(centred=False, graph=graph, form=form),
    "cka rows": lambda form, graph: CKA(rows=True, graph=graph, form=form),
    "darkrank": lambda form, graph: DarkRank(length=3, graph=graph, form=form),
    "nce": lambda form, graph: NCE(graph=graph, form=form),
    "ccl": lambda form, graph: CCL(graph=graph, form=form),
    "csd": lambda form, graph: CSD(length=4, graph=graph, form=form),
    "rop": lambda form, graph: ROP(length=4, graph=graph, form=form),
    "d3still": lambda form, graph: D3still(length=4, graph=graph, form=form),
    "raml": lambda form, graph: RAML(graph=graph, form=form),
    "against": lambda form, graph: Related(AGAINST, graph=graph, form=form),
    "against, by norm": lambda form, graph: Related(replace(AGAINST, scale=by_anchor_norm), graph=graph, form=form),
}
FACTORED = ("ega", "sp", "cc bilinear", "cc linear", "cka", "cka uncentred", "against", "against, by norm")


def output(x: Tensor) -> Output:
    """Return all that methods read, made of one tensor `(N, DIM)`."""
    maps = x.view(N, DIM, 1, 1) * torch.linspace(-1, 2, 4).double().view(2, 2)
    return Output(x, x[:, :3].sin(), x.cos(), (maps[:, :2], maps[:, :2].square(), maps.exp()[:, :4]))


def nodes(constant: bool = True) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, N, DIM, generator=torch.Generator().manual_seed(0)).double()
    if constant:
        student[3] = teacher[4] = 0.5
    return student, teacher


def compared(method: Relational, constant: bool = True) -> tuple[Tensor, Tensor]:
    """Return the loss and the student's gradient."""

    def loss(s: Tensor, t: Tensor) -> Tensor:
        value: Tensor = method(output(s), output(t), BATCH)
        return value

    value, gradient, of_teacher = with_gradient(loss, *nodes(constant))
    assert not of_teacher.any()
    return value, gradient


@pytest.mark.parametrize("name", METHODS)
def test_blocks_and_products_of_nodes_are_the_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = METHODS[name]
    expected = compared(make("matrix", ALL_PAIRS))
    if name in FACTORED:
        torch.testing.assert_close(compared(make("factored", ALL_PAIRS)), expected, rtol=1e-10, atol=1e-10)
    else:
        told = "has the forms auto, matrix, blocked, got 'factored'"
        assert_refused_like((lambda: make("factored", ALL_PAIRS), told))
    monkeypatch.setattr(blocks, "LARGEST", 3 * N)
    method = make("blocked", ALL_PAIRS)
    torch.testing.assert_close(compared(method), expected, rtol=1e-10, atol=1e-10)

    # A constant node has equally near neighbours: any may be chosen.
    for graph in (Nearest(4), Nearest(5, "union")):
        expected, found = (compared(make(form, graph), constant=False) for form in ("matrix", "blocked"))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_forms_that_a_graph_or_a_refinement_has_not_are_refused() -> None:
    x, smooth = torch.randn(5, 3), Refinement("smooth", 3)
    moved, sparse = "with a refinement has the forms auto, matrix, got", "has the forms auto, matrix, blocked, got"
    assert_refused(
        (lambda: EGA(graph="knn", form="factored"), f"EGA on a sparse graph {sparse} 'factored'"),
        (lambda: EGA(refinement=smooth, form="blocked"), f"EGA {moved} 'blocked'"),
        (lambda: CC("consecutive", form="blocked"), "CC has the forms auto, matrix, got 'blocked'"),
        (lambda: SP(form="dense"), "unknown form 'dense'…"),  # type: ignore[arg-type]
        (lambda: graph_pair(x, x, refinement=smooth, form="blocked"), f"a graph pair {moved} 'blocked'"),
        (lambda: graph_pair(x, x, topology=Nearest(2), form="factored"), f"a sparse graph pair {sparse} 'factored'"),
    )


@pytest.mark.parametrize("form", ["factored", "blocked"])
def test_a_pair_without_matrices_holds_its_nodes_and_says_so(form: Form) -> None:
    student, teacher = nodes()
    method = EGA(form=form)
    terms, seen = spread_over(method).compare(as_output(student), as_output(teacher), None)
    torch.testing.assert_close(terms, method.terms(student, teacher))
    for pair in (method.pair(as_output(student), as_output(teacher)), *(pair for pair, _ in seen)):
        assert pair.form == form
        assert not has_weights(pair) and pair.edge_types == []
        assert torch.equal(pair["student"].x, student) and torch.equal(pair["teacher"].x, teacher)
        assert pair["student"].degenerate.tolist() == [i == 3 for i in range(N)]
    assert [kernel for _, kernel in seen] == [pearson]
    whole = graph_pair(student, teacher)
    assert whole.form == "matrix" and has_weights(whole)


def test_auto_takes_products_of_large_batches_alone() -> None:
    student, teacher = torch.randn(2, 400, 8)
    with largest_tensor() as seen:
        EGA()(student, teacher)
    assert seen.numel < 400**2
    builder, few = EGA().builder, torch.randn(24, 8)
    assert builder.form_of(few, few) == "matrix" and builder.form_of(few, few, processes=2) == "factored"
    torch.testing.assert_close(ega_loss(student, teacher), ega_loss(student, teacher, form="matrix"))


def test_the_form_of_a_run_reaches_the_methods_and_irg_keeps_its_own() -> None:
    def built(name: str, form: Form, *arguments: str) -> object:
        found = build_method(name, RunFacts(4, 4, 4), {"form": form}, arguments)
        assert found is not None
        return found.parts[name]

    ega, irg, caffe = built("ega", "blocked"), built("irg", "blocked"), built("irg", "matrix", "form=caffe")
    assert isinstance(ega, EGA) and ega.form == "blocked" == ega.builder.form
    assert isinstance(irg, IRG) and irg.graph_form == "blocked" == irg.builder.form and irg.form == "max"
    assert isinstance(caffe, IRG) and caffe.graph_form == "matrix" == caffe.builder.form and caffe.form == "caffe"


def test_contrast_in_blocks_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [partial(loss, tau=0.3) for loss in (batch_contrast, view_contrast)]
    expected = [with_gradient(loss, *nodes()) for loss in losses]
    monkeypatch.setattr(contrast, "LARGEST_MATRIX", 1)
    monkeypatch.setattr(blocks, "LARGEST", 30)
    found = [with_gradient(loss, *nodes()) for loss in losses]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


ONE_WIDTH = ("ega", "against", "against, by norm")
CASES: dict[str, tuple[str, Form, int]] = {
    **{f"{name}, factored": (name, "factored", DIM) for name in FACTORED},
    **{f"{name}, factored, two widths": (name, "factored", DIM + 2) for name in FACTORED if name not in ONE_WIDTH},
    **{f"{name}, blocked": (name, "blocked", DIM) for name in ("ega", "rkd", "csd")},
    **{f"{name}, auto": (name, "auto", DIM) for name in ("ega", "pkt")},
}
WIDTH, LARGE = 5, 4 * N


def _learned(processes: ProcessGroup) -> tuple[dict[str, tuple[Tensor, Tensor, int]], Tensor]:
    """Return each case's loss, the gradient of a shared layer, and the nodes of its pair, of its rows; and a gram."""
    found = {}
    for case, (name, form, width) in CASES.items():
        images, teacher = (
            torch.randn(LARGE, size, generator=torch.Generator().manual_seed(1)).double()
            * (1 + torch.arange(LARGE))[:, None]
            for size in (WIDTH, width)
        )
        rows = processes.rows(LARGE)
        layer = nn.Linear(WIDTH, DIM).double()
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 1, WIDTH * DIM).view(DIM, WIDTH).sin())
        spread = spread_over(METHODS[name](form, ALL_PAIRS), processes)
        value = spread(layer(images[rows]), teacher[rows])
        torch.autograd.backward(value)
        assert layer.weight.grad is not None
        _, ((pair, _),) = spread.compare(as_output(layer(images[rows])), as_output(teacher[rows]), None)
        found[case] = value.detach(), layer.weight.grad, len(pair["student"].x)
    x = torch.arange(12.0).view(6, 2)[processes.rows(6)]
    return found, gram(x, x[:, :1], processes)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    count = 2
    (whole, gram), found = _learned(SINGLE_PROCESS), run_on(count, _learned, tmp_path)
    results = [result for result, _ in found]
    assert all(torch.equal(other, gram) for _, other in found)
    for case, (value, gradient, _) in whole.items():
        assert all(torch.equal(result[case][0], results[0][case][0]) for result in results), case
        torch.testing.assert_close(results[0][case][0], value, rtol=1e-10, atol=1e-12)
        mean = torch.stack([result[case][1] for result in results]).mean(0)
        torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-12)
        # Only the factored form leaves the rows where they are.
        factored = "factored" in case or case == "ega, auto"
        assert {result[case][2] for result in results} == {LARGE // count if factored else LARGE}, case
