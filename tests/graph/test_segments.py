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


def test_sum() -> None:
    values = draw()
    expected = [sum(group) for group in by_anchor(values)]
    torch.testing.assert_close(segments.segment_sum(values, ANCHORS, COUNT), torch.tensor(expected).double())


def test_max() -> None:
    values = draw() - 10  # all negative: an empty segment's 0 must not take part
    expected = [max(group, default=0.0) for group in by_anchor(values)]
    found = segments.segment_max(values.requires_grad_(), ANCHORS, COUNT)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert not found.requires_grad


def test_log_softmax() -> None:
    values = draw()
    groups = by_anchor(values)
    expected = [
        value - math.log(sum(math.exp(other) for other in groups[anchor]))
        for anchor, value in zip(ANCHORS.tolist(), values.tolist(), strict=True)
    ]
    found = segments.segment_log_softmax(values, ANCHORS, COUNT)
    torch.testing.assert_close(found, torch.tensor(expected).double())


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
