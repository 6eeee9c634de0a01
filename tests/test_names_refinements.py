"""Graph convolutions of PyTorch Geometric as refinements: against the convolution itself, and where it could fail."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from relgraph.graph.kernels import pearson
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges, Nearest
from relgraph.methods import EGA, Output, RunFacts
from relgraph.names import build_method, refiner
from relgraph.names.refinements import CONVOLUTIONS
from relgraph.own_code import Own
from tests.checks import assert_refused_like, case

N, D = 7, 6
DEGENERATE: dict[str, Callable[[], Tensor]] = {
    "random": lambda: torch.randn(N, D),
    "constant rows": lambda: torch.arange(float(N))[:, None].expand(N, D),
    "equal rows": lambda: torch.randn(D).expand(N, D),
    "opposite rows": lambda: torch.stack([torch.arange(float(D)), -torch.arange(float(D))]),
    "one": lambda: torch.randn(1, D),
}


def nearest(matrix: Tensor, k: int) -> Edges:
    edges = Nearest(k)(matrix, matrix, pearson)
    assert isinstance(edges, Edges)
    return edges


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_of_pyg(name: str) -> None:
    """All pairs are N - 1 neighbours, the node itself is added, degenerate nodes give finite values and gradients."""
    module = refiner(name)(D)
    x = torch.randn(N, D)
    matrix = pearson(x)
    edges = nearest(matrix, 5)
    weights = edges.pick(matrix)
    assert bool((weights < 0).any() & (weights > 0).any())
    total = torch.zeros(N).index_add(0, edges.edge_index[1], weights.abs())[edges.edge_index[1]]
    told = {"GraphConv": {"edge_weight": weights / total}, "GCNConv": {"edge_weight": weights.abs()},
            "GATv2Conv": {"edge_attr": weights[:, None]}, "SAGEConv": {}}  # fmt: skip
    if name in told:
        assert isinstance(module.conv, getattr(pyg, name))
        torch.testing.assert_close(module(x, weights, edges), x + module.conv(x, edges.edge_index, **told[name]))
    torch.testing.assert_close(
        module(x, matrix, ALL_PAIRS), module(x, nearest(matrix, N - 1).pick(matrix), nearest(matrix, N - 1))
    )
    for what, make in DEGENERATE.items():
        with case(what):
            x = make().clone().requires_grad_()
            matrix = pearson(x)
            graphs: list[AllPairs | Edges] = [ALL_PAIRS]
            graphs += [nearest(matrix, min(3, len(x) - 1))] if len(x) > 1 else []
            for topology in graphs:
                moved = module(x, topology.pick(matrix), topology)
                (gradient,) = torch.autograd.grad(moved.square().sum(), x, retain_graph=True)
                assert moved.shape == x.shape and bool(moved.isfinite().all() & gradient.isfinite().all())
                assert bool(gradient.any())


@pytest.mark.parametrize("graph", ["dense", "knn"])
def test_a_method_trains_both_sides_of_it(graph: str) -> None:
    facts = RunFacts(dim=D, student_width=D, teacher_width=D)
    method = build_method("ega", facts, {"refine": "GATv2Conv", "graph": graph, "k": 3 if graph == "knn" else None})
    assert method is not None
    ((_, ega),) = method.each()
    assert isinstance(ega, EGA) and ega.refinement is not None and ega.refinement.learns
    student, teacher = (Output(torch.randn(N, D, requires_grad=True)) for _ in range(2))
    method(student, teacher).backward()
    assert student.embedding.grad is not None and bool(student.embedding.grad.any()) and teacher.embedding.grad is None
    assert all(p.grad is not None for p in ega.refinement.student.parameters())
    assert all(p.grad is None for p in ega.refinement.teacher.parameters())


class Scaled(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 2.0))

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        return self.scale * x


def test_a_module_of_one_s_own_by_spelling_and_as_an_object(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text("import torch\n\n\ndef net(dim):\n    return torch.nn.Bilinear(dim, dim, dim)\n\n\nthree = 3\n")
    x = torch.randn(N, D)
    for spec in (Own.of(Scaled), Own.of(Scaled(D))):
        module = refiner(spec)(D)
        torch.testing.assert_close(module(x, pearson(x), ALL_PAIRS), 2 * x)
    assert isinstance(refiner(f"{file}:net")(D).conv, nn.Bilinear)
    assert_refused_like(
        (
            lambda: refiner("GINConv"),
            r"unknown refinement 'GINConv': did you mean 'GCNConv'\? \(known: ARMAConv|Cluster",
        ),
        (lambda: refiner(f"{file}:three")(D), "three cannot be built for width 6: TypeError"),
        (lambda: refiner(f"{file}:missing"), "unknown attribute of"),
    )
