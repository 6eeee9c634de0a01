"""Refinement against double loops and PyG's GraphConv, and where weights cancel."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GraphConv

from relgraph.graph.kernels import pearson
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, graph_pair, weights
from relgraph.graph.refine import (
    REFINERS,
    Convolution,
    NodeRefinement,
    Refinement,
    SignedConv,
    Smoothing,
    neighbourhood,
    raw,
)  # fmt: skip
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges, Nearest
from tests.checks import assert_refused

N, D = 7, 5


def nodes() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, D).double()
    return x, pearson(x)


def knn(matrix: Tensor, k: int) -> Edges:
    edges = Nearest(k)(matrix, matrix, pearson)
    assert isinstance(edges, Edges)
    return edges


def double_loop(x: Tensor, matrix: Tensor, edges: Sequence[Sequence[int]]) -> Tensor:
    """Return `sum_j r_ij x_j / sum_j |r_ij|` over the edges (j, i)."""
    rows = []
    for i in range(len(x)):
        mine = [j for j, anchor in edges if anchor == i]
        total = sum(abs(matrix[i, j].item()) for j in mine)
        rows.append(sum((matrix[i, j] * x[j] / total for j in mine), torch.zeros(x.shape[1]).double()))
    return torch.stack(rows)


def randomise(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def test_the_neighbourhood_is_a_double_loop() -> None:
    x, matrix = nodes()
    everyone = [[j, i] for i in range(N) for j in range(N) if i != j]
    torch.testing.assert_close(neighbourhood(x, matrix, ALL_PAIRS), double_loop(x, matrix, everyone))
    edges = knn(matrix, 3)
    expected = double_loop(x, matrix, edges.edge_index.T.tolist())
    torch.testing.assert_close(neighbourhood(x, edges.pick(matrix), edges), expected)
    itself = edges.with_own()  # a node itself is left out there as well
    torch.testing.assert_close(neighbourhood(x, itself.pick(matrix), itself), expected)


def test_smoothing_is_the_formula() -> None:
    x, matrix = nodes()
    for strength in (0.0, 0.3, 1.0):
        expected = (1 - strength) * x + strength * neighbourhood(x, matrix, ALL_PAIRS)
        torch.testing.assert_close(Smoothing(D, strength)(x, matrix, ALL_PAIRS), expected)


def test_signed_conv_is_pygs_graph_conv_with_normalised_weights() -> None:
    x, matrix = nodes()
    edges = knn(matrix, 3)
    picked = edges.pick(matrix)
    conv = SignedConv(D)
    randomise(conv)
    oracle = GraphConv(D, D).double()
    oracle.lin_root.weight.data = conv.own.weight.data
    oracle.lin_rel.weight.data = conv.neighbours.weight.data
    oracle.lin_rel.bias.data = conv.neighbours.bias.data
    node = edges.edge_index[1]
    total = torch.zeros(N).double()
    for anchor, weight in zip(node.tolist(), picked.tolist(), strict=True):
        total[anchor] += abs(weight)
    assert (picked < 0).any()
    expected = oracle(x, edges.edge_index, picked / total[node])
    torch.testing.assert_close(conv(x, picked, edges), expected)


EDGES = Edges(torch.tensor([[1, 2, 0, 3], [0, 0, 1, 1]]), anchors=4)  # nodes 2 and 3 have no neighbours


@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.parametrize("values", [[0.5, -0.5, 0.3, -0.3], [0.0, 0.0, 0.0, 0.0], [1e-15, -1e-15, 0.0, 1.0]])
def test_weights_that_cancel_give_finite_values_and_gradients(name: str, values: list[float]) -> None:
    module = REFINERS[name](D)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, D, requires_grad=True)
    sparse = torch.tensor(values, requires_grad=True)
    matrix = torch.zeros(4, 4)
    matrix[EDGES.edge_index[1], EDGES.edge_index[0]] = sparse.detach()
    dense = matrix.requires_grad_()
    graphs: list[tuple[Tensor, AllPairs | Edges]] = [(sparse, EDGES), (dense, ALL_PAIRS)]
    results = []
    for given, topology in graphs:
        refined = module(x, given, topology)
        gradients = torch.autograd.grad(refined.square().sum(), (x, given))
        assert refined.isfinite().all() and all(g.isfinite().all() for g in gradients)
        results.append(refined)
    torch.testing.assert_close(*results)


class Shifted(nn.Module):
    """A user's own convolution: the sum of the neighbours."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        found = torch.zeros(len(x) + self.extra, x.shape[1]).to(x)
        return found.index_add(0, edge_index[1], edge_weight[:, None] * x[edge_index[0]])


