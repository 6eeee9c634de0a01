"""The queue against `collections.deque`."""

from collections import deque

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.memory import Queue


def in_order(queue: Queue) -> list[list[float]]:
    """Return the keys, oldest first."""
    rows: list[list[float]] = queue.keys.roll(-int(queue.next), 0).tolist()
    return rows


@pytest.mark.parametrize("size", [1, 3, 8, 10])
def test_queue_equals_a_deque(size: int) -> None:
    queue = Queue(size, 2)
    oracle = deque(queue.keys.tolist(), maxlen=size)
    for n in (1, 3, 0, 8, 4, 25, 10, 2, 7, 1, 16):
        batch = torch.randn(n, 2)
        queue.remember(batch)
        oracle.extend(batch.tolist())
        assert in_order(queue) == list(oracle)


def test_it_starts_full_of_unit_vectors() -> None:
    queue = Queue(100, 8)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(100))
    assert abs(queue.keys.mean().item()) < 0.1


def test_it_keeps_values_not_graphs() -> None:
    queue = Queue(4, 3)
    keys = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    queue.remember(keys)
    assert not queue.keys.requires_grad
    assert torch.equal(queue.keys[:2], keys.detach().float())


def test_checkpoints_keep_it() -> None:
    queue, copy = Queue(5, 3), Queue(5, 3)
    queue.remember(torch.randn(3, 3))
    copy.load_state_dict(queue.state_dict())
    for each in (queue, copy):
        each.remember(torch.ones(4, 3))
    assert in_order(queue) == in_order(copy)


@pytest.mark.parametrize(("size", "dim"), [(0, 4), (4, 0), (-1, 4)])
def test_it_needs_room(size: int, dim: int) -> None:
    with pytest.raises(
        RelgraphError, match=f"^a queue needs at least one key of at least one number, got {size} x {dim}$"
    ):
        Queue(size, dim)


@pytest.mark.parametrize("keys", [torch.zeros(2, 3), torch.zeros(4), torch.zeros(1, 2, 4)])
def test_keys_must_have_its_width(keys: Tensor) -> None:
    with pytest.raises(RelgraphError, match=r"^keys must be \(N, 4\), got \("):
        Queue(8, 4).remember(keys)
