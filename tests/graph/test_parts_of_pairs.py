"""Parts of graph pairs and batches of them, which other programs make: read as what they are, or refused."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import relgraph
from relgraph.analysis.diagnostics import diagnose
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import STUDENT, TEACHER, Form, adjacency, graph_pair, weights, with_edges
from relgraph.graph.relation import Relation, matching, own_matching
from relgraph.graph.topology import Above, Edges, Nearest, make_rule
from tests.checks import assert_refused_like

S, T = torch.randn(20, 8), torch.randn(20, 8)
PART, THREE = {"student": torch.arange(12), "teacher": torch.arange(5)}, torch.tensor([5, 2, 9])


@pytest.mark.parametrize("topology", ["dense", "knn"])
def test_a_part_with_other_nodes_of_each_network_is_exported_whole(topology: str, tmp_path: Path) -> None:
    pair = graph_pair(S, T, topology=topology, y=torch.arange(20) % 3)
    part = pair.subgraph(PART)
    graph = relgraph.to_networkx(part)
    assert {node for node, known in graph.nodes(data=True) if "label" in known} == set(graph)
    assert len(graph) == 17 and "s11" in graph
    whole = relgraph.to_networkx(pair)
    for source, target, known in graph.edges(data=True):
        assert known == whole.edges[source, target]
    inside = [(a, b) for a, b in whole.edges if all(int(x[1:]) < {"s": 12, "t": 5}[x[0]] for x in (a, b))]
    assert len(inside) == graph.number_of_edges()
    relgraph.write_graph(part, tmp_path / "part.csv")
    assert len((tmp_path / "part_nodes.csv").read_text().splitlines()) == 18
    assert_refused_like((lambda: Relation(topology=topology).of_pair(part), "a relation compares the weights of .*"))


def test_a_part_of_all_pairs_has_its_own_matrix_in_any_order() -> None:
    students, teachers = torch.randn(600, 8, dtype=torch.float64), torch.randn(600, 8, dtype=torch.float64)
    chosen = {"student": THREE, "teacher": THREE}
    expected = Relation()(students[THREE], teachers[THREE])
    large = graph_pair(students, teachers)
    small = graph_pair(students[:20], teachers[:20])
    for pair in (with_edges(large), small, copy.deepcopy(small)):
        part = pair.subgraph(chosen)
        torch.testing.assert_close(adjacency(part), pearson(teachers[THREE]))
        torch.testing.assert_close(Relation().of_pair(part), expected)
        torch.testing.assert_close(
            matching(part, pearson), matching(graph_pair(students[THREE], teachers[THREE]), pearson)
        )
    torch.testing.assert_close(Relation().of_pair(copy.deepcopy(small)), Relation().of_pair(small))
    cut = large.subgraph(chosen)  # PyG takes no part of a matrix
    told = r"a graph of all pairs has an edge for each of 3 x 3 pairs of nodes, got a matrix of \(600, 600\): .*"
    small[STUDENT].edge_index = small[STUDENT].edge_index[:, 1:]
    assert_refused_like(
        (lambda: Relation().of_pair(cut), told),
        (lambda: relgraph.to_networkx(cut, "teacher"), told),
        (lambda: weights(small, STUDENT), "a graph of all pairs has .* got other edges, 399 of them"),
    )


def test_a_batch_of_pairs_is_listed_graph_by_graph_and_read_one_at_a_time(tmp_path: Path) -> None:
    students, teachers = torch.randn(2, 600, 8), torch.randn(2, 600, 8)
    listed = with_edges(graph_pair(students, teachers))
    assert listed[TEACHER].edge_index.shape == (2, 720_000) and int(listed[TEACHER].edge_index.max()) == 1199
    torch.testing.assert_close(adjacency(listed[1]), pearson(teachers[1]))
    told = r"one graph pair is read at a time: expected pair\[i\], got a batch of 2"
    cases: list[tuple[int, Form]] = [(20, "matrix"), (20, "factored"), (20, "blocked"), (600, "matrix")]
    for count, form in cases:
        pair = graph_pair(students[:, :count], teachers[:, :count], form=form)
        readers: list[Callable[[], object]] = [partial(matching, pair, pearson), partial(own_matching, pair, pearson)]
        readers += [partial(adjacency, pair), partial(diagnose, pair)] if form == "matrix" else []
        readers.append(partial(relgraph.write_graph, pair, tmp_path / "b.pt"))
        for read in readers:
            assert_refused_like((read, told))


def test_a_factored_pair_is_read_again(tmp_path: Path) -> None:
    pair = graph_pair(S, T, form="factored")
    before = Relation().of_pair(pair)  # which keeps what it computed
    relgraph.write_graph(pair, tmp_path / "pair.pt")
    again = relgraph.read_pair(tmp_path / "pair.pt")
    torch.testing.assert_close(Relation().of_pair(again), before)
    torch.testing.assert_close(own_matching(again, pearson), own_matching(pair, pearson))


def test_edges_of_a_function_join_the_nodes_that_there_are() -> None:
    def rule(*edges: list[int]) -> Any:
        return lambda s, t, kernel: Edges(torch.tensor(edges), 20)

    assert_refused_like(
        (lambda: graph_pair(S, T, topology=rule([25, 1], [0, 0])), "edges must join nodes 0 to 19, got 0 to 25"),
        (lambda: graph_pair(S, T, topology=rule([-1, 1], [1, 0])), "edges must join nodes 0 to 19, got -1 to 1"),
        (
            lambda: graph_pair(S, T, topology=lambda s, t, kernel: Edges(torch.tensor([[1], [9]]), 5)),
            "edges must lead to anchors 0 to 4, got 9",
        ),
    )


def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    shares = graph_pair(S, T, y=torch.rand(20))
    array: Any = S.numpy()
    listed: Any = S.tolist()
    names: Any = ["a"] * 20
    text: Any = "x"
    whole = r"edge_index must be \(2, E\) of integers, got \(2, 1\) of torch\."
    assert_refused_like(
        (lambda: graph_pair(array, array), "embeddings must be tensors, got ndarray and ndarray"),
        (lambda: graph_pair(listed, T), "embeddings must be tensors, got list and Tensor"),
        (lambda: graph_pair(S, T, y=names), "y must hold numbers, got list"),
        (
            lambda: relgraph.write_graph(shares, tmp_path / "a.gexf"),
            "y must hold whole numbers to be exported, .*float32",
        ),
        (lambda: Nearest(True), "k must be a whole number, got True"),
        (lambda: Above(text), "the threshold must be a number, got 'x'"),
        (lambda: Above(float("nan")), "the threshold must be a number, got nan"),
        (lambda: make_rule(torch.tensor([[True], [False]])), f"{whole}bool"),
        (lambda: make_rule(torch.tensor([[1j], [0]])), f"{whole}complex64"),
    )


def test_numbers_of_classes_may_be_large(tmp_path: Path) -> None:
    """A colour was made for each number up to the largest: minutes for twenty nodes."""
    relgraph.write_graph(graph_pair(S, T, y=torch.arange(20) * 10**12), tmp_path / "pair.gexf")
    assert (tmp_path / "pair.gexf").read_text().count("<node ") == 40
