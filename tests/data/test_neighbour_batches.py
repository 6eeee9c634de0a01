"""Batches of seeds with all their neighbours, counted: every image a seed once, its neighbours with it, one size."""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relgraph.data.neighbour_batches import ImageGraph, NeighbourBatches, describe, neighbour_batches
from relgraph.graph.topology import edges_of
from relgraph.processes import ProcessGroup
from tests.checks import assert_refused_like, case

N, K = 41, 3
LABELS = torch.arange(N) % 4


def knn(count: int = N, k: int = K) -> ImageGraph:
    return ImageGraph.of_edges(
        edges_of(torch.stack([(torch.arange(count) + 7 * i) % count for i in range(1, k + 1)], 1)), count
    )


def own() -> ImageGraph:
    """Return a graph of one's own: images without a neighbour, with one and with seven, and weights."""
    edges = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0, 9], [0, 0, 0, 0, 0, 0, 0, 8, 8]])
    return ImageGraph.of_edges(edges, N, torch.arange(9.0))


def draw(graph: ImageGraph, labels: Tensor = LABELS, size: int = 12, **more: Any) -> NeighbourBatches:
    options: dict[str, Any] = {"batch_size": size, "labelled_share": 0.5, "seed": 0, "epoch": 0, **more}
    return neighbour_batches(graph, labels, **options)


def neighbours(graph: ImageGraph, image: int) -> list[int]:
    return graph.neighbours[graph.first[image] : graph.first[image + 1]].tolist()


def test_each_image_is_a_seed_once_with_all_its_neighbours_in_a_batch_of_one_size() -> None:
    for name, graph, size in (("knn", knn(), 12), ("one's own", own(), 9), ("the whole set", knn(), 64)):
        with case(name):
            batches, seeds = draw(graph, size=size), Counter[int]()
            for number, index in enumerate(batches):
                edges, images = batches.edges(number), index.tolist()
                assert len(images) == len(set(images)) == min(size, N)
                seeds.update(images[: edges.anchors])
                found: list[list[int]] = [[] for _ in range(edges.anchors)]
                for candidate, anchor in edges.edge_index.T.tolist():
                    found[anchor].append(images[candidate])
                assert found == [neighbours(graph, image) for image in images[: edges.anchors]]
                assert edges.degree == (None if graph.weights is not None else K)
                if graph.weights is not None:
                    expected = [graph.weights[graph.first[i] : graph.first[i + 1]] for i in images[: edges.anchors]]
                    assert edges.weights is not None and torch.equal(edges.weights, torch.cat(expected))
            assert seeds == Counter(range(N)), "the last batch is one like the others"
            assert all(b - a > 0 for a, b in zip(batches.cuts, batches.cuts[1:], strict=False))
    assert torch.equal(own().edge_index, ImageGraph.of_edges(own().edge_index, N).edge_index)


def test_a_batch_takes_seeds_until_the_next_does_not_fit() -> None:
    graph, size = knn(), 12
    batches = draw(graph, size=size)
    for begin, end in zip(batches.cuts[:-2], batches.cuts[1:-1], strict=True):
        around = {
            image for seed in batches.seeds[begin : end + 1].tolist() for image in (seed, *neighbours(graph, seed))
        }
        assert len(around) > size


def test_they_depend_on_seed_and_epoch_alone_and_processes_share_them() -> None:
    first = [index.tolist() for index in draw(knn())]
    assert first == [index.tolist() for index in draw(knn())]
    for other in (draw(knn(), seed=1), draw(knn(), epoch=1), draw(knn(), purpose="others")):
        assert first != [index.tolist() for index in other]
    parts = [draw(knn(), processes=ProcessGroup(rank, 2)) for rank in range(2)]
    assert first == [torch.cat(rows).tolist() for rows in zip(*parts, strict=True)]
    for number in range(len(first)):
        assert torch.equal(parts[1].edges(number).edge_index, draw(knn()).edges(number).edge_index)


def test_labelled_images_come_in_turn_and_no_seed_twice_in_a_batch() -> None:
    labels = torch.where(torch.arange(N) < 6, LABELS, -1)
    batches = draw(knn(), labels, labelled_share=0.5)
    for begin, end in zip(batches.cuts, batches.cuts[1:], strict=False):
        assert len({*batches.seeds[begin:end].tolist()}) == end - begin
    seeds = Counter(batches.seeds.tolist())
    labelled = sum(count for image, count in seeds.items() if image < 6)
    assert 0.35 < labelled / len(batches.seeds) < 0.7
    assert [seeds[image] for image in range(6, N)] in ([1] * (N - 6), [*[1] * (N - 7), 0])
    alone = draw(knn(), labels, labelled_share=1.0)
    assert set(alone.seeds.tolist()) == set(range(6))
    assert Counter(draw(knn(), labels, by_label=False).seeds.tolist()) == Counter(range(N))


def test_images_without_a_label_are_seeds_at_every_share_that_leaves_room_for_them() -> None:
    labels = torch.where(torch.arange(200) < 20, torch.arange(200) % 4, -1)
    others = set(range(20, 200))
    for size in (64, 22):  # three seeds a batch and, by neighbours in common, two
        for share in (0.5, 0.75, 0.8, 0.9, 0.95):
            with case(size, share):
                seeds = Counter(draw(knn(200, 20), labels, size=size, labelled_share=share).seeds.tolist())
                assert others <= seeds.keys() and {seeds[image] for image in others} == {1}
                assert all(seeds[image] > 1 for image in range(20))
        alone = draw(knn(200, 20), labels, size=size, labelled_share=0.999)
        assert set(alone.seeds.tolist()) == set(range(20)), "of batches of 64 images all would have a label"


def test_what_is_said_of_them_is_counted() -> None:
    batches = draw(knn())
    found, rows = describe(batches, LABELS), [index.tolist() for index in batches]
    visits = Counter(image for row in rows for image in row)
    classes = sum(len({image % 4 for image in row}) for row in rows) / len(rows)
    assert found == {
        "steps": len(rows), "images_per_step": 12, "classes_per_step": classes, "least_visits": min(visits.values()),
        "mean_visits": sum(visits.values()) / N, "most_visits": max(visits.values()),
    }  # fmt: skip


def test_a_neighbourhood_larger_than_a_batch_is_refused() -> None:
    told = "at most 6 neighbours, got 7 of image 0: choose a larger batch_size$"
    assert_refused_like(
        (partial(draw, own(), size=7), told), (partial(draw, knn(3, 2), torch.zeros(3), size=2), "got 2")
    )
    assert len(draw(own(), size=8)) > 0
