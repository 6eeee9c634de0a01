"""Blocks of anchors against all at once, and the groups of anchors that angles read; their triple loops are RKD's."""

from functools import partial

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import huber
from relgraph.graph.kernels import cosine, euclidean
from relgraph.graph.pair import TEACHER, Form, graph_pair, has_weights
from relgraph.graph.relation import Relation
from relgraph.graph.topology import ALL_PAIRS, Above, Edges, Given, Nearest, Rule, Topology, WithOwn
from relgraph.methods.rkd import differences, related_angles
from tests.methods.golden import value_and_gradient, vectors

N = 7
ANGLE = Relation(cosine, criterion=huber)
# In no order: 0 and 5 have three candidates each, 2 and 6 one, the others none.
EDGE_INDEX = torch.tensor([[3, 1, 0, 2, 4, 6, 0, 0], [0, 0, 2, 5, 5, 0, 5, 6]])
RULES: dict[str, Rule] = {
    "nearest": Nearest(3),
    "student's": Nearest(2, "student"),
    "union": Nearest(2, "union"),
    "mutual": Nearest(2, "mutual"),
    "given": Given(EDGE_INDEX),
    "everybody": Nearest(N - 1),
}


def embeddings(n: int = N) -> tuple[Tensor, Tensor]:
    return vectors(n, 4, 6)


def edges_of(rule: Rule, student: Tensor, teacher: Tensor) -> Edges:
    edges = rule(euclidean(student), euclidean(teacher), euclidean)
    assert isinstance(edges, Edges)
    return edges


def candidates_of(edges: Edges) -> list[list[int]]:
    """Return each anchor's candidates in growing order, by Python."""
    pairs = edges.edge_index.T.tolist()
    return [sorted(i for i, j in pairs if j == anchor) for anchor in range(edges.anchors)]


def test_differences_meet_in_each_anchor() -> None:
    x, expected = torch.randn(N, 3), candidates_of(Edges(EDGE_INDEX, N))
    for row, j in zip(differences(x, torch.tensor([2, 5, 4])), (2, 5, 4), strict=True):
        torch.testing.assert_close(row, torch.stack([x[i] - x[j] for i in range(N)]))
    for anchors, places in Edges(EDGE_INDEX, N).groups():
        found = differences(x, anchors, EDGE_INDEX[0][places])
        for row, j in zip(found, anchors.tolist(), strict=True):
            assert torch.equal(row, torch.stack([x[i] - x[j] for i in expected[j]]))


@pytest.mark.parametrize("rule", [None, "nearest", "given", "everybody"])
def test_blocks_are_all_anchors_at_once(rule: str | None) -> None:
    student, teacher = embeddings(9)
    topology: Topology = ALL_PAIRS if rule is None else edges_of(WithOwn(RULES[rule]), student, teacher)
    whole = value_and_gradient(partial(related_angles, ANGLE), student, teacher, topology, 10**9)
    for largest in (1, 100, 7 * 9 * 9, 10**6):
        found = value_and_gradient(partial(related_angles, ANGLE), student, teacher, topology, largest)
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-14)
        loss = partial(related_angles, ANGLE, teacher=teacher, topology=topology, largest=largest)
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(student=s), (student,), fast_mode=True), largest


def test_groups_list_each_anchors_candidates() -> None:
    for rule in RULES.values():
        edges = edges_of(rule, *embeddings())
        expected, found = candidates_of(edges), [[] for _ in range(N)]  # type: ignore[var-annotated]
        for anchors, places in edges.groups():
            assert len(anchors) == len(places) and places.shape[1] > 0
            assert anchors.tolist() == [j for j in range(N) if len(expected[j]) == places.shape[1]]
            for anchor, row in zip(anchors.tolist(), places.tolist(), strict=True):
                assert not found[anchor]
                found[anchor] = edges.edge_index[0][row].tolist()
                assert edges.edge_index[1][row].tolist() == [anchor] * len(row)
        assert found == expected, rule


def test_no_edge_is_in_no_group_and_makes_no_angle() -> None:
    edges = Edges(torch.zeros(2, 0, dtype=torch.long), N)
    student, teacher = embeddings()
    assert list(edges.groups()) == []
    found, gradient = value_and_gradient(partial(related_angles, ANGLE), student, teacher, edges)
    assert found == 0 and found.dtype == torch.float64 and not gradient.any()


@pytest.mark.parametrize("form", ["matrix", "blocked"])
def test_the_degree_that_a_rule_leaves_in_the_pair(form: Form) -> None:
    degrees: list[tuple[Rule, int | None]] = [
        (Nearest(3), 3),
        (Nearest(3, "student"), 3),
        (WithOwn(Nearest(3)), 4),
        (Nearest(3, "union"), None),
        (WithOwn(Nearest(3, "mutual")), None),
        (Given(EDGE_INDEX), None),
        (Above(0.5), None),
        (ALL_PAIRS, None),
        (WithOwn(ALL_PAIRS), None),
    ]
    x = torch.randn(N, 4)
    for rule, expected in degrees:
        pair = graph_pair(x, x, topology=rule, form=form)
        assert (pair[TEACHER].get("degree") if has_weights(pair) else None) == expected, rule


@pytest.mark.parametrize("rule", [Nearest(3), Nearest(2, "student"), WithOwn(Nearest(3))])
def test_a_known_degree_gives_the_same_groups_and_reads_nothing_back(rule: Rule) -> None:
    edges = edges_of(rule, *embeddings())
    ((anchors, places),) = edges.groups()
    ((others, expected),) = Edges(edges.edge_index, N).groups()
    assert torch.equal(anchors, others) and torch.equal(places, expected)
    nowhere = edges.edge_index.to("meta")  # there is nothing to read back from
    assert [places.shape for _, places in Edges(nowhere, N, edges.degree).groups()] == [expected.shape]
    with pytest.raises(RuntimeError, match="Meta tensors"):
        list(Edges(nowhere, N).groups())
