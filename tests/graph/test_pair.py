"""The graph pair against the dense definition, PyG's own conversions and degenerate batches."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.utils import to_dense_adj, to_networkx

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import cosine, pearson
from relgraph.graph.matching import by_anchor_sum, frobenius, mean_square
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, graph_pair, related, target, topology_of, weights
from relgraph.graph.relation import Relation
from relgraph.graph.topology import ALL_PAIRS, Above, Edges, Given, Nearest, Rule, WithOwn

N, D = 7, 5


def embeddings(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(n, D).double().requires_grad_(), torch.randn(n, D).double()


def correlations(x: Tensor, y: Tensor) -> Tensor:
    """Return numpy's correlations of the rows of x with those of y."""
    both = np.corrcoef(np.concatenate([x.detach().numpy(), y.detach().numpy()]))
    return torch.from_numpy(both[: len(x), len(x) :])


def test_all_pairs_hold_numpys_correlations_with_sources_in_rows() -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher)
    torch.testing.assert_close(pair[STUDENT].adj.detach(), correlations(student, student))
    torch.testing.assert_close(pair[TEACHER].adj, correlations(teacher, teacher))
    torch.testing.assert_close(pair[MATCHES].adj.detach(), correlations(teacher, student))
    torch.testing.assert_close(weights(pair, MATCHES).detach(), correlations(student, teacher))


def test_the_dense_pair_is_pygs_dense_form_of_the_sparse_one() -> None:
    student, teacher = embeddings()
    dense, sparse = graph_pair(student, teacher), graph_pair(student, teacher, topology=Nearest(N - 1))
    for kind in (STUDENT, TEACHER, MATCHES):
        store = sparse[kind]
        (adj,) = to_dense_adj(store.edge_index, edge_attr=store.edge_weight, max_num_nodes=N)
        if kind != MATCHES:
            adj = adj + torch.eye(N)  # the sparse form leaves out a node's edge to itself
        torch.testing.assert_close(dense[kind].adj, adj)


@pytest.mark.parametrize("rule", [Nearest(3), Nearest(2, "union"), Above(0.3), Given(torch.tensor([[1, 2], [0, 5]]))])
def test_sparse_edges_carry_the_weight_of_their_two_ends(rule: Rule) -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher, topology=rule)
    assert torch.equal(pair[STUDENT].edge_index, pair[TEACHER].edge_index)
    ends = {STUDENT: (student, student), TEACHER: (teacher, teacher), MATCHES: (teacher, student)}
    for kind, (sources, targets) in ends.items():
        matrix = correlations(sources, targets)
        source, node = pair[kind].edge_index
        torch.testing.assert_close(pair[kind].edge_weight.detach(), matrix[source, node])


def test_the_cross_graph_joins_own_and_neighbours() -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher, topology=Nearest(2))
    own = [(i, i) for i in range(N)]
    edges = list(map(tuple, pair[MATCHES].edge_index.T.tolist()))
    assert edges[:N] == own
    assert edges[N:] == list(map(tuple, pair[TEACHER].edge_index.T.tolist()))
    assert target(pair).tolist() == [1.0] * N + [0.0] * (2 * N)


