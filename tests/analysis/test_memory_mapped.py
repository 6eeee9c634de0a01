from pathlib import Path

import pytest
import torch

from relgraph.analysis import mapped
from relgraph.analysis.memory_mapped import Gathered
from relgraph.errors import RelgraphError


def gathered(x: torch.Tensor, size: int) -> torch.Tensor:
    rows = Gathered(len(x))
    for part in x.split(size):  # type: ignore[no-untyped-call]
        rows.add(part)
    return rows.tensor()


@pytest.mark.parametrize("limit", [0, 2**20])
@pytest.mark.parametrize("size", [1, 4, 50])
def test_rows_come_back(limit: int, size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mapped, "HELD", limit)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x = torch.randn(10, 3)
    found = gathered(x, size)
    assert (found.untyped_storage().filename is not None) == (limit == 0)
    assert torch.equal(found, x) and found.is_contiguous()
    assert torch.equal(gathered(x.double().requires_grad_(), size), x)
    assert list(tmp_path.iterdir()) == [], "the file has no name any more"


def test_the_largest_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "HELD", 10 * 3 * 4)
    assert gathered(torch.randn(10, 3), 4).untyped_storage().filename is None
    assert gathered(torch.randn(11, 3), 4).untyped_storage().filename is not None


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mapped, "HELD", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RelgraphError, match=r"^a temporary file cannot be opened: .*No such file"):
        gathered(torch.randn(2, 2), 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "HELD", 0)
    monkeypatch.setattr(mapped, "NamedTemporaryFile", lambda prefix, buffering: open("/dev/full", "wb", buffering))  # noqa: SIM115
    with pytest.raises(RelgraphError, match=r"^/dev/full cannot be written: .*No space left"):
        gathered(torch.randn(2, 2), 1)
