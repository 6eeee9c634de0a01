"""Files of others, of every kind that is read: what they hold is data, and nothing in them is executed."""

import os
import pickle
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from relgraph.analysis.export import read_pair
from relgraph.analysis.run_loading import evaluate_run
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.index_transform import read_transform
from relgraph.errors import RelgraphError
from relgraph.files import read_json, read_table, read_yaml, torch_load
from relgraph.names import load_teacher, open_student
from relgraph.networks.files import read_network
from relgraph.networks.weights import from_hub, from_url, read_weights
from relgraph.training.building import parse_arguments
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.recipe import resolve
from relgraph.training.stores import store_embeddings
from tests.checks import assert_refused_like, case, refusal
from tests.faults.conftest import Make
from tests.faults.test_a_run_knows_what_it_was_made_of import resumed

Write = Callable[[Path], object]


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = str(witness)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.witness,)


def program(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # newer torch advises against them
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def tar(path: Path, content: bytes) -> None:
    """Write a file of torch's earliest kind, whose parts are pickles in a tar."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            part = tarfile.TarInfo(name)
            part.size = len(content)
            archive.addfile(part, BytesIO(content))


def bomb(path: Path) -> None:
    """Write torch's archive anew, its parts compressed."""
    torch.save({"objective": {"a": torch.zeros(1_000_000)}, "b": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as found:
        parts = {name: found.read(name) for name in found.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def attacks(witness: Path) -> dict[str, Write]:
    """Return by name the ways to write a file that would execute something where it is read without a guard."""
    content = {"objective": {"a": torch.zeros(2)}, "state_dict": Attack(witness), "b": Attack(witness)}
    array = np.array([Attack(witness)], dtype=object)
    return {
        "pickle 2": lambda path: path.write_bytes(pickle.dumps(content, 2)),
        "pickle 5": lambda path: path.write_bytes(pickle.dumps(content, 5)),
        "torch": lambda path: torch.save(content, path),
        "torch before its archives": lambda path: torch.save(content, path, _use_new_zipfile_serialization=False),
        "tar": lambda path: tar(path, pickle.dumps(Attack(witness), 2)),
        "TorchScript": program,
        "numpy": lambda path: path.write_bytes(_bytes(lambda stream: np.save(stream, array, allow_pickle=True))),
        "numpy archive": lambda path: path.write_bytes(_bytes(lambda stream: np.savez(stream, a=array))),
        "archive of compressed parts": bomb,
        "YAML": lambda path: path.write_text(f"seed: !!python/object/apply:os.mkdir ['{witness}']\n"),
        "YAML of a name": lambda path: path.write_text("seed: !!python/name:os.mkdir\n"),
        "text": lambda path: path.write_text(f"__import__('os').mkdir('{witness}')\n"),
    }


def _bytes(write: Callable[[BytesIO], object]) -> bytes:
    stream = BytesIO()
    write(stream)
    return stream.getvalue()


READERS: dict[str, Callable[[Path], Any]] = {
    "best.ckpt": load_checkpoint,
    "w.pth": read_weights,
    "w.safetensors": read_weights,
    "w.npz": lambda path: load_teacher("timm:test_vit", weights=path),
    "w.bin": lambda path: load_teacher("timm:test_resnet", weights=path),
    "w.pt": lambda path: load_teacher("torchvision:squeezenet1_1", weights=path),
    "clip.pt": lambda path: load_teacher("open_clip:ViT-S-32-alt", weights=path),
    "network.safetensors": read_network,
    "student.safetensors": open_student,
    "teacher.safetensors": lambda path: load_teacher(f"checkpoint:{path}"),
    "pair.pt": read_pair,
    "recipe.yaml": read_yaml,
    "result.json": read_json,
    "metrics.csv": read_table,
}


@pytest.mark.slow
def test_no_reader_executes_what_a_file_holds(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for attack, write in attacks(witness).items():
        for name, read in READERS.items():
            path = tmp_path / name
            write(path)
            with case(attack, name):
                told = refusal(partial(read, path))
                assert name in told and "\n" not in told and len(told) < 600 + len(str(path)), told
                for advice in ("weights_only", "allow_pickle", "safe_globals", "unsafe_load"):
                    assert advice not in told, told
                assert not witness.exists()
    pickle.loads(pickle.dumps(Attack(witness)))
    assert witness.exists(), "an ordinary unpickler would have run it"


@pytest.mark.slow
def test_no_file_of_a_run_is_executed(finished: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    written = attacks(witness)
    for number, attack in enumerate(("pickle 2", "torch", "YAML")):
        write = written[attack]
        for name in ("best.ckpt", "student.safetensors", "recipe.yaml", "inputs.json"):
            run = shutil.copytree(finished, tmp_path / str(number) / name / "run")
            write(run / name)
            with case(attack, name):
                assert name in refusal(partial(evaluate_run, run))
                assert not witness.exists()
        for name in ("last.ckpt", "metrics.csv"):
            run = shutil.copytree(finished, tmp_path / str(number) / name / "run")
            write(run / name)
            with case(attack, name):
                if name == "last.ckpt":  # the run goes on from the best epoch
                    resumed(run)
                    assert not witness.exists()
                    write(run / name)
                    (run / "best.ckpt").unlink()
                told = refusal(partial(resumed, run))
                assert (name in told or name == "metrics.csv") and not witness.exists()


def test_no_file_of_a_store_is_executed(make: Make, tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "store"
    store_embeddings(make(), path, views=1)
    for file in [file for file in path.iterdir() if not file.name.startswith(".")]:
        content = file.read_bytes()
        for attack, write in attacks(witness).items():
            write(file)
            with case(attack, file.name), pytest.raises(RelgraphError):
                EmbeddingStore(path).rows(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
                read_transform(path)
            assert not witness.exists()
        file.write_bytes(content)


def test_a_library_that_asks_for_an_unguarded_read_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As older versions of timm do."""
    witness, file = tmp_path / "witness", tmp_path / "checkpoints" / "w.pth"
    file.parent.mkdir()
    torch.save({"a": Attack(witness)}, file)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    unguarded = partial(torch.load, file, weights_only=False)
    for call in (
        lambda: from_hub("timm:x", "a/b", "w.bin", unguarded),
        lambda: from_url("timm:x", "http://127.0.0.1:9/w.pth", lambda _copy: unguarded()),
    ):
        told = refusal(call)
        assert "Python objects" in told and "weights_only" not in told and not witness.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    unguarded()
    assert witness.exists(), "outside of it the library's word counts"


def test_weights_are_named_by_an_option_alone(tmp_path: Path) -> None:
    """A recipe of others cannot have timm load a file by an argument, whatever its loader would do."""
    torch.save({"a": Attack(tmp_path / "witness")}, tmp_path / "w.pth")
    recipe = resolve({"teacher": "timm:test_resnet", "teacher_args": (f"checkpoint_path={tmp_path / 'w.pth'}",)})
    arguments = parse_arguments(recipe.teacher_args)
    for weights in (None, tmp_path / "w.pth"):
        load = partial(load_teacher, recipe.teacher, weights=weights, arguments=arguments)
        assert_refused_like((load, r"takes no argument checkpoint_path"))
    for name in ("hf-hub:timm/x", "local-dir:/tmp", "hf_hub:timm/x"):
        assert_refused_like((partial(load_teacher, f"timm:{name}"), r"^unknown timm model"))
    assert not (tmp_path / "witness").exists()


def test_parts_that_are_larger_than_their_file_are_not_unpacked(tmp_path: Path) -> None:
    bomb(tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 100_000
    with pytest.raises(ValueError, match="its parts are larger than the file"):
        torch_load(tmp_path / "w.pth")
    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert_refused_like((partial(read_weights, tmp_path / "w.safetensors"), "cannot be read as weights"))
