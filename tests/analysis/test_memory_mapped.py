from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from relgraph.analysis import memory_mapped
from relgraph.analysis.memory_mapped import RowTable
from relgraph.errors import RelgraphError


def all_rows(x: torch.Tensor, size: int) -> torch.Tensor:
    rows = RowTable(len(x))
    for part in x.split(size):  # type: ignore[no-untyped-call]
        rows.add(part)
    return rows.tensor()


def test_rows_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x = torch.randn(10, 3)
    for limit, size in product((0, 10 * 3 * 4 - 1, 10 * 3 * 4), (1, 4, 50)):
        monkeypatch.setattr(memory_mapped, "MEMORY_LIMIT", limit)
        found = all_rows(x, size)
        assert (found.untyped_storage().filename is not None) == (limit < 10 * 3 * 4)
        assert torch.equal(found, x) and found.is_contiguous(), (limit, size)
        assert torch.equal(all_rows(x.double().requires_grad_(), size), x)
        assert list(tmp_path.iterdir()) == [], "the file has no name any more"


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_mapped, "MEMORY_LIMIT", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RelgraphError, match=r"^a temporary file cannot be opened: .*No such file"):
        all_rows(torch.randn(2, 2), 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_mapped, "MEMORY_LIMIT", 0)
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr(memory_mapped, "NamedTemporaryFile", lambda prefix, buffering: full(buffering))
    with pytest.raises(RelgraphError, match=r"^/dev/full cannot be written: .*No space left"):
        all_rows(torch.randn(2, 2), 1)
