"""A store that several processes write is byte for byte that of one; killed, it goes on; runs of several read it."""

import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

from relgraph.processes import ProcessGroup
from relgraph.training import stores
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Embedded, store_embeddings
from tests.checks import refusal
from tests.processes import run_on
from tests.training.conftest import RecipeMaker
from tests.training.test_runs_over_processes import launched

SHARD = 10  # images of a shard, so that 36 have four


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def work(processes: ProcessGroup, recipes: list[Recipe], folder: Path) -> tuple[list[Embedded], str, list[str]]:
    """Write a store; go on with one that is damaged and unfinished; refuse what does not fit, and a changed image.

    What was written, what the process printed, and why it refused are returned.
    """
    launched(processes)
    stores.images_per_shard = lambda images, bytes_per_image: SHARD  # type: ignore[attr-defined]
    recipe, streamed, stored = recipes
    with redirect_stdout(StringIO()) as printed:
        done = [store_embeddings(recipe, folder / name, views=2, batch_size=4) for name in ("whole", "damaged")]
    done.append(store_embeddings(streamed, folder / "streamed", views=2, batch_size=4))
    told = [refusal(partial(store_embeddings, recipe, folder / "whole", views=3))]
    return done, printed.getvalue(), [*told, refusal(partial(train, stored, folder / "run"))]


@pytest.fixture
def whole(make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the store that one process writes."""
    monkeypatch.setattr(stores, "images_per_shard", lambda images, size: SHARD)
    store_embeddings(make(), tmp_path / "alone", views=2, batch_size=4)
    return tmp_path / "alone"


def test_a_store_of_three_processes_is_that_of_one(make: RecipeMaker, whole: Path, tmp_path: Path) -> None:
    damaged, changed = (shutil.copytree(whole, tmp_path / name) for name in ("damaged", "changed"))
    (damaged / "shard-00000.npy").unlink()
    for file, place in ((damaged / "shard-00002.npy", -9), (changed / "images.npy", -80)):
        data = bytearray(file.read_bytes())
        data[place] ^= 4
        file.write_bytes(data)
    streamed = make(images="stream", workers=0)
    store_embeddings(streamed, tmp_path / "alone streamed", views=2, batch_size=4)
    stored = make(teacher_mode="stored", embeddings=str(changed), batch_size=12)
    found = run_on(3, work, tmp_path, [make(), streamed, stored], tmp_path)
    for name in ("whole", "damaged"):
        assert files(tmp_path / name) == files(whole)
    assert files(tmp_path / "streamed") == files(tmp_path / "alone streamed")
    told = "shard-00002.npy is damaged: the CRC-32 of its row 19 is another one than was written: the same"
    assert "".join(printed for _, printed, _ in found).count(told) == 1
    for done, _, (other, record) in found:
        assert [each.images for each in done] == [36, 20, 36] and {each.index for each in done} == {"centre"}
        assert "views was 2, is now 3" in other
        assert "images.npy is damaged: the CRC-32 of its row 33 is another one" in record


# Process 1 is killed when it is about to write its second shard.
PATCH = f"""
import os, signal
if "RANK" in os.environ:
    from relgraph.training import stores
    stores.images_per_shard = lambda images, size: {SHARD}
    write = stores.StoreWriter.write
    def killed(self, shard, rows):
        if shard == 3 and "DIES" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, shard, rows)
    stores.StoreWriter.write = killed
"""


@pytest.mark.slow
def test_an_embed_of_two_processes_that_is_killed_goes_on(images: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(PATCH)
    options = ["--devices", "2", "--dataset", f"folder:{images}", "--teacher", "embedded:digits", "--views", "2"]
    plain = ["--batch-size", "4", "--threads", "1", "--device", "cpu", "--precision", "32-true"]
    command = [sys.executable, "-m", "relgraph", "embed", *options, *plain, "-o", str(tmp_path / "store")]

    def embed(**more: str) -> "subprocess.CompletedProcess[str]":
        given = {**os.environ, "PYTHONPATH": str(tmp_path / "code"), **more}
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=200)

    stopped = embed(DIES="1")
    assert stopped.returncode == 137 and "process 1 of 2 failed: signal 9 ended it" in stopped.stderr
    left = {file.name for file in (tmp_path / "store").glob("shard*")}
    assert "shard-00001.npy" in left and "shard-00003.npy" not in left
    done = embed()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "as an index: centre"
    found, expected = files(tmp_path / "store"), files(whole)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == set()
