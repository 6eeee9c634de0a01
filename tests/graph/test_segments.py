"""Segment reductions against a loop over edges, with torch's own operations and with torch_scatter if it is there."""

import math
import os

import pytest
import torch
from torch import Tensor

from relgraph.graph import segments

EXPECTED = os.environ.get("RELGRAPH_EXPECT_SCATTER") == "1"
ANCHORS = torch.tensor([4, 0, 2, 2, 0, 4, 4, 6])  # anchors 1, 3 and 5 have no edges
COUNT = 7


@pytest.fixture(params=["torch", "torch_scatter"], autouse=True)
def _implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(segments, "torch_scatter", None)
    elif not segments.HAS_SCATTER and not EXPECTED:
        pytest.skip("torch_scatter is not installed")


def by_anchor(values: Tensor) -> list[list[float]]:
    groups: list[list[float]] = [[] for _ in range(COUNT)]
    for anchor, value in zip(ANCHORS.tolist(), values.tolist(), strict=True):
        groups[anchor].append(value)
    return groups


def draw(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, len(ANCHORS), dtype=torch.float64)


def test_torch_scatter_is_there_if_it_is_expected() -> None:
    if EXPECTED:
        import torch_scatter  # type: ignore[import-not-found, unused-ignore]

        assert torch_scatter is not None and segments.HAS_SCATTER


def test_each_reduction_is_a_loop() -> None:
    values = draw() - 10  # all negative: an empty segment's 0 must not take part in a maximum
    groups = by_anchor(values)
    pairs = zip(ANCHORS.tolist(), values.tolist(), strict=True)
    for reduce, expected in (
        (segments.segment_sum, [sum(group) for group in groups]),
        (segments.segment_max, [max(group, default=0.0) for group in groups]),
        (segments.segment_log_softmax, [v - math.log(sum(map(math.exp, groups[a]))) for a, v in pairs]),
    ):
        found = reduce(values.requires_grad_(), ANCHORS, COUNT)
        torch.testing.assert_close(found.detach(), torch.tensor(expected).double())
        assert found.requires_grad == (reduce is not segments.segment_max)


@pytest.mark.parametrize("function", [segments.segment_sum, segments.segment_max, segments.segment_log_softmax])
def test_leading_dimensions(function: object) -> None:
    assert callable(function)
    values = draw(2, 3)
    found = function(values, ANCHORS, COUNT)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], function(values[i, j], ANCHORS, COUNT))


def test_log_softmax_bears_large_values() -> None:
    values = 1e4 * torch.arange(8.0)
    assert segments.segment_log_softmax(values, ANCHORS, COUNT).isfinite().all()