def test_a_module_of_one_s_own_is_given_edges_and_their_weights() -> None:
    x, matrix = nodes()
    own = Convolution(Shifted(), raw, skip=False)
    torch.testing.assert_close(own(x, matrix, ALL_PAIRS), (matrix - torch.diag(matrix.diagonal())) @ x)
    edges = knn(matrix, 3)
    expected = torch.zeros(N, D).double()
    for j, i in edges.edge_index.T.tolist():
        expected[i] += matrix[i, j] * x[j]
    torch.testing.assert_close(own(x, edges.pick(matrix), edges), expected)
    torch.testing.assert_close(NodeRefinement(own, "embedding", 3, pearson)(x), expected)
    told = "a refinement returns nodes as it gets them, expected (7, 5), got (8, 5)"
    assert_refused((lambda: Convolution(Shifted(1), raw)(x, matrix, ALL_PAIRS), told))


def test_a_trained_refinement_moves_vectors_over_any_graph() -> None:
    x, matrix = nodes()
    moves = NodeRefinement(Smoothing(D), "embedding", 20, pearson)
    everyone = Smoothing(D)(x, matrix, ALL_PAIRS)
    torch.testing.assert_close(moves(x), everyone)  # no more neighbours than there are
    torch.testing.assert_close(moves(x, ALL_PAIRS), everyone)
    torch.testing.assert_close(moves(x, knn(matrix, 2)), Smoothing(D)(x, knn(matrix, 2).pick(matrix), knn(matrix, 2)))
    torch.testing.assert_close(moves(x[:1]), x[:1] / 2)


def test_a_node_without_edges_gets_nothing_from_its_neighbours() -> None:
    moved = neighbourhood(torch.randn(4, D), torch.ones(4), EDGES)
    assert moved[:2].any() and not moved[2:].any()


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(3)], ids=str)
def test_only_matching_sees_refined_nodes(rule: AllPairs | Nearest) -> None:
    """Each side moves its own nodes by its own weights, over the same edges."""
    student, teacher = nodes()[0].requires_grad_(), nodes()[0].requires_grad_()
    for name in REFINERS:
        refinement = Refinement(name, D)
        randomise(refinement)
        plain, refined = (graph_pair(student, teacher, topology=rule, refinement=r) for r in (None, refinement))
        edges = rule(pearson(student), pearson(teacher), pearson)
        assert "refined" not in plain["student"]
        for side, kind, x in (("student", STUDENT, student), ("teacher", TEACHER, teacher)):
            assert torch.equal(weights(refined, kind), weights(plain, kind))
            expected = getattr(refinement, side)(x, edges.pick(pearson(x)), edges)
            torch.testing.assert_close(refined[side].refined, expected)
        s, t = refined["student"].refined, refined["teacher"].refined
        assert s.requires_grad and not t.requires_grad
        source, node = refined[MATCHES].edge_index
        torch.testing.assert_close(refined[MATCHES].edge_weight, pearson(t, s)[source, node])


def test_which_refinement_learns() -> None:
    assert not Refinement("smooth", D).learns
    assert Refinement("conv", D, 3).learns
    assert [p.shape[-1] for p in Refinement("conv", D, 3).teacher.parameters()] == [3, 3, 3]


def test_what_is_refused() -> None:
    x, built = torch.randn(3, 5), "the refinement was built for embeddings of width 8, got"
    other = Refinement("smooth", 5, 8)
    assert_refused(
        (lambda: Smoothing(D, 1.5), "the strength of smoothing must be in [0, 1], got 1.5"),
        (lambda: Refinement("smoth", D), "unknown refinement 'smoth': did you mean 'smooth'?…"),
        (lambda: graph_pair(x, x, refinement=Refinement("smooth", 8)), f"{built} 5"),
        (lambda: graph_pair(x, torch.randn(3, 6), refinement=other, match=False), f"{built} 6"),
    )
