"""Two processes and one run, names that collide, and files that somebody else has put in the way."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relgraph.errors import RelgraphError
from relgraph.files import replacing, write_atomically
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory, check_free, free_name
from tests.faults.conftest import Make


def test_a_run_that_is_written_is_refused(run: Path, make: Make) -> None:
    with RunDirectory.open(run).locked(), pytest.raises(RelgraphError, match="is being written by another process"):
        train(make(), run, resume=True)
    train(make(), run, resume=True)


def hold(path: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with RunDirectory.open(path).locked():
        ready.set()
        time.sleep(600)


def test_a_dead_process_leaves_no_lock(run: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(run, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(RelgraphError, match="is being written by another process"), RunDirectory.open(run).locked():
        pass
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with RunDirectory.open(run).locked():
        pass


def test_names_do_not_collide_and_are_no_options(tmp_path: Path) -> None:
    recipe = Recipe(dataset="folder:/data/-photos", teacher="embedded:digits")
    names = [free_name(tmp_path / "runs", recipe).name for _ in range(3)]
    assert names == [f"photos-resnet8x4-ega-dense-seed0{end}" for end in ("", "-2", "-3")]


def test_what_a_killed_start_leaves_is_free(tmp_path: Path, make: Make) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", "inputs.json", "environment.json", ".recipe.yaml.ab12.part"):
        (run / name).write_text("")
    check_free(run)
    train(make(epochs=1), run)
    assert not [*run.glob(".*.part")]
    with pytest.raises(RelgraphError, match="exists already"):
        check_free(run)


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "last.ckpt"
    victim.write_text("before")
    for name in ("last.ckpt.part", ".last.ckpt.part"):
        (tmp_path / name).symlink_to(victim)
    file.symlink_to(victim)
    write_atomically(file, b"after")
    assert victim.read_text() == "before" and file.read_text() == "after" and not file.is_symlink()


def test_names_of_new_files_cannot_be_guessed_and_permissions_stay(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "file") as part:
            names.add(part.name)
            part.write_text("x")
    assert len(names) == 3 and [entry.name for entry in tmp_path.iterdir()] == ["file"]
    mask = os.umask(0o027)
    write_atomically(tmp_path / "new", b"x")
    os.umask(mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o604)
    write_atomically(tmp_path / "new", b"y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o604


def test_data_and_directory_are_on_the_disk_before_and_after_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, move = os.fsync, Path.replace

    def synced(number: int) -> None:
        order.append("directory" if Path(f"/proc/self/fd/{number}").is_dir() else "file")
        sync(number)

    def moved(self: Path, target: Path) -> Path:
        order.append("move")
        return move(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    write_atomically(tmp_path / "file", b"x")
    assert order == ["file", "move", "directory"]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/bin/mount").exists(), reason="needs a place that is read-only")
def test_where_nothing_can_be_written_no_epoch_is_trained(run: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("everything can be written by this user")
    run.chmod(0o500)
    program = [sys.executable, "-m", "relgraph", "train", "--resume", str(run)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    run.chmod(0o700)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr
