"""The queue against `collections.deque`, the bank against its formula, slot by slot."""

from collections import deque
from functools import partial

import pytest
import torch

from relgraph.graph.memory import Bank, Queue
from tests.checks import assert_refused


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


def test_a_bank_starts_uniform_within_its_bound() -> None:
    keys = Bank(2000, 12).keys
    bound = (3 / 12) ** 0.5
    assert keys.abs().max() <= bound and keys.abs().max() > 0.999 * bound
    assert keys.mean().abs() < 0.02 and keys.var().item() == pytest.approx(bound**2 / 3, rel=0.02)
    assert keys.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_bank_moves_the_slots_of_the_batch_alone(momentum: float) -> None:
    bank = Bank(6, 3)
    before = bank.keys.clone()
    indices, keys = torch.tensor([4, 0, 3]), torch.randn(3, 3)
    bank.remember(indices, keys, momentum)
    expected = before.clone()
    for index, key in zip(indices.tolist(), keys, strict=True):
        slot = momentum * before[index] + (1 - momentum) * key
        expected[index] = slot / slot.norm()
    torch.testing.assert_close(bank.keys, expected)
    assert torch.equal(bank.keys[[1, 2, 5]], before[[1, 2, 5]])


def test_a_slot_without_direction_is_zero_and_finite() -> None:
    bank = Bank(2, 3)
    bank.remember(torch.tensor([0]), -bank.keys[:1], 0.5)
    assert not bank.keys[0].any() and bank.keys[1].any()


def test_what_is_refused() -> None:
    queue, bank = "a queue needs at least one key of at least one number, got", Bank(8, 4)
    before = bank.keys.clone()
    assert_refused(
        *((partial(Queue, *size), f"{queue} {size[0]} x {size[1]}") for size in ((0, 4), (4, 0), (-1, 4))),
        *(
            (partial(bank.remember, torch.tensor(indices), torch.zeros(2, 4), 0.5), message)
            for indices, message in (
                ([0, 1, 2], "indices must be one for each of the 2 keys, got (3,)"),
                ([0.0, 1.0], "indices must be integers, got torch.float32"),
                ([True, False], "indices must be integers, got torch.bool"),
                ([0, 8], "indices must name images 0 to 7, got 8"),
                ([-1, 0], "indices must name images 0 to 7, got -1"),
            )
        ),
    )
    assert torch.equal(bank.keys, before)
