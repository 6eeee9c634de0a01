"""The graph pair against the dense definition, PyG's own conversions and degenerate batches."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, HeteroData
from torch_geometric.nn import SimpleConv, to_hetero
from torch_geometric.utils import to_networkx

from relgraph.analysis import export
from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import cosine, pearson
from relgraph.graph.pair import (
    LISTED,
    MATCHES,
    STUDENT,
    TEACHER,
    EdgeType,
    Form,
    PairBuilder,
    _all_edges,
    adjacency,
    graph_pair,
    has_weights,
    weights,
    with_edges,
)
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_sum
from relgraph.graph.topology import ALL_PAIRS, Above, Given, Graph, Nearest, Rule, WithOwn
from relgraph.methods import EGA
from tests.checks import assert_refused

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
    torch.testing.assert_close(adjacency(pair, STUDENT).detach(), correlations(student, student))
    torch.testing.assert_close(adjacency(pair, TEACHER), correlations(teacher, teacher))
    torch.testing.assert_close(adjacency(pair, MATCHES).detach(), correlations(teacher, student))
    torch.testing.assert_close(weights(pair, MATCHES).detach(), correlations(student, teacher))


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2)], ids=str)
def test_pyg_takes_it_for_a_graph(rule: Rule) -> None:
    student, teacher = embeddings()
    pair = graph_pair(student, teacher, topology=rule, image_id=torch.arange(N) + 100, y=torch.arange(N) % 3)
    assert pair.validate()
    assert pair.node_types == ["student", "teacher"]
    assert set(pair.edge_types) == {STUDENT, TEACHER, MATCHES}
    assert pair.num_nodes == 2 * N
    for side, x in (("student", student), ("teacher", teacher)):
        assert pair[side].x is x
        assert pair[side].image_id.tolist() == list(range(100, 100 + N))
        assert pair[side].y.tolist() == [i % 3 for i in range(N)]
    bare = graph_pair(student, teacher)["student"]
    assert "image_id" not in bare and "y" not in bare


@pytest.mark.parametrize("rule", [ALL_PAIRS, Nearest(2), WithOwn(Nearest(2))], ids=str)
def test_what_a_relation_says_of_a_pair(rule: Rule) -> None:
    """Of the same nodes, kernel and rule, by way of the pair and without it."""
    student, teacher = embeddings()[0], torch.randn(N, D + 3).double()
    relation = Relation(cosine, rule, by_anchor_sum, mean_square)
    pair = graph_pair(student, teacher, topology=rule, kernel=cosine, match=False)
    found, expected = relation.of_pair(pair), relation(student, teacher)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(value, student) for value in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_degenerate_nodes_are_counted_and_relate_to_nothing() -> None:
    student, teacher = (x.detach() for x in embeddings())
    student[2], student[4], teacher[4] = 0.1, 0, 1e5
    pair = graph_pair(student, teacher)
    assert pair["student"].degenerate.tolist() == [i in (2, 4) for i in range(N)]
    assert pair["teacher"].degenerate.tolist() == [i == 4 for i in range(N)]
    assert not adjacency(pair, STUDENT)[2].any() and not adjacency(pair, STUDENT)[:, 2].any()
    assert not adjacency(pair, MATCHES)[4].any() and not adjacency(pair, MATCHES)[:, 2].any()
    rest = student[[0, 1, 3, 5, 6]]
    torch.testing.assert_close(adjacency(pair, STUDENT)[[0, 1, 3, 5, 6]][:, [0, 1, 3, 5, 6]], correlations(rest, rest))


def test_what_is_refused() -> None:
    three, solid = torch.zeros(3, 4), torch.zeros(2, 3, 4)
    width = "matching nodes needs embeddings of one width: project student and teacher to it, got 4 and 5"
    sizes = "embeddings must be (N, D), student and teacher of the same N images, got (3, 4) and (2, 4)"
    batch = " of a batch of graphs must be (B, N) = (2, 3), got "
    between = "k must be between 1 and the number of nodes less one, 2, got 5"
    assert_refused(
        (lambda: graph_pair(three, torch.zeros(3, 5)), width),
        (lambda: graph_pair(three, torch.zeros(2, 4)), sizes),
        (lambda: graph_pair(three, torch.zeros(2, 4), match=False), sizes),
        (lambda: graph_pair(three, three, topology=Nearest(5)), between),
        (lambda: graph_pair(solid, solid, y=torch.zeros(3, 3)), "y" + batch + "(3, 3)"),
        (lambda: graph_pair(three, three, y=[1, 2]), "y must be (N,) = (3,), got (2,)"),
        (lambda: graph_pair(solid, solid, image_id=torch.arange(2)), "image_id" + batch + "(2,)"),
        (
            lambda: graph_pair(three, three, kernel="cosine"),  # type: ignore[arg-type]
            "the kernel of a graph pair is a Kernel, such as pearson or gaussian(0.4), got 'cosine'",
        ),
        (
            lambda: graph_pair(three, three, topology=np.zeros((2, 3))),  # type: ignore[arg-type]
            "the graph of a batch is 'dense', 'knn'…",
        ),
        (lambda: EGA(graph=[[0, 1], [1, 0]]), "the graph of a batch is 'dense', 'knn'…"),  # type: ignore[arg-type]
        (lambda: graph_pair(solid[None], solid[None]), "a graph pair holds one batch (N, D), got (1, 2, 3, 4)"),
    )


RULES: dict[str, Graph] = {
    "all pairs": ALL_PAIRS,
    "nearest": Nearest(2),
    "union": Nearest(2, "union"),
    "above": Above(0.3),
    "given": Given(torch.tensor([[1, 2], [0, 3]])),
}
each_rule = pytest.mark.parametrize("rule", RULES)


def some_pair(rule: str, n: int = N) -> HeteroData:
    student, teacher = (x.detach() for x in embeddings(n))
    return graph_pair(student, teacher, topology=RULES[rule], image_id=torch.arange(n) + 100)


def by_ends(pair: HeteroData, kind: EdgeType) -> dict[tuple[int, int], float]:
    """Return numpy's weight of each edge that a pair should have, by source and target."""
    matrix = correlations(pair[kind[0]].x, pair[kind[2]].x)
    ends = pair[kind].edge_index.T.tolist()
    if pair.graph == "dense":
        n = len(matrix)
        assert sorted(ends) == [[i, j] for i in range(n) for j in range(n)]
    return {(i, j): float(matrix[i, j]) for i, j in ends}


