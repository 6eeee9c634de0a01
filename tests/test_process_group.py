"""What processes exchange, against what one has of all rows; results, failures and hangs of several are told."""

import os
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from tests.checks import assert_refused
from tests.processes import run_on

N, D, COUNT = 6, 3, 3
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
One = tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor], list[object]]
Found = list[One]


def rows_of(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def loss(x: Tensor) -> Tensor:
    """Return what relates all rows."""
    return (x @ x.mT).square().sum() + x.exp().sum()


def _gathered(processes: ProcessGroup) -> list[tuple[Tensor, Tensor]]:
    found = []
    for dtype in DTYPES:
        own = rows_of(N, dtype)[processes.rows(N)].clone().requires_grad_()
        whole = processes.gather(own)
        loss(whole).backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        found.append((whole.detach(), own.grad))
    return found


def _summed(processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    own = rows_of(N)[processes.rows(N)].clone().requires_grad_()
    total = processes.sum(own.mT @ own)
    total.square().sum().backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    return total.detach(), own.grad


def _exchanged(processes: ProcessGroup) -> list[object]:
    own = torch.tensor([float(processes.rank), -float(processes.rank)])
    uneven = torch.arange(7)[processes.share(7)]
    empty = rows_of(2)[processes.share(2)]
    processes.wait()
    return [
        (processes.rank, processes.first),
        processes.maximum(own),
        processes.mean_(own.clone()),
        processes.collect(uneven),
        processes.collect(empty),
        processes.agreed(f"from {processes.rank}"),
        processes.sum(torch.tensor(processes.rank + 1)),
    ]


def _all(processes: ProcessGroup) -> One:
    return _gathered(processes), _summed(processes), _exchanged(processes)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what each of the processes got: they are started once."""
    return run_on(COUNT, _all, tmp_path_factory.mktemp("processes"))


def test_rows_are_gathered_with_their_gradient(found: Found) -> None:
    results = [gathered for gathered, _, _ in found]
    for at, dtype in enumerate(DTYPES):
        x = rows_of(N, dtype).requires_grad_()
        loss(x).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert all(torch.equal(result[at][0], x) for result in results)
        # Averaged over the processes, as DDP does: each row's is on one of them alone.
        gradient = torch.cat([result[at][1] for result in results]) / COUNT
        torch.testing.assert_close(gradient, x.grad)


def test_summands_get_their_gradient(found: Found) -> None:
    x = rows_of(N).requires_grad_()
    (x.mT @ x).square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    results = [summed for _, summed, _ in found]
    for total, _ in results:
        torch.testing.assert_close(total, (x.mT @ x).detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in results]) / COUNT, x.grad)


def test_what_else_is_exchanged(found: Found) -> None:
    for rank, (_, _, exchanged) in enumerate(found):
        assert exchanged[0] == (rank, rank == 0)
        expected = [torch.tensor([2.0, 0.0]), torch.tensor([1.0, -1.0]), torch.arange(7), rows_of(2)]
        torch.testing.assert_close(exchanged[1:5], expected)
        assert exchanged[5] == "from 0"
        assert exchanged[6] == torch.tensor(6)


def test_shares_hold_each_image_once() -> None:
    for count, images in product((1, 2, 3, 5), (0, 1, 4, 7)):
        shares = [list(range(images))[ProcessGroup(rank, count).share(images)] for rank in range(count)]
        assert [image for share in shares for image in share] == list(range(images))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_are_even() -> None:
    assert [ProcessGroup(rank, 3).rows(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert_refused((lambda: ProcessGroup(0, 3).rows(7), "a batch is split evenly over 3 processes, got 7 images"))


def test_one_process_exchanges_nothing() -> None:
    x = rows_of(N).requires_grad_()
    assert ProcessGroup.current() == SINGLE_PROCESS
    assert SINGLE_PROCESS.gather(x) is x and SINGLE_PROCESS.sum(x) is x and SINGLE_PROCESS.collect(x) is x
    for found in (SINGLE_PROCESS.maximum(x), SINGLE_PROCESS.mean_(x.detach().clone())):
        assert torch.equal(found, x.detach())
    assert SINGLE_PROCESS.agreed("this") == "this" and SINGLE_PROCESS.rows(N) == SINGLE_PROCESS.share(N) == slice(0, N)
    SINGLE_PROCESS.wait()


def test_what_a_launcher_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ProcessGroup.launched() == SINGLE_PROCESS
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ProcessGroup.launched() == ProcessGroup(2, 4)


def _fail_on_the_last(processes: ProcessGroup) -> None:
    if processes.rank == processes.count - 1:
        raise ValueError("the last one fails")
    processes.sum(torch.ones(1))


def _leave(processes: ProcessGroup) -> None:
    os._exit(3)


def _sleep(processes: ProcessGroup) -> None:
    if processes.rank == 1:
        time.sleep(600)
    processes.sum(torch.ones(1))


def test_a_failure_is_told_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"process 1 of 2:\nTraceback[^$]*the last one fails"):
        run_on(2, _fail_on_the_last, tmp_path)


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"2 processes ended with .*3"):
        run_on(2, _leave, tmp_path)


@pytest.mark.slow
def test_a_hang_ends(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"^(?:process \d of 2|2 processes ended with)"):
        run_on(2, _sleep, tmp_path, seconds=3)
