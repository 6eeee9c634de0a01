"""Files are written whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relgraph.errors import RelgraphError
from relgraph.files import locked, new_folder, only_begun, read_json, replacing, write_atomically, write_json


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"another, longer", b""):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_an_interrupted_write_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(RelgraphError) as told:
        write_atomically(path, b"new")
    assert str(told.value) == f"cannot write {path}: No space left on device, what it held before is untouched"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RelgraphError, match=r"cannot write .*folder: Is a directory"), replacing(tmp_path / "folder"):
        raise AssertionError("the work was begun")


def test_a_lock_is_not_kept_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RelgraphError) as told:  # whose traceback holds the lock
        patch.setattr("tempfile.TemporaryFile", full)
        with locked(tmp_path):
            pass
    assert str(told.value) == f"cannot write {tmp_path}: No space left on device"
    with locked(tmp_path):
        pass


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), new_folder(path) as part:
        (part / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    path.mkdir()  # an empty one is taken
    with new_folder(path) as part:
        (part / "file").write_text("whole")
        assert list(path.iterdir()) == []
    assert (path / "file").read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RelgraphError, match="exists already: expected a new or an empty folder"), new_folder(path):
        pass
    with pytest.raises(RelgraphError, match=r"cannot write .*: No such file"), new_folder(tmp_path / "none" / "folder"):
        pass
    assert (path / "file").read_text() == "whole"


def test_json_is_read_as_it_was_written_whatever_its_keys(tmp_path: Path) -> None:
    contents: tuple[dict[Any, Any], ...] = (
        {9: 1.0, 10: [2]},
        {"a": {2: "x", 11: None, "b": 1}},
        {"b": 0.1, "a": (1, "é")},
    )
    for number, content in enumerate(contents):
        write_json(path := tmp_path / f"{number}.json", content)
        assert read_json(path) == json.loads(json.dumps(content))


KILLED = """
import os, signal, sys
from pathlib import Path
from relgraph.files import new_folder
with new_folder(Path(sys.argv[1])) as part:
    (part / "half").mkdir()
    (part / "half" / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_a_folder_that_the_next_one_removes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, run / "hub"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len([*run.glob(".hub.*.part/new/half/file")]) == 1 and only_begun(run)
    with locked(run):
        assert [entry.name for entry in run.iterdir()] == [".lock"]


def test_what_others_made_is_not_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "new").write_text("kept")
    for name in (".photos.part", ".photos.abcd1234.part"):  # another's: by its name, by what is in it
        (run / name).mkdir(parents=True)
        (run / name / "photo.jpg").touch()
    (run / ".link.abcd1234.part").symlink_to(elsewhere)
    (run / ".own.abcd1234.part" / "new").mkdir(parents=True)
    (run / ".own.abcd1234.part" / "new" / "link").symlink_to(elsewhere)
    assert not only_begun(run)
    with locked(run):
        assert {each.name for each in run.iterdir()} == {".lock", ".photos.part", ".photos.abcd1234.part"}
    assert len([*run.glob(".photos.*/photo.jpg")]) == 2 and (elsewhere / "new").read_text() == "kept"


def test_a_folder_that_cannot_be_removed_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".hub.abcd1234.part"
    (left / "new").mkdir(parents=True)

    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rmdir", refused)
    with pytest.raises(RelgraphError, match=rf"cannot write {left}: Permission denied"), locked(tmp_path):
        pass
