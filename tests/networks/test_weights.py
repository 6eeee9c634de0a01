import logging
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from relgraph.networks.weights import from_hub, from_url, read_weights
from tests.checks import assert_refused_like

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


def test_reads_safetensors_and_checkpoints_of_torch(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    parallel = {"model": {f"module.{name}": tensor for name, tensor in TENSORS.items()}}
    for number, content in enumerate((TENSORS, {"state_dict": TENSORS, "epoch": 3}, parallel)):
        torch.save(content, tmp_path / f"{number}.pth")
    for path in tmp_path.iterdir():
        found = read_weights(path)
        assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_refuses_what_is_truncated_or_holds_no_weights(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    torch.save(TENSORS, tmp_path / "w.pth")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        whole = path.read_bytes()
        for length in (len(whole) - 5, len(whole) // 2, 7, 0):
            path.write_bytes(whole[:length])
            told = "cannot be read as weights: it is damaged, truncated"
            assert_refused_like((partial(read_weights, path), told))
    torch.save({"state_dict": TENSORS, "options": Path("somewhere")}, tmp_path / "objects")
    torch.save([1, 2], tmp_path / "list")
    with zipfile.ZipFile(tmp_path / "program", "w") as archive:
        archive.writestr("w/constants.pkl", b"")
        archive.writestr("w/version", b"3")
    for name, message in (
        ("objects", "not loaded for safety; save its state_dict alone"),
        ("list", "expected tensors by name, found list"),
        ("program", "it is a TorchScript program; if you trust it"),
        ("nothing", r"no weights file .*nothing"),
    ):
        assert_refused_like((partial(read_weights, tmp_path / name), message))


def test_the_hub_is_left_as_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody answers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before, seen = logging.root.manager.disable, []

    def get() -> None:
        seen.append((constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub").isEnabledFor(logging.ERROR)))
        raise KeyError

    assert_refused_like((lambda: from_hub("x:y", "a/b", "w.bin", get), "the weights of x:y could not be loaded"))
    assert seen == [(True, False)]
    assert not constants.HF_HUB_OFFLINE
    assert logging.root.manager.disable == before


def test_a_server_that_nobody_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "http://127.0.0.1:9/w.pth"  # the discard port: nobody answers
    place = tmp_path / "hub" / "checkpoints" / "w.pth"
    told = rf"download http://127\.0\.0\.1:9/w\.pth and pass it .* or put it at {place}"
    assert_refused_like((lambda: from_url("x:y", url, lambda copy: pytest.fail("it was asked all the same")), told))
    place.parent.mkdir(parents=True)
    place.touch()
    assert from_url("x:y", url, lambda copy: copy) == place
