from pathlib import Path

import pytest
import torch

from relgraph.analysis import run_loading
from relgraph.analysis.run_loading import empty_rows
from relgraph.errors import RelgraphError


def test_rows_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x = torch.randn(10, 3)
    for limit in (0, 10 * 3 * 4 - 1, 10 * 3 * 4):
        monkeypatch.setattr(run_loading, "MEMORY_LIMIT", limit)
        found = empty_rows(10, 3)
        assert (found.untyped_storage().filename is not None) == (limit < 10 * 3 * 4)
        assert list(tmp_path.iterdir()) == [], "the file has no name any more"
        for part in torch.arange(10).split(4):  # type: ignore[no-untyped-call]
            found[part] = x[part]
        assert torch.equal(found, x) and found.is_contiguous(), limit


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_loading, "MEMORY_LIMIT", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RelgraphError, match=r"^a temporary file in .*none cannot be written: .*No such file"):
        empty_rows(2, 2)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, f"No space left on device for {size} bytes")

    monkeypatch.setattr(run_loading, "MEMORY_LIMIT", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(RelgraphError, match=r"^a temporary file in .* cannot be written: .*No space left .* 16 bytes"):
        empty_rows(2, 2)
    assert list(tmp_path.iterdir()) == []