def test_targets_and_topologies() -> None:
    student, teacher = embeddings()
    dense, sparse = graph_pair(student, teacher), graph_pair(student, teacher, topology=Nearest(2))
    assert torch.equal(target(dense), torch.eye(N).double())
    assert topology_of(dense) is ALL_PAIRS
    for kind in (STUDENT, TEACHER, MATCHES):
        edges = topology_of(sparse, kind)
        assert isinstance(edges, Edges) and edges.anchors == N
        assert edges.edge_index is sparse[kind].edge_index


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2)], ids=str)
def test_the_weights_in_the_pair_carry_the_gradient(rule: Rule) -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher, topology=rule)
    assert pair["student"].x is student and pair["teacher"].x is teacher
    torch.autograd.backward(frobenius(weights(pair, STUDENT), weights(pair, TEACHER)))
    assert student.grad is not None and student.grad.any()
    assert not weights(pair, TEACHER).requires_grad and weights(pair, MATCHES).requires_grad


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2)], ids=str)
def test_pyg_takes_it_for_a_graph(rule: Rule) -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher, topology=rule, index=torch.arange(N) + 100, y=torch.arange(N) % 3)
    assert pair.validate()
    assert pair.node_types == ["student", "teacher"]
    assert set(pair.edge_types) == {STUDENT, TEACHER, MATCHES}
    assert pair.num_nodes == 2 * N
    for side in ("student", "teacher"):
        assert pair[side].index.tolist() == list(range(100, 100 + N))
        assert pair[side].y.tolist() == [i % 3 for i in range(N)]
    assert "index" not in graph_pair(student, teacher)["student"] and "y" not in graph_pair(student, teacher)["student"]


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2)], ids=str)
def test_without_a_cross_graph_the_widths_may_differ(rule: Rule) -> None:
    student, teacher = embeddings()[0], torch.randn(N, D + 3).double()
    pair = graph_pair(student, teacher, topology=rule, match=False)
    assert pair.validate()
    assert pair.edge_types == [STUDENT, TEACHER]
    for kind, x in ((STUDENT, student), (TEACHER, teacher)):
        picked = topology_of(pair, kind).pick(correlations(x, x))
        torch.testing.assert_close(weights(pair, kind).detach(), picked)


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2), WithOwn(Nearest(2))], ids=str)
def test_what_a_relation_says_of_a_pair(rule: Rule) -> None:
    """Of the same nodes, kernel and rule, by way of the pair and without it."""
    student, teacher = embeddings()[0], torch.randn(N, D + 3).double()
    relation = Relation(cosine, rule, by_anchor_sum, mean_square)
    pair = graph_pair(student, teacher, topology=rule, kernel=cosine, match=False)
    found, expected = related(pair, relation), relation(student, teacher)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(value, student) for value in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_networkx_finds_the_same_edges() -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher, topology=Nearest(2))
    graph = to_networkx(pair)
    assert isinstance(graph, nx.DiGraph)
    sides = nx.get_node_attributes(graph, "type")
    own = [(a, b) for a, b in graph.edges if sides[a] == "teacher" and sides[b] == "student"]
    assert graph.number_of_nodes() == 2 * N
    assert graph.number_of_edges() == 2 * 2 * N + 3 * N
    assert len(own) == 3 * N
    assert all(degree == 2 + 3 * (sides[node] == "student") for node, degree in graph.in_degree())


def test_degenerate_nodes_are_counted_and_relate_to_nothing() -> None:
    student, teacher = (x.detach() for x in embeddings())
    student[2], student[4], teacher[4] = 0.1, 0, 1e5
    pair = graph_pair(student, teacher)
    assert pair["student"].degenerate.tolist() == [i in (2, 4) for i in range(N)]
    assert pair["teacher"].degenerate.tolist() == [i == 4 for i in range(N)]
    assert not pair[STUDENT].adj[2].any() and not pair[STUDENT].adj[:, 2].any()
    assert not pair[MATCHES].adj[4].any() and not pair[MATCHES].adj[:, 2].any()


def test_half_precision_nodes_are_weighed_in_float32() -> None:
    student, teacher = (x.detach().bfloat16() for x in embeddings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pair = graph_pair(student, teacher)
    assert pair["student"].x.dtype == torch.bfloat16
    assert all(pair[kind].adj.dtype == torch.float32 for kind in (STUDENT, TEACHER, MATCHES))
    torch.testing.assert_close(pair[MATCHES].adj, pearson(teacher.float(), student.float()), rtol=1e-5, atol=1e-6)


def test_any_kernel() -> None:
    student, teacher = (x.detach() for x in embeddings())
    pair = graph_pair(student, teacher, kernel=cosine)
    expected = torch.nn.functional.cosine_similarity(teacher[:, None], student[None], dim=-1)
    torch.testing.assert_close(pair[MATCHES].adj, expected)


def test_one_image() -> None:
    student, teacher = embeddings(1)
    pair = graph_pair(student, teacher)
    assert pair[STUDENT].adj.shape == (1, 1) and target(pair).tolist() == [[1.0]]


def test_messages() -> None:
    with pytest.raises(RelgraphError, match=r"^matching nodes needs embeddings of one width: .* got 4 and 5$"):
        graph_pair(torch.zeros(3, 4), torch.zeros(3, 5))
    for match in (True, False):
        with pytest.raises(RelgraphError, match=r"^embeddings must be \(N, D\), .* got \(3, 4\) and \(2, 4\)$"):
            graph_pair(torch.zeros(3, 4), torch.zeros(2, 4), match=match)
    with pytest.raises(RelgraphError, match=r"^k must be between 1 and the number of nodes less one, 2, got 5$"):
        graph_pair(torch.zeros(3, 4), torch.zeros(3, 4), topology=Nearest(5))
    with pytest.raises(RelgraphError, match=r"^a graph pair holds one batch \(N, D\), got \(2, 3, 4\)$"):
        graph_pair(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
