"""Checkpoints: whole or not at all, and nothing in them is executed."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from relgraph.errors import RelgraphError
from relgraph.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from tests.checks import assert_refused_like


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Of modules and optimisers their state."""
    path, layer = tmp_path / "last.ckpt", nn.Linear(2, 3)
    optimiser = SGD(layer.parameters(), lr=0.5, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    plain = {"rows": [{"epoch": 1, "loss": 0.1}], "best": -1.0}
    save_checkpoint(path, {"objective": layer, "optimiser": optimiser, **plain})
    again = load_checkpoint(path)
    torch.testing.assert_close(again["objective"], dict(layer.state_dict()))
    other = SGD(layer.parameters(), lr=1.0)
    other.load_state_dict(again["optimiser"])
    assert other.param_groups[0]["lr"] == 0.5 and torch.equal(other.state[layer.bias]["momentum_buffer"], torch.ones(3))
    assert {name: again[name] for name in plain} == plain and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_or_an_interrupt_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "last.ckpt", torch.save
    save_checkpoint(path, {"objective": {}, "epoch": 1})
    before = path.read_bytes()
    told = r"^cannot write .*last\.ckpt: [^\n]*, what it held before is untouched$"
    failures = OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing")
    for error in (*failures, KeyboardInterrupt()):

        def save(state: dict[str, Any], stream: IO[bytes], error: BaseException = error) -> None:
            write(state, stream)
            stream.truncate(stream.tell() // 2)
            raise error

        monkeypatch.setattr(torch, "save", save)
        kind, match = (RelgraphError, told) if error in failures else (KeyboardInterrupt, None)
        with pytest.raises(kind, match=match):
            save_checkpoint(path, {"objective": {}, "epoch": 2})
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path], "no half of a file stays behind"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    load = partial(load_checkpoint, path)
    assert_refused_like(
        (load, r"^there is no checkpoint .*last\.ckpt$"),
        (lambda: save_checkpoint(tmp_path / "nowhere" / "last.ckpt", {}), r"^cannot write .*nowhere/last\.ckpt"),
    )
    save_checkpoint(path, {"objective": {"weight": torch.randn(1000)}})
    whole = path.read_bytes()
    for keep in (0, 1, 100, len(whole) // 2, -1):
        path.write_bytes(whole[:keep])
        assert_refused_like((load, r"^cannot read the checkpoint .*last\.ckpt: it is damaged[^\n]*$"))
    others: list[Any] = [torch.zeros(3), [1, 2], {"progress": {}}, {"objective": torch.zeros(3)}]
    for content in others:
        torch.save(content, path)
        assert_refused_like((load, r"last\.ckpt is not a run's checkpoint: train it again$"))
    torch.save({"distiller": {}, "progress": {}}, path)
    told = r"last\.ckpt is of a version of relgraph whose runs this one cannot read: train it again$"
    assert_refused_like((load, told))


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.witness,)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    path, witness = tmp_path / "last.ckpt", tmp_path / "witness"
    content = {"objective": Attack(witness)}
    for write in (lambda: torch.save(content, path), lambda: path.write_bytes(pickle.dumps(content, protocol=2))):
        write()
        assert_refused_like(
            (partial(load_checkpoint, path), r"last\.ckpt[^\n]* is not loaded$|^cannot read the checkpoint")
        )
        assert not witness.exists()
    pickle.loads(pickle.dumps(Attack(witness)))
    assert witness.exists(), "an ordinary unpickler would have run it"


def test_random_numbers_go_on_where_they_were() -> None:
    state = random_state()
    drawn = torch.randn(5)
    set_random_state(state)
    assert torch.equal(torch.randn(5), drawn)
