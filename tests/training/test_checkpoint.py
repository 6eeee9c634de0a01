"""Checkpoints: whole or not at all, and nothing in them is executed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.errors import RelgraphError
from relgraph.training.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)


def fill_disk(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch write half of a file and then find the disk full."""
    write = torch.save

    def save(state: dict[str, Any], path: Path) -> None:
        write(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        raise error

    monkeypatch.setattr(torch, "save", save)


FULL = OSError(28, "No space left on device")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    state = {"distiller": {"a": torch.randn(3)}, "rows": [{"epoch": 1, "loss": 0.1}], "best": -1.0}
    save_checkpoint(path, state)
    again = load_checkpoint(path)
    assert torch.equal(again["distiller"].pop("a"), state["distiller"].pop("a"))  # type: ignore[attr-defined]
    assert again == state
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [FULL, RuntimeError("PytorchStreamWriter failed writing file data/0: file write")])
def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"distiller": {}, "epoch": 1})
    before = path.read_bytes()
    fill_disk(error, monkeypatch)
    with pytest.raises(RelgraphError, match=r"^cannot write .*last\.ckpt: [^\n]*, what it held before is untouched$"):
        save_checkpoint(path, {"epoch": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "no half of a file stays behind"


def test_an_interrupt_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"distiller": {}, "epoch": 1})
    fill_disk(KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path) == {"distiller": {}, "epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"^cannot write .*nowhere/last\.ckpt"):
        save_checkpoint(tmp_path / "nowhere" / "last.ckpt", {})


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"^there is no checkpoint .*last\.ckpt$"):
        load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_checkpoint(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"distiller": {"weight": torch.randn(1000)}})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(RelgraphError, match=r"^cannot read the checkpoint .*last\.ckpt, is it truncated\? \([^\n]*\)$"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"progress": {}}, {"distiller": torch.zeros(3)}])
def test_the_checkpoint_of_another_program(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(RelgraphError, match=r"last\.ckpt is not the checkpoint of a training run$"):
        load_checkpoint(tmp_path / "last.ckpt")


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.witness,)


def _plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [torch.save, _plain_pickle])
def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    path, witness = tmp_path / "last.ckpt", tmp_path / "witness"
    write({"distiller": Attack(witness)}, path)
    with pytest.raises(RelgraphError, match=r"^cannot read the checkpoint [^\n]*$"):
        load_checkpoint(path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(Attack(witness)))
    assert witness.exists(), "an ordinary unpickler would have run it"


def test_random_numbers_go_on_where_they_were() -> None:
    state = random_state()
    drawn = torch.randn(5)
    set_random_state(state)
    assert torch.equal(torch.randn(5), drawn)
