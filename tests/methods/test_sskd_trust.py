"""Ranks and trusted rows against plain loops, and against the rows that the authors' code of SSKD selected."""

from fractions import Fraction

import torch
from torch import Tensor

from relgraph.graph.kernels import cosine
from relgraph.methods.sskd import mean_of_trusted, rank_of, trusted
from tests.checks import case
from tests.methods.golden import GOLDEN, embeddings, logits

RATIOS = [0.0, 0.1, 0.29, 0.3, 0.5, 0.57, 0.7, 0.75, 0.9, 1.0]


def naive_rank(scores: list[float], true: int) -> int:
    order = sorted(range(len(scores)), key=lambda j: -scores[j])  # stable
    return order.index(true)


def selected(ranks: dict[tuple[int, int], int], ratio: float) -> list[tuple[int, int]]:
    """Return the trusted (image, view) of ranks by image and view."""
    wrong = sorted((row for row in sorted(ranks) if ranks[row]), key=lambda row: ranks[row])
    return [row for row in ranks if not ranks[row]] + wrong[: int(len(wrong) * ratio)]


def naive_trusted(rank: Tensor, ratio: float) -> list[list[bool]]:
    views, images = (range(size) for size in rank.shape)
    chosen = selected({(i, v): int(rank[v, i]) for i in images for v in views}, ratio)
    return [[(i, v) in chosen for i in images] for v in views]


def by_view(rows: Tensor) -> Tensor:
    """Return the authors' rows, in which an image's views follow each other, as (V, N, ...)."""
    return rows.view(8, 4, -1)[:, 1:].transpose(0, 1)


def scores_of(kind: str) -> tuple[Tensor, Tensor]:
    """Return what the authors' teacher says of 3 views of 8 images, (3, 8, M), and which is true, (3, 8)."""
    rows = logits(32)[1] if kind == "tf" else embeddings(32)[1]
    found = by_view(rows) if kind == "tf" else cosine(by_view(rows), rows[::4])
    return found, torch.arange(8).expand(3, 8)


SELECTED = [key for key, entry in GOLDEN.items() if "selected_rows_of_aug" in entry]


def test_the_authors_selection() -> None:
    assert len(SELECTED) == 8 and sum("rank_of_true_match" in GOLDEN[key] for key in SELECTED) == 6
    for key in SELECTED:
        with case(key):
            entry, kind = GOLDEN[key], key.split("_")[1]
            ratio = float(key.split("_tf")[-1].split("_")[0] if kind == "tf" else key.rpartition("_ss")[2])
            rank = rank_of(*scores_of(kind))
            rows = trusted(rank, ratio).T.flatten().nonzero().flatten().tolist()
            assert rows == entry["selected_rows_of_aug"] and len(rows) == entry["n_selected"]
            if "rank_of_true_match" in entry:
                assert rank.T.flatten().tolist() == entry["rank_of_true_match"]
                assert (rank == 0).sum().item() == entry["n_correct"]


def test_ranks_of_a_naive_loop() -> None:
    for shape in ((1, 1, 1), (1, 6, 3), (3, 5, 7), (4, 9, 9)):
        for values in (2, 5, 1000):
            scores = torch.randint(values, shape).float()  # of few values, most are equal to another
            true = torch.randint(shape[-1], shape[:-1])
            expected = [
                [naive_rank(row, int(j)) for row, j in zip(*both, strict=True)]
                for both in zip(scores.tolist(), true, strict=True)
            ]
            assert rank_of(scores, true).tolist() == expected, (shape, values)


def test_trusted_rows_of_a_naive_loop() -> None:
    for shape in ((1, 1), (3, 5), (4, 25), (3, 100)):
        for highest in (1, 2, 4, 50):
            rank = torch.randint(highest, shape)
            for ratio in RATIOS:
                assert trusted(rank, ratio).tolist() == naive_trusted(rank, ratio), (shape, highest, ratio)


def test_the_number_of_the_wrong_is_rounded_as_python_does() -> None:
    """0.7 * 10 is 7 in float64, though 0.7 is less; 0.29 * 100 is not 29; and float32 has no more than 7 digits."""
    assert Fraction(0.7) * 10 < 7
    for count in range(1, 130):
        for ratio in RATIOS:
            assert trusted(torch.ones(1, count), ratio).sum().item() == int(count * ratio)


def test_the_mean_of_trusted_rows() -> None:
    values = torch.tensor([[1.0, torch.inf, 3.0], [5.0, torch.nan, 7.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [True, False, False]])
    mean = mean_of_trusted(values, mask)
    (gradient,) = torch.autograd.grad(mean, values)
    assert mean.item() == 3 and torch.equal(gradient, mask / 3)
    none = mean_of_trusted(values, torch.zeros(2, 3, dtype=torch.bool))
    assert none.item() == 0 and not torch.autograd.grad(none, values)[0].any()