def joined(pair: HeteroData) -> dict[tuple[int, int], float]:
    """Return the weights of all three graphs, the teacher's nodes numbered after the student's."""
    first = {"student": 0, "teacher": N}
    return {
        (i + first[kind[0]], j + first[kind[2]]): weight
        for kind in (STUDENT, TEACHER, MATCHES)
        for (i, j), weight in by_ends(pair, kind).items()
    }


@each_rule
def test_a_batch_of_pairs_of_unequal_size_is_taken_apart_again(rule: str) -> None:
    pairs = [some_pair(rule, n) for n in (4, 7)]
    batch = Batch.from_data_list(pairs)
    assert batch.num_graphs == 2
    for kind in (STUDENT, TEACHER, MATCHES):
        found = dict(zip(map(tuple, batch[kind].edge_index.T.tolist()), batch[kind].edge_weight.tolist(), strict=True))
        one, other = (by_ends(pair, kind) for pair in pairs)
        assert found == pytest.approx(one | {(i + 4, j + 4): weight for (i, j), weight in other.items()})
    for apart in ([batch.get_example(0), batch.get_example(1)], batch[0:2], batch.to_data_list()):
        for found, pair in zip(apart, pairs, strict=True):
            assert found["student"].image_id.tolist() == pair["student"].image_id.tolist()
            assert (found.graph, found.form) == (pair.graph, pair.form)
            for kind in (STUDENT, TEACHER, MATCHES):
                assert torch.equal(found[kind].edge_index, pair[kind].edge_index)
                assert torch.equal(weights(found, kind), weights(pair, kind))
            assert torch.equal(Relation().of_pair(found), Relation().of_pair(pair))


class Convolution(torch.nn.Module):
    """Sum what comes in over the edges, times their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve = SimpleConv(aggr="sum")

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        found: Tensor = self.convolve(x, edge_index, edge_weight)
        return found


@each_rule
def test_networkx_and_pyg_read_the_right_weights(rule: str) -> None:
    """By networkx, as one homogeneous graph, and by a model of PyG."""
    pair = some_pair(rule)
    assert torch.equal(pair[STUDENT].edge_index, pair[TEACHER].edge_index)
    assert pair.num_edges == sum(len(by_ends(pair, kind)) for kind in pair.edge_types)
    graph = to_networkx(pair, edge_attrs=["edge_weight"])
    assert {(u, v): w for u, v, w in graph.edges(data="edge_weight")} == pytest.approx(joined(pair))
    whole = pair.to_homogeneous()
    assert torch.equal(whole.x, torch.cat([pair["student"].x, pair["teacher"].x]))
    ends = map(tuple, whole.edge_index.T.tolist())
    assert dict(zip(ends, whole.edge_weight.tolist(), strict=True)) == pytest.approx(joined(pair))
    model = to_hetero(Convolution(), pair.metadata(), aggr="sum")
    found = model(pair.x_dict, pair.edge_index_dict, pair.edge_weight_dict)
    expected = {side: torch.zeros(N, D).double() for side in ("student", "teacher")}
    for kind in (STUDENT, TEACHER, MATCHES):
        for (i, j), weight in by_ends(pair, kind).items():
            expected[kind[2]][j] += weight * pair[kind[0]].x[i]
    torch.testing.assert_close(found, expected)


def test_nothing_is_copied_and_the_list_of_all_pairs_is_shared() -> None:
    _all_edges.cache_clear()
    with torch.inference_mode():
        PairBuilder()(*embeddings())
    pairs = [PairBuilder()(*embeddings()) for _ in range(2)]
    lists = [pair[kind].edge_index for pair in pairs for kind in (STUDENT, TEACHER, MATCHES)]
    assert all(each is lists[0] for each in lists) and not lists[0].is_inference()
    for kind in (STUDENT, TEACHER, MATCHES):
        found, matrix = pairs[0][kind].edge_weight, adjacency(pairs[0], kind)
        assert found.data_ptr() == matrix.data_ptr() == weights(pairs[0], kind).data_ptr()
        source, target = pairs[0][kind].edge_index
        assert torch.equal(found, matrix[source, target])


def test_a_user_s_pair_has_a_list_of_its_own_which_may_be_changed_in_place() -> None:
    before = PairBuilder()(*embeddings())[STUDENT].edge_index.clone()
    pair = graph_pair(*embeddings())
    for kind in (STUDENT, TEACHER, MATCHES):
        assert torch.equal(pair[kind].edge_index, before)
    pair[STUDENT].edge_index.zero_()
    assert torch.equal(graph_pair(*embeddings())[TEACHER].edge_index, before)
    assert torch.equal(PairBuilder()(*embeddings())[STUDENT].edge_index, before)
    assert [*graph_pair(*embeddings(), form="factored").edge_types] == []


def test_a_part_of_a_pair_is_compared_by_its_own_edges() -> None:
    student, teacher = embeddings()
    kept = torch.tensor([0, 1, 3, 5])
    pair = graph_pair(student, teacher, topology=Nearest(3)).subgraph({"student": kept, "teacher": kept})
    edges = pair[TEACHER].edge_index
    assert 0 < edges.shape[1] < 3 * len(kept)
    for criterion in (mean_square, lambda s, t: (s - t).abs().amax(-1)):
        relation = Relation(pearson, Given(edges), criterion=criterion)
        torch.testing.assert_close(relation.of_pair(pair), relation(student[kept], teacher[kept]))


def test_a_batch_of_pairs_is_refused_where_one_is_read() -> None:
    solid = torch.randn(2, 6, 4)
    ways: list[dict[str, Any]] = [{}, {"topology": Nearest(3)}, {"form": "factored"}, {"form": "blocked"}]
    for options in ways:
        pairs = graph_pair(solid, solid.flip(0), **options)
        relation = Relation(pearson, **options)
        told = "one graph pair is read at a time: expected pair[i], got a batch of 2"
        assert_refused((partial(relation.of_pair, pairs), told))
        if has_weights(pairs):
            torch.testing.assert_close(relation.of_pair(pairs[1]), relation(solid[1], solid[0]))
            assert_refused((partial(export.to_networkx, pairs), told))


def test_pyg_takes_no_attribute_of_nodes_for_an_index() -> None:
    """It adds the number of nodes to what has `index` in its name, and reads `batch` as that of a graph."""
    student, teacher = embeddings()
    forms: tuple[tuple[Rule, tuple[Form, ...]], ...] = (
        (ALL_PAIRS, ("matrix", "factored", "blocked")),
        (Nearest(2), ("matrix", "blocked")),
    )
    label = torch.arange(N)
    for rule, form in ((rule, form) for rule, some in forms for form in some):
        moves = Refinement("smooth", D) if form == "matrix" else None
        pair = graph_pair(student, teacher, topology=rule, refinement=moves, image_id=label, y=label, form=form)
        names = [name for store in pair.node_stores for name in store]
        assert "image_id" in names and not [name for name in names if "index" in name or "batch" in name], (rule, form)


def test_a_large_pair_lists_its_edges_on_request() -> None:
    n = LISTED + 1
    student, teacher = torch.randn(n, 3, requires_grad=True), torch.randn(n, 3)
    pair = graph_pair(student, teacher)
    listed = with_edges(pair)
    for kind, (x, y) in {STUDENT: (student, student), MATCHES: (teacher, student)}.items():
        assert set(pair[kind]) == {"adj"} and set(listed[kind]) == {"edge_index", "edge_weight"}
        source, target = listed[kind].edge_index
        assert torch.equal(torch.unique(source * n + target), torch.arange(n * n))
        torch.testing.assert_close(listed[kind].edge_weight, pearson(x, y)[source, target])
        assert listed[kind].edge_weight.data_ptr() == pair[kind].adj.data_ptr() == adjacency(pair, kind).data_ptr()
        assert torch.equal(weights(listed, kind), weights(pair, kind))
    assert listed.num_edges == 3 * n**2
    values = (Relation().of_pair(each) for each in (pair, listed))
    gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in values]
    assert gradients[0].any() and torch.equal(*gradients)
    assert "adj" not in graph_pair(student[:LISTED], teacher[:LISTED])[STUDENT]


def test_a_pair_with_edges_has_them_already() -> None:
    for rule in RULES:
        pair = some_pair(rule)
        listed = with_edges(pair)
        for kind in (STUDENT, TEACHER, MATCHES):
            assert all(listed[kind][name] is value for name, value in pair[kind].items()), rule
